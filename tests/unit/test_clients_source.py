"""Reading agents' configuration files: every value has its place, and what is ambiguous is refused at its line."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guard.clients.jsonc import Jsonc
from guard.clients.source import Edit, Node, edited, place
from guard.clients.toml import Toml
from guard.errors import ConfigError

BROKEN_JSON = [
    ('{"a": 1, "a": 2}', 1, 10, "comes twice"),
    ('{"a": {"b": 1,\r\n"b": 2}}', 2, 1, "comes twice"),
    ('{"a" 1}', 1, 6, 'expected ":"'),
    ('{"a": 1\n "b": 2}', 2, 2, 'expected ","'),
    ("{/* x", 1, 2, "comment does not end"),
    ('{"a": "x', 1, 7, "string does not end"),
    ('{"a": "\t"}', 1, 7, "string does not end"),
    ('{"a": "\\ud800"}', 1, 7, "half of a character"),
    ('{"a": 01}', 1, 7, "expected a JSON value"),
    ('{"a": [1,,2]}', 1, 10, "expected a JSON value"),
    ("{'a': 1}", 1, 2, "expected a key in double quotes"),
    ('{"a": 1} x', 1, 10, "after the end"),
    ('{"a":', 1, 6, "ends too early"),
    ("", 1, 1, "ends too early"),
    ("[" * 100_000, 1, 66, "nested more than"),
]


@pytest.mark.parametrize(("text", "line", "column", "said"), BROKEN_JSON)
def test_broken_json_is_refused_at_its_place(text: str, line: int, column: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        Jsonc().read(text, "mcp.json")
    assert (refused.value.file, refused.value.line, refused.value.column) == ("mcp.json", line, column)


BROKEN_TOML = [
    ("a = ", 1, "Invalid value"),
    ("a = 1\r\na = 2\r\n", 2, "overwrite"),
    ("[x\n", 1, "Expected"),
    ("x = " + "[" * 5_000, 1, "nested|Invalid|written"),
]


@pytest.mark.parametrize(("text", "line", "said"), BROKEN_TOML)
def test_broken_toml_is_refused_at_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        Toml().read(text, "config.toml")
    assert (refused.value.file, refused.value.line) == ("config.toml", line)


def test_every_value_knows_its_own_characters() -> None:
    text = '\ufeff// first\r\n{"a" : [ 1 , "x\\n" /* , */ , ] , "b":{ "c": null,},}'
    root = Jsonc().read(text, "mcp.json")
    assert root.plain() == {"a": [1.0, "x\n"], "b": {"c": None}}
    nodes = [*root.members.values(), *root.members["a"].items]
    assert [text[node.start : node.end] for node in nodes] == [
        '[ 1 , "x\\n" /* , */ , ]',
        '{ "c": null,}',
        "1",
        '"x\\n"',
    ]
    assert text[root.members["b"].at :].startswith('"b"')


TOML = '''\ufeff# first
a.b."c d" = 1 # x\r
[servers.x]
command = 'npx'
args = [ "-y", # not "
  """multi
line""", '\\', ]
env = { A = "1", B.c = 2 }
when = 1979-05-27 07:32:00
[servers.x.deep]
k = nan
[[list]]
q = 1
[[list]]
[list.sub]
z = \'\'\'it''s\'\'\'\'\'
w = """a\\"b"c""\\
   d"""
'''


def test_toml_is_understood_as_the_standard_library_does() -> None:
    root = Toml().read(TOML, "config.toml")
    expected = tomllib.loads(TOML.removeprefix("\ufeff"))
    assert root.members["servers"].members["x"].members["args"].strings() == expected["servers"]["x"]["args"]
    assert root.members["list"].items[1].plain() == expected["list"][1]
    command = root.members["servers"].members["x"].members["command"]
    assert (TOML[command.start : command.end], command.own_line, command.prefix) == ("'npx'", True, "")
    dotted = root.members["a"].members["b"].members["c d"]
    assert dotted.prefix == "a.b."


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_plain_json_means_what_the_standard_library_says(value: object, ascii_only: bool, indent: int | str) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert Jsonc().read(text, "mcp.json").plain() == json.loads(text)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for language in (Jsonc(), Toml()):
        try:
            assert isinstance(language.read(text, "x"), Node)
        except ConfigError as refused:
            found = re.fullmatch(r"x:(\d+):(\d+): .+", refused.public, re.DOTALL)
            assert found


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=40))
def test_a_quoted_text_is_read_back_as_it_was(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert Jsonc().read(f"[{Jsonc().quote(text)}]", "x").strings() == [text]
    assert Toml().read(f"v = {Toml().quote(text)}", "x").members["v"].text == text


def test_edits_are_made_in_the_order_of_their_places() -> None:
    assert edited("abcdef", [Edit(4, 5, "E"), Edit(0, 1, "A"), Edit(2, 2, "-")]) == "Ab-cdEf"


@pytest.mark.parametrize(("at", "where"), [(0, (1, 1)), (3, (2, 1)), (5, (3, 1)), (6, (3, 2)), (7, (4, 1))])
def test_places_count_every_kind_of_line_end(at: int, where: tuple[int, int]) -> None:
    assert place("a\r\nb\rc\nd", at) == where

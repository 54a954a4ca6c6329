"""One text, one digest, one URI for one thing."""

from __future__ import annotations

import json
import string
from types import MappingProxyType

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import WireError
from guard.model import Json
from guard.reasons import Code
from guard.wire.canonical import call_digest, canonical, canonical_uri, definition_digest, digest
from guard.wire.strict import read

SAFE = 2**53 - 1

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-SAFE, SAFE)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda f: f == 0 or abs(f) > 1e-300)
    | text
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=20
)


@given(values)
def test_the_canonical_text_is_rfc_8785(value: Json) -> None:
    assert canonical(value) == rfc8785.dumps(value).decode()


@given(st.dictionaries(st.text(string.ascii_lowercase, max_size=4), values, max_size=4))
def test_key_order_escapes_and_spacing_do_not_change_the_text(value: dict[str, Json]) -> None:
    backwards = dict(reversed(value.items()))
    spellings = [json.dumps(value), json.dumps(backwards, ensure_ascii=False), json.dumps(value, indent=3)]
    assert len({canonical(json.loads(spelling)) for spelling in spellings}) == 1


@pytest.mark.parametrize("spelling", ["1", "1.0", "1e0", "10E-1", "100e-2"])
def test_spellings_of_a_number_have_one_text(spelling: str) -> None:
    assert canonical(read(f'{{"n":[{spelling}]}}'.encode())) == '{"n":[1]}'
    assert canonical({"n": [float(spelling)]}) == '{"n":[1]}'


def test_minus_zero_is_zero() -> None:
    assert canonical(-0.0) == canonical(read(b"-0.0")) == canonical(0) == "0"


@given(st.integers(-(10**300), 10**300))
def test_exact_integers_keep_every_digit(number: int) -> None:
    assert canonical({"n": number}) == f'{{"n":{number}}}'
    assert canonical({"n": number, "é": 0.5}) == f'{{"n":{number},"é":0.5}}'


def test_keys_sort_by_utf16_units() -> None:
    assert canonical({"\ufb33": 1, "\U0001f600": 2, "a": 3}) == '{"a":3,"\U0001f600":2,"\ufb33":1}'


def test_any_mapping_and_sequence_has_a_text() -> None:
    assert canonical(MappingProxyType({"b": (1, 2.5), "a": MappingProxyType({})})) == '{"a":{},"b":[1,2.5]}'


@pytest.mark.parametrize(
    ("value", "reason"), [(float("nan"), Code.NUMBER), ([float("inf")], Code.NUMBER), ({"a": "\ud800"}, Code.ENCODING)]
)
def test_what_has_no_json_text_is_refused(value: Json, reason: Code) -> None:
    with pytest.raises(WireError) as caught:
        canonical(value)
    assert caught.value.reason is reason


def test_depth_is_refused_and_never_overflows() -> None:
    value: Json = 0
    for _ in range(100_000):
        value = [value]
    with pytest.raises(WireError) as caught:
        canonical(value)
    assert caught.value.reason is Code.TOO_LARGE


def test_digests_are_sha256_of_utf8() -> None:
    assert digest("é") == digest("é".encode()) == "4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c"


@given(st.lists(text, min_size=6, max_size=6), st.integers(0, 5), text)
def test_a_call_digest_changes_with_whatever_it_binds(parts: list[str], at: int, other: str) -> None:
    def made(p: list[str]) -> str:
        return call_digest(principal=p[0], server=p[1], kind=p[2], name=p[3], definition=p[4], canonical_arguments=p[5])

    changed = [*parts[:at], other, *parts[at + 1 :]]
    assert (made(parts) == made(changed)) is (parts == changed)


def test_a_definition_digest_takes_any_definition_a_server_sends() -> None:
    tool: dict[str, Json] = {"name": "x", "description": "a", "inputSchema": {"b": 1, "a": 2}}
    same: dict[str, Json] = {"inputSchema": {"a": 2, "b": 1}, "description": "a", "name": "x"}
    assert definition_digest(tool) == definition_digest(same)
    assert definition_digest(tool) != definition_digest({**tool, "description": "a "})
    assert definition_digest(json.loads('{"name":"x","d":NaN,"e":"\\ud800"}'))


# ------------------------------------------------------------------ resource identifiers


@pytest.mark.parametrize(
    ("spelling", "plain"),
    [
        ("secret://prod/%64b", "secret://prod/db"),
        ("SECRET://Prod/db", "secret://prod/db"),
        ("secret://prod/./x/../db", "secret://prod/db"),
        ("secret://prod/x/%2e%2E/db", "secret://prod/db"),
        ("secret://prod/x/%2e./db", "secret://prod/db"),
        ("secret://prod/caf%c3%a9", "secret://prod/caf%C3%A9"),
        ("secret://prod/café", "secret://prod/caf%C3%A9"),
        ("file:///a/b/..", "file:///a/"),
        ("file:///a/b/.", "file:///a/b/"),
        ("urn:example:%61nimal", "urn:example:animal"),
        ("db://User@Host:5432/a?b=%63#%64", "db://User@host:5432/a?b=c#d"),
        ("secret://{env}/{name}", "secret://{env}/{name}"),
        ("https://[2001:DB8::1]/x", "https://[2001:db8::1]/x"),
        ('x:a"b|c', "x:a%22b%7Cc"),
    ],
)
def test_spellings_of_a_uri_become_one(spelling: str, plain: str) -> None:
    assert canonical_uri(spelling) == plain == canonical_uri(plain)


@pytest.mark.parametrize(
    "uri",
    [
        "secret://dev/..%2fprod%2fdb",
        "secret://dev/%5c..%5cprod",
        "secret://dev/%252e%252e/prod",
        "secret://prod/../prod/db",
        "file:///../etc/passwd",
        "x:../y",
        "x:/a/..//host/y",
        "secret://prod/db%00",
        "secret://prod/db%0a",
        "secret://prod/d\nb",
        "secret://prod/d b",
        "secret://prod\\db",
        " secret://prod/db",
        "secret://prod/db\u2028",
        "secret://prod/%6",
        "secret://prod/%",
        "secret://prod/%zz",
        "prod/db",
        "//prod/db",
        "",
        "secret%3a//prod/db",
    ],
)
def test_a_uri_that_readers_may_resolve_differently_is_refused(uri: str) -> None:
    with pytest.raises(WireError) as caught:
        canonical_uri(uri)
    assert caught.value.reason is Code.AMBIGUOUS


@given(st.text(st.sampled_from("aB:/.%24eEfF5c?#@{}é "), max_size=24).map("S:".__add__))
def test_the_canonical_uri_is_ascii_and_canonical_itself(uri: str) -> None:
    try:
        once = canonical_uri(uri)
    except WireError:
        return
    assert once.isascii()
    assert canonical_uri(once) == once


@given(st.text(string.ascii_letters + "/.-_", max_size=12), st.integers(0, 11))
def test_escaping_an_unreserved_character_changes_nothing(path: str, at: int) -> None:
    escaped = path[:at] + "".join(c if c == "/" else f"%{ord(c):02x}" for c in path[at : at + 1]) + path[at + 1 :]
    outcomes = []
    for candidate in (path, escaped):
        try:
            outcomes.append(canonical_uri(f"secret://prod/{candidate}"))
        except WireError as error:
            outcomes.append(error.reason)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("padding", ["a" * 8192, "é" * 1400])
def test_a_uri_is_bounded_as_patterns_see_it(padding: str) -> None:
    with pytest.raises(WireError) as caught:
        canonical_uri("x:" + padding)
    assert caught.value.reason is Code.TOO_LARGE

"""What a policy file may hold, and how its mistakes read."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from guard.config import load
from guard.lab.check import check
from guard.model import Demand, Further, Sensitivity
from guard.policy import keys
from guard.policy.classify import PolicySet, classify
from guard.policy.document import Policy
from guard.policy.reading import read
from guard.policy.schema import schema
from guard.policy.tree import MAX_BYTES
from tests import nouns

ROOT = Path(__file__).parents[2]


def good(text: str) -> Policy:
    policy, mistakes = read(text.encode(), "vault.yaml")
    assert mistakes == ()
    assert policy is not None
    return policy


def bad(text: str) -> list[str]:
    policy, mistakes = read(text.encode(), "vault.yaml")
    assert policy is None
    assert mistakes
    for mistake in mistakes:
        assert mistake.place.file == "vault.yaml"
        assert mistake.place.line >= 1
        assert mistake.place.column >= 1
        assert str(mistake).startswith(f"vault.yaml:{mistake.place.line}:{mistake.place.column}: ")
    return [str(mistake) for mistake in mistakes]


def test_a_whole_file_is_read_as_its_owner_meant_it() -> None:
    policy = good("""
server: vault
owner: platform-security
approvers: oncall
match: strictest
default: {sensitivity: internal, effects: read}
windows:
  business: {days: mon-fri, hours: "08:00-18:00", zone: Europe/Berlin}
tools:
  vault.delete:
    sensitivity: critical
    effects: [destroy]
    require: [possession, two_people]
    approvers: secrets
    log: [path]
    reason: gone for good
    rules:
      - {when: '!windows.business', require: consent, reason: nobody is there}
      - {sensitivity: sensitive}
  "db.*": {}
resources: {"secret://**": {sensitivity: critical}}
prompts: {rotate_keys: {require: both}}
""")
    delete, db = policy.entries["tool"]
    assert delete.sensitivity is Sensitivity.CRITICAL
    assert delete.demands == {Demand.POSSESSION, Demand.TWO_PEOPLE}
    assert delete.approvers == "secrets"
    assert delete.log == {"path"}
    assert delete.rules[0].name == "vault.yaml#tools.vault.delete.rules[0]"
    assert delete.rules[1].when is None
    assert db.sensitivity is Sensitivity.INTERNAL
    assert db.approvers == "oncall"
    assert policy.default.demands == {Demand.STEP_UP}
    assert policy.entries["prompt"][0].demands == {Demand.POSSESSION, Demand.CONSENT}


@pytest.mark.parametrize(
    "scalar",
    [
        *("no", "yes", "on", "off", "y", "n", "Y", "NO", "On", "~", "null"),
        *("Null", "True", "FALSE", "017", "0x1F", "0o17", "0b1", "1_000", "12:30:45", "22:30", ".inf"),
        *("-.INF", ".nan", "1e5", "+1", ".5", "5.", "2026-01-01", "2026-01-01T00:00:00Z", "=", "1,000", "09"),
    ],
)
def test_a_scalar_that_readers_disagree_on_must_be_quoted(scalar: str) -> None:
    (line,) = bad(f"server: vault\nowner: {scalar}\n")
    assert line.startswith("vault.yaml:2:8: ")
    assert f'quote it: "{scalar}"' in line
    assert good(f'server: vault\nowner: "{scalar}"\n').owner == scalar


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("server: vault\ntools:\n  a: {sensitvity: critical}\n", "3:7", 'did you mean "sensitivity"?'),
        ("server: vault\ntools:\n  a: {sensitivity: Critical}\n", "3:20", 'did you mean "critical"?'),
        ("server: vault\ntools:\n  a: {sensitivity: 'critical '}\n", "3:20", 'did you mean "critical"?'),
        ("server: vault\ntools:\n  a: {effects: [destory]}\n", "3:17", 'did you mean "destroy"?'),
        ("server: vault\ntools:\n  a: {require: two-people}\n", "3:16", 'did you mean "two_people"?'),
        ("server: vault\ntools:\n  a: {}\n  a: {}\n", "4:3", "already given in line 3"),
        ("server: vault\non: push\n", "2:1", "quote it"),
        ("server: vault\ntools: {a: &x {}, b: *x}\n", "2:12", "anchors"),
        ("server: vault\ntools: {a: {<<: {sensitivity: public}}}\n", "2:13", "quote it"),
        ("server: !!str vault\n", "1:9", "tags"),
        ("server: vault\n---\nserver: other\n", "2:1", "second document"),
        ("%YAML 1.1\n---\nserver: vault\n", "1:1", "directives"),
        ("server: [\n", "2:1", "not YAML"),
        ("- server\n", "1:1", "is a mapping"),
        ("tools: {}\n", "1:1", "which server"),
        ("server: vault\ntools:\n", "2:7", "the value is missing"),
        ("server: vault\ntools: {'re:(a+)+$': {sensitivity: public}}\n", "2:9", "regular expressions are not read"),
        ("server: vault\ntools: {v\u0430ult.read: {}}\n", "2:9", "U+0430"),
        ('server: vault\ntools: {"a\\u200bb": {}}\n', "2:9", "U+200B"),
        ("server: vault\ntools: {a: {review: maybe}}\n", "2:21", "true or false"),
        ("server: vault\ntools: {a: {rules: {when: x}}}\n", "2:20", "rules is a list"),
        ("server: vault\ntools: {a: {rules: [{reason: none}]}}\n", "2:21", "changes nothing"),
        ("server: vault\ntools: {a: {rules: [{when: true, require: consent}]}}\n", "2:28", "when is a condition"),
        ("server: vault\nresources: {'SECRET://prod/%64b': {}}\n", "2:13", 'write "secret://prod/db"'),
        ("server: vault\nresources: {'prod/db': {}}\n", "2:13", "no scheme"),
        ("server: vault\nwindows: {w: {days: mon-fri}}\n", "2:14", "no zone"),
        ("server: vault\nwindows: {w: {zone: Berlin/Europe}}\n", "2:21", "time zone is not known"),
        ("server: vault\nwindows: {w: {zone: ../../etc/passwd}}\n", "2:21", "time zone is not known"),
        ("server: vault\nwindows: {w: {zone: UTC, days: monday}}\n", "2:32", "days are written like"),
        ("server: vault\nwindows: {w: {zone: UTC, hours: 8-18}}\n", "2:33", "hours are written like"),
        ('server: vault\nwindows: {w: {zone: UTC, dates: "2026-02-30"}}\n', "2:33", "dates are written like"),
        ("server: a b\n", "1:9", "letters, digits"),
        ('server: ""\n', "1:9", "letters, digits"),
        ('server: vault\napprovers: ""\n', "2:12", "letters, digits"),
    ],
)  # fmt: skip
def test_a_mistake_says_where_it_is_and_what_to_write(text: str, place: str, says: str) -> None:
    assert any(line.startswith(f"vault.yaml:{place}: ") and says in line for line in bad(text)), bad(text)


def test_every_mistake_of_a_file_is_reported_at_once() -> None:
    lines = bad(
        "server: vault\nowner: no\ntools:\n  a: {sensitivity: high}\n  b: {effect: read}\n  c: {require: mfa}\n"
    )
    assert [line.split(":")[1] for line in lines] == ["2", "4", "5", "6"]


def test_an_alias_bomb_is_refused_where_it_starts() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "anchors" in bad("\n".join([*rows, "server: vault"]))[0]


def test_a_file_that_is_too_large_too_deep_or_not_text_is_refused() -> None:
    assert "bytes" in bad("server: vault #" + "x" * MAX_BYTES)[0]
    assert "nested" in bad("[" * 5000)[0]
    for raw in (b"\xff\xfe", b"server: va\x00lt", b"\xef\xbb\xbfserver: vault", b"", b"# nothing\n"):
        policy, mistakes = read(raw, "vault.yaml")
        assert policy is None
        assert mistakes


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300) | st.text("server: vault\n{}[]&*!-'\"#~|>%\u2028é0x", max_size=120).map(str.encode))
def test_no_bytes_make_the_reader_raise(raw: bytes) -> None:
    policy, mistakes = read(raw, "vault.yaml")
    assert (policy is None) == bool(mistakes)


def test_the_published_schema_is_the_one_the_code_makes() -> None:
    published = json.loads((ROOT / "guard/policy/tool-policy.schema.json").read_text())
    assert published == schema(), "run: guard policy schema > guard/policy/tool-policy.schema.json"
    Draft202012Validator.check_schema(published)


@pytest.mark.parametrize("name", ["git.yaml", "filesystem.yaml"])
def test_the_policies_that_come_with_the_guard_satisfy_reader_and_schema(name: str) -> None:
    raw = (ROOT / "tool_policies" / name).read_bytes()
    assert read(raw, name)[1] == ()
    Draft202012Validator(schema()).validate(yaml.safe_load(raw))


EXAMPLE = ROOT / "examples/policy/tool_policies/cloud.yaml"


def test_the_annotated_example_uses_every_key_and_satisfies_reader_and_schema() -> None:
    raw = EXAMPLE.read_bytes()
    assert read(raw, "cloud.yaml")[1] == ()
    data = yaml.safe_load(raw)
    Draft202012Validator(schema()).validate(data)
    used: set[str] = set()
    nodes: list[object] = [data]
    for node in nodes:
        used.update(node if isinstance(node, dict) else ())
        nodes.extend(node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
    every = (value for name, value in vars(keys).items() if name.endswith("_KEYS"))
    assert used >= {key for one in every for key in one}


def test_the_annotated_example_passes_the_check_but_for_the_tag_it_marks() -> None:
    report = check(EXAMPLE.parent, load(ROOT / "examples/policy/guard.toml"))
    assert report.mistakes == ()
    assert ["nobody has looked at this tag yet" in one.message for one in report.warnings] == [True]


def test_the_git_policy_names_every_tool_of_the_git_server() -> None:
    spec = importlib.util.find_spec("mcp_server_git")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name("server.py").read_text()
    policy, _ = read((ROOT / "tool_policies/git.yaml").read_bytes(), "git.yaml")
    assert policy is not None
    offered = set(re.findall(r'^    [A-Z_]+ = "(git_\w+)"', source, re.MULTILINE))
    assert {entry.pattern for entry in policy.entries["tool"]} == offered


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    validator = Draft202012Validator(schema())
    for wrong in (
        {},
        {"server": "vault", "tools": {"a": {"sensitvity": "critical"}}},
        {"server": "vault", "tools": {"a": {"sensitivity": "Critical"}}},
        {"server": "vault", "tools": {"a": {"rules": [{"when": "true"}]}}},
        {"server": "vault", "windows": {"w": {}}},
    ):
        assert not validator.is_valid(wrong)


# ------------------------------------------------------------------ further calls


def further(said: str) -> Further | list[str]:
    policy, mistakes = read(f"server: x\ntools:\n  t: {{grants: {said}}}\n".encode(), "x.yaml")
    return policy.entries["tool"][0].further if policy else [str(one) for one in mistakes]


def test_grants_say_how_many_further_calls_a_person_may_allow_and_for_how_long() -> None:
    assert further("{uses: 10, minutes: 60}") == Further(10, 3600)
    policy, _ = read(b"server: x\ntools:\n  t: {}\n", "x.yaml")
    assert policy is not None
    assert not policy.entries["tool"][0].further
    assert not policy.default.further


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("{}", "how often and how long"),
        ("{uses: 1}", "how often and how long"),
        ("{minutes: 1}", "how often and how long"),
        ("{uses: 0, minutes: 1}", "uses is a whole number from 1 to 100"),
        ("{uses: 101, minutes: 1}", "uses is a whole number from 1 to 100"),
        ("{uses: 1, minutes: 1441}", "minutes is a whole number from 1 to 1440"),
        ("{uses: true, minutes: 1}", "uses is a whole number"),
        ("{uses: 1, minutes: 1, when: x}", "unknown key"),
        ("always", "is a mapping"),
    ],
)
def test_a_mistake_in_grants_is_said_and_no_policy_comes_of_it(said: str, why: str) -> None:
    mistakes = further(said)
    assert isinstance(mistakes, list)
    assert any(why in one for one in mistakes), mistakes
    assert not Draft202012Validator(schema()).is_valid({"server": "x", "tools": {"t": {"grants": {"uses": 0}}}})


def test_two_entries_that_name_a_call_allow_what_both_allow() -> None:
    text = "server: x\ntools:\n  'a*': {grants: {uses: 9, minutes: 5}}\n  '*b': {grants: {uses: 3, minutes: 60}}\n"
    policy, _ = read(text.encode(), "x.yaml")
    assert policy is not None
    found = classify(PolicySet({"x": policy}, "r"), replace(nouns.call("ab"), server="x"), now=0)
    assert found.further == Further(3, 300)


# ------------------------------------------------------------------ the long form of require


def long_form(require: str, more: str = "") -> tuple[object, list[str]]:
    text = f"server: x\n{more}tools:\n  t:\n    sensitivity: critical\n    require: {require}\n"
    policy, mistakes = read(text.encode(), "x.yaml")
    return (policy.entries["tool"][0] if policy else None), [str(one) for one in mistakes]


def test_the_long_form_says_who_with_what_and_how_fresh() -> None:
    entry, mistakes = long_form(
        "{consent: {people: 2, group: oncall, kinds: [webauthn], max_age: 10m}, possession: {attestation: 2}}"
    )
    assert not mistakes
    assert entry.demands == {Demand.TWO_PEOPLE, Demand.POSSESSION}
    assert sorted(one.label for one in entry.quorums) == [
        "consent of 2 people of group oncall, by webauthn, at most 600 s old",
        "possession, of attestation 2 or more",
    ]


def test_the_long_form_without_more_than_the_word_is_the_word() -> None:
    entry, _ = long_form("{consent: {}, possession: {}}")
    assert (entry.demands, entry.quorums) == ({Demand.CONSENT, Demand.POSSESSION}, frozenset())


def test_several_groups_are_a_list() -> None:
    entry, _ = long_form("{consent: [{group: oncall}, {group: audit}]}")
    assert {one.group for one in entry.quorums} == {"oncall", "audit"}


def test_authors_are_barred_from_every_entry() -> None:
    text = "server: x\nauthors: [olga, Otto]\ntools:\n  t: {sensitivity: critical}\n"
    policy, _ = read(text.encode(), "x.yaml")
    assert policy is not None
    assert policy.authors == {"olga", "Otto"}


@pytest.mark.parametrize(
    ("require", "said"),
    [
        ("{}", "the requirement is empty"),
        ("{consent: {people: 0}}", "people is a whole number from 1 to 9"),
        ("{consent: {people: 10}}", "people is a whole number from 1 to 9"),
        ("{consent: {people: true}}", "people is a whole number"),
        ("{consent: {kinds: [passkey]}}", "kind of proof"),
        ("{consent: {attestation: 3}}", "attestation is a whole number from 0 to 2"),
        ("{consent: {max_age: soon}}", "max_age is a number and a unit"),
        ("{consent: {who: ann}}", "unknown key"),
        ("{possession: {people: 2}}", "unknown key"),
        ("{possession: {kinds: totp}}", "kind of proof"),
        ("{permit: {}}", "unknown key"),
        ("{consent: consent}", "is a mapping"),
    ],
)
def test_a_mistake_in_the_long_form_is_placed_and_said(require: str, said: str) -> None:
    entry, mistakes = long_form(require)
    assert entry is None
    assert any(said in one and one.startswith("x.yaml:5:") for one in mistakes), mistakes

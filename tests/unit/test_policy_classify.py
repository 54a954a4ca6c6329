"""What tags say about a call, and that adding to them never lowers what is required."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.config import IRREVERSIBLE
from guard.model import Call, Classification, Demand, Json, Principal, Requirement, Sensitivity, Source
from guard.policy.classify import PolicySet, classify
from guard.policy.conditions import compile_condition
from guard.policy.document import Match, Rule
from guard.policy.patterns import glob
from guard.policy.reading import read
from guard.policy.tree import Place
from guard.policy.vocabulary import EFFECTS
from guard.reasons import Code
from guard.requirement import required

NOW = 1_795_000_000.0


def policies(text: str) -> PolicySet:
    policy, mistakes = read(text.encode(), "vault.yaml")
    assert not mistakes
    assert policy is not None
    return PolicySet(MappingProxyType({policy.server: policy}), "r1")


def call(name: str, arguments: dict[str, Json] | None = None, *, kind: str = "tool", server: str = "vault") -> Call:
    return Call(
        id="k_1", principal=Principal(subject="robot", credential="c"), source=Source(transport="http"), server=server,
        method="tools/call", kind=kind, name=name, arguments=arguments or {}, canonical="", definition="", digest="",
        received=NOW,
    )  # fmt: skip


def codes(found: Classification) -> list[Code]:
    return [reason.code for reason in found.reasons]


PAYMENTS = """
server: vault
owner: payments-team
approvers: payments-oncall
default: {sensitivity: internal}
tools:
  list_invoices: {sensitivity: internal, effects: read, log: region}
  refund:
    sensitivity: critical
    effects: [move_money]
    rules:
      - {when: 'args.environment == "staging"', sensitivity: internal, reason: staging skips step-up}
      - {when: 'args.amount > 10000', require: two_people, reason: large refund}
  "delete_*": {sensitivity: critical}
  "delete_draft_*": {sensitivity: internal}
  delete_draft_all: {sensitivity: sensitive}
resources: {"ledger://**": {sensitivity: sensitive}, "ledger://public/*": {sensitivity: public}}
prompts: {"report_?": {sensitivity: public}}
"""


def test_an_exact_name_gives_the_owners_tag() -> None:
    found = classify(policies(PAYMENTS), call("list_invoices"), now=NOW)
    assert found.sensitivity is Sensitivity.INTERNAL
    assert found.effects == {"read"}
    assert found.approvers == "payments-oncall"
    assert found.rule == "vault.yaml#tools.list_invoices"
    assert found.where == "vault.yaml:7"
    assert found.log == {"region"}
    assert found.revision == "r1"
    assert not found.demands
    assert codes(found) == [Code.TAG_INTERNAL]


@pytest.mark.parametrize(
    ("name", "sensitivity"),
    [
        ("delete_invoice", Sensitivity.CRITICAL),
        ("delete_draft_7", Sensitivity.INTERNAL),
        ("delete_draft_all", Sensitivity.SENSITIVE),
    ],
)
def test_the_most_specific_entry_names_the_tool(name: str, sensitivity: Sensitivity) -> None:
    assert classify(policies(PAYMENTS), call(name), now=NOW).sensitivity is sensitivity


@pytest.mark.parametrize(
    "name",
    ["Refund", "refund ", "refund\n", "\uff52\uff45fund", "refun\u0501", "refund\u200b", "vault.refund", "", "delete",
     "DELETE_x", "delete_\n", "delete_\u00e9"],
)  # fmt: skip
def test_a_name_that_only_looks_tagged_is_untagged(name: str) -> None:
    found = classify(policies(PAYMENTS), call(name), now=NOW)
    assert not found.tagged
    assert found.sensitivity is Sensitivity.INTERNAL
    assert found.demands == {Demand.STEP_UP}
    assert codes(found) == [Code.UNTAGGED]


def test_without_a_policy_or_a_default_everything_needs_a_step_up() -> None:
    for known, server, code in (
        (policies("server: vault\n"), "vault", Code.UNTAGGED),
        (policies("server: vault\n"), "other", Code.NO_POLICY),
        (PolicySet(), "vault", Code.NO_POLICY),
    ):
        found = classify(known, call("anything", server=server), now=NOW)
        assert (found.sensitivity, found.tagged) == (Sensitivity.SENSITIVE, False)
        assert found.demands == {Demand.STEP_UP}
        assert codes(found) == [code]


def test_a_rule_may_lower_the_sensitivity_but_no_requirement() -> None:
    known = policies(PAYMENTS)
    staging = classify(known, call("refund", {"environment": "staging", "amount": 5}), now=NOW)
    assert staging.sensitivity is Sensitivity.INTERNAL
    assert staging.rule == "vault.yaml#tools.refund.rules[0]"
    assert staging.where == "vault.yaml:12"
    assert "staging skips step-up" in str(staging.reasons[-1])
    large = classify(known, call("refund", {"environment": "staging", "amount": 10001.0}), now=NOW)
    assert large.sensitivity is Sensitivity.INTERNAL
    assert large.demands == {Demand.TWO_PEOPLE}


def test_a_rule_that_cannot_be_evaluated_takes_its_stricter_branch() -> None:
    found = classify(policies(PAYMENTS), call("refund", {}), now=NOW)
    assert found.sensitivity is Sensitivity.CRITICAL
    assert found.demands == {Demand.TWO_PEOPLE}
    assert codes(found) == [Code.TAG_CRITICAL, Code.RULE_FAILED, Code.RULE_FAILED]
    raising = policies(
        "server: vault\ntools: {a: {sensitivity: public, rules: [{when: args.x > 1, sensitivity: critical}]}}\n"
    )
    assert classify(raising, call("a"), now=NOW).sensitivity is Sensitivity.CRITICAL
    assert classify(raising, call("a", {"x": 1}), now=NOW).sensitivity is Sensitivity.PUBLIC


def test_the_first_rule_that_holds_decides_unless_the_file_says_strictest() -> None:
    text = "server: vault\nmatch: {m}\ntools: {{a: {{rules: [{{sensitivity: public}}, {{sensitivity: critical}}]}}}}\n"
    first, strictest = (classify(policies(text.format(m=m)), call("a"), now=NOW) for m in ("first", "strictest"))
    assert (first.sensitivity, first.rule) == (Sensitivity.PUBLIC, "vault.yaml#tools.a.rules[0]")
    assert (strictest.sensitivity, strictest.rule) == (Sensitivity.CRITICAL, "vault.yaml#tools.a.rules[1]")


def test_globs_that_tie_are_joined() -> None:
    text = (
        "server: vault\ntools:\n  'a*': {sensitivity: public, require: possession}\n  '*b': {sensitivity: critical}\n"
    )
    found = classify(policies(text), call("ab"), now=NOW)
    assert found.sensitivity is Sensitivity.CRITICAL
    assert found.demands == {Demand.POSSESSION}


@pytest.mark.parametrize(
    ("uri", "sensitivity", "tagged"),
    [
        ("ledger://2026/a/b", Sensitivity.SENSITIVE, True),
        ("ledger://public/x", Sensitivity.PUBLIC, True),
        ("ledger://public/x/y", Sensitivity.SENSITIVE, True),
        ("other://x", Sensitivity.INTERNAL, False),
    ],
)
def test_resources_are_matched_by_segments_of_their_uri(uri: str, sensitivity: Sensitivity, tagged: bool) -> None:
    found = classify(policies(PAYMENTS), call(uri, kind="resource"), now=NOW)
    assert (found.sensitivity, found.tagged) == (sensitivity, tagged)


def test_prompts_are_tagged_apart_from_tools() -> None:
    known = policies(PAYMENTS)
    assert classify(known, call("report_1", kind="prompt"), now=NOW).sensitivity is Sensitivity.PUBLIC
    assert not classify(known, call("report_1"), now=NOW).tagged
    assert not classify(known, call("refund", kind="prompt"), now=NOW).tagged


def test_protocol_calls_pass_whatever_the_policy() -> None:
    found = classify(PolicySet(), call("ping", kind="protocol"), now=NOW)
    assert (found.sensitivity, found.demands, codes(found)) == (Sensitivity.PUBLIC, frozenset(), [Code.PROTOCOL])


def test_a_changed_definition_raises_one_step_and_wants_consent() -> None:
    found = classify(policies(PAYMENTS), call("list_invoices"), now=NOW, definition_changed=True)
    assert found.sensitivity is Sensitivity.SENSITIVE
    assert found.demands == {Demand.CONSENT}
    assert codes(found)[-1] is Code.DEFINITION_CHANGED


def test_a_servers_own_hint_counts_for_untagged_tools_only_and_upwards() -> None:
    known = policies(PAYMENTS)
    assert classify(known, call("list_invoices"), now=NOW, hint_destructive=True) == classify(
        known, call("list_invoices"), now=NOW
    )
    found = classify(known, call("wipe"), now=NOW, hint_destructive=True)
    assert found.sensitivity is Sensitivity.CRITICAL
    assert codes(found) == [Code.UNTAGGED, Code.HINT_DESTRUCTIVE]


def test_many_different_names_do_not_grow_the_memory_without_bound() -> None:
    known = policies(PAYMENTS)
    for number in range(10_000):
        classify(known, call(f"n{number}"), now=NOW)
    assert len(known._memory) <= 4096


# ------------------------------------------------------------------ monotone

files = st.tuples(st.sampled_from(Sensitivity), st.sampled_from(Match))
names = st.text("abAB*?/.", min_size=1, max_size=8)
demands = st.frozensets(st.sampled_from(Demand), max_size=2)
effects = st.frozensets(st.sampled_from(sorted(EFFECTS)), max_size=2)
whens = st.sampled_from(
    [None, *map(compile_condition, ("args.x > 1", "args.y == 'a'", "has(args.x)", "true", "args.z"))]
)
arguments = st.fixed_dictionaries(
    {}, optional={"x": st.integers(0, 3), "y": st.sampled_from(["a", 1]), "z": st.booleans()}
)
PLACE = Place("vault.yaml", 1, 1)
rules = st.builds(
    Rule, name=st.just("r"), place=st.just(PLACE), when=whens, sensitivity=st.none() | st.sampled_from(Sensitivity),
    demands=demands, effects=effects,
)  # fmt: skip


def _asked(found: Classification) -> Requirement:
    return required(found, (), irreversible=frozenset(IRREVERSIBLE))[0]


def _raises(before: Classification, after: Classification) -> bool:
    """Whether nothing fell: sensitivity, demands, effects and what has to be proven."""
    left, right = _asked(before), _asked(after)
    return (
        after.sensitivity >= before.sensitivity
        and after.demands >= before.demands
        and after.effects >= before.effects
        and right.demands >= left.demands
        and (right.strict or not left.strict)
    )


def _with(known: PolicySet, kept: tuple[Rule, ...], **more: frozenset[Demand] | frozenset[str]) -> PolicySet:
    policy = known.policies["vault"]
    (entry,) = policy.entries["tool"]
    entry = replace(entry, rules=kept, **more)  # type: ignore[arg-type]  # names are given by the one caller
    changed = replace(policy, entries=MappingProxyType({"tool": (entry,)}))
    return PolicySet(MappingProxyType({"vault": changed}), "r1")


@settings(max_examples=120, deadline=None)
@given(
    st.lists(rules, max_size=3),
    rules,
    st.integers(0, 3),
    arguments,
    files,
)
def test_adding_a_requirement_an_effect_or_a_doubt_never_lowers(
    kept: list[Rule], extra: Rule, at: int, given_: dict[str, Json], file: tuple[Sensitivity, Match]
) -> None:
    base, match = file
    start = policies(f"server: vault\nmatch: {match}\ntools: {{t: {{sensitivity: {base.label}}}}}\n")
    asked = call("t", given_)
    before = classify(_with(start, tuple(kept)), asked, now=NOW)
    added = [replace(extra, sensitivity=None)]
    if match is Match.STRICTEST and extra.sensitivity is not None and extra.sensitivity >= base:
        added.append(extra)
    for rule in added:
        assert _raises(before, classify(_with(start, (*kept[:at], rule, *kept[at:])), asked, now=NOW))
    tagged = _with(start, tuple(kept), demands=extra.demands, effects=extra.effects)
    assert _raises(before, classify(tagged, asked, now=NOW))
    assert _raises(before, classify(_with(start, tuple(kept)), asked, now=NOW, definition_changed=True))
    assert _raises(before, classify(_with(start, tuple(kept)), asked, now=NOW, hint_destructive=True))


@settings(max_examples=100, deadline=None)
@given(st.lists(rules, max_size=3), rules, arguments, st.sampled_from(Sensitivity), st.sampled_from(Match))
def test_a_rule_nobody_can_evaluate_is_as_strict_as_both_of_its_branches(
    kept: list[Rule], extra: Rule, given_: dict[str, Json], base: Sensitivity, match: Match
) -> None:
    start = policies(f"server: vault\nmatch: {match}\ntools: {{t: {{sensitivity: {base.label}}}}}\n")
    asked = call("t", given_)
    broken = replace(extra, when=compile_condition("args.never.there"))
    unsure = classify(_with(start, (broken, *kept)), asked, now=NOW)
    for branch in ((replace(extra, when=None), *kept), tuple(kept)):
        sure = classify(_with(start, branch), asked, now=NOW)
        assert unsure.demands >= sure.demands
        assert unsure.effects >= sure.effects
        if branch == tuple(kept) or match is Match.FIRST:
            assert unsure.sensitivity >= sure.sensitivity


@settings(max_examples=200, deadline=None)
@given(names, st.text("abAB/.", max_size=10), st.sampled_from(["tool", "resource"]))
def test_globs_match_as_their_definition_says(pattern: str, name: str, kind: str) -> None:
    def reference(pieces: str, text: str) -> bool:
        if not pieces:
            return not text
        if pieces.startswith("**") or (pieces[0] == "*" and kind == "tool"):
            rest = pieces.lstrip("*") if kind == "tool" or pieces.startswith("**") else pieces[1:]
            return any(reference(rest, text[cut:]) for cut in range(len(text) + 1))
        if pieces[0] == "*":
            return any(reference(pieces[1:], text[n:]) for n in range(len(text) + 1) if "/" not in text[:n])
        if pieces[0] == "?" and kind == "tool":
            return bool(text) and reference(pieces[1:], text[1:])
        return bool(text) and text[0] == pieces[0] and reference(pieces[1:], text[1:])

    assert glob(pattern, kind).matches(name) is reference(pattern, name)


def test_a_glob_full_of_stars_costs_one_step_a_character() -> None:
    pattern = glob("a*" * 127 + "b", "tool")
    assert not pattern.matches("a" * 8000)
    assert pattern.matches("a" * 8000 + "b")


@pytest.mark.parametrize("order", [("drop_*", "*_prod"), ("*_prod", "drop_*")])
def test_globs_that_tie_each_ask_their_own_people(order: tuple[str, str]) -> None:
    said = {
        "drop_*": "{sensitivity: internal, require: consent, approvers: dba}",
        "*_prod": "{sensitivity: sensitive, approvers: oncall}",
    }
    lines = "\n".join(f'  "{name}": {said[name]}' for name in order)
    found = classify(policies(f"server: vault\ntools:\n{lines}\n"), call("drop_prod"), now=NOW)
    needs, _ = required(found, (), irreversible=frozenset(IRREVERSIBLE))
    assert found.sensitivity is Sensitivity.SENSITIVE
    assert [quorum.group for quorum in needs.quorums] == ["dba"]


def test_globs_that_tie_ask_both_groups_where_both_want_people() -> None:
    text = """server: vault
tools:
  "drop_*": {sensitivity: critical, effects: destroy, approvers: dba, rules: [{when: args.all, require: two_people}]}
  "*_prod": {sensitivity: critical, effects: destroy, approvers: oncall}
"""
    found = classify(policies(text), call("drop_prod", {"all": True}), now=NOW)
    assert {(quorum.group, quorum.people) for quorum in found.quorums} == {("dba", 2), ("oncall", 1)}

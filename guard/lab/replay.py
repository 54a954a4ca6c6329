"""Recorded calls under other tags: which would be challenged that were not, and which would not any more.

A rule whose condition a record cannot answer counts as its stricter branch, as it does in the guard when a
condition fails; the call is then counted as *uncertain* unless every answer leads to the same requirement.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Final, TypeAlias

from guard.lab.explain import supposed
from guard.lab.recorded import Recorded
from guard.lab.unknown import Digest, Knowledge, Unknown, Verdict
from guard.model import Classification, Demand, Principal, Requirement, Sensitivity
from guard.policy.callers import Callers
from guard.policy.classify import PolicySet, classify, find
from guard.policy.conditions import Condition, compile_condition
from guard.policy.document import Entry, Policy, Rule, Runs
from guard.reasons import Code
from guard.requirement import asks_people, required

_TRIED: Final = 4
_KEPT: Final = 65_536
_FAILS: Final[Condition] = compile_condition("args.nothing_has_this_name")
"""A condition that fails for a call without arguments: how a rule that nobody can evaluate is said to the guard."""

_Outcomes: TypeAlias = tuple[bool | None, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """What a recorded call would have to prove. `uncertain` when that hangs on what the record does not hold.

    A `refused` call is not let through whatever is proven.
    """

    needs: Requirement
    rule: str
    sensitivity: str
    uncertain: bool
    unanswered: tuple[tuple[str, frozenset[str]], ...] = ()
    refused: bool = False

    @property
    def label(self) -> str:
        """What it needs, in words."""
        return "refused" if self.refused else self.needs.label

    @property
    def stopped(self) -> bool:
        """Whether it is not simply let through."""
        return self.refused or bool(self.needs)


class Judge:
    """Judges recorded calls under one set of policies. Calls with equal answers of all rules are judged once.

    A call that was judged under this very set at the time stays as it was: the guard knew its arguments.
    """

    def __init__(self, policies: PolicySet, irreversible: frozenset[str], digest: Digest | None = None) -> None:
        """`digest` is the keyed digest of the ledger's deployment, where its key is at hand."""
        self._policies, self._irreversible, self._digest = policies, irreversible, digest
        self._known: dict[tuple[object, ...], tuple[Classification, Requirement]] = {}
        self._said: dict[tuple[str, str, str], Hashable] = {}

    def judge(self, one: Recorded) -> Judged:
        """The requirement for one call, with the findings that its record has."""
        if one.revision and one.revision == self._policies.revision:
            return as_recorded(one)
        policy = self._policies.policies.get(one.call.server)
        entries = find(policy.entries.get(one.call.kind, ()), one.call.name) if policy is not None else ()
        rules = tuple(rule for entry in entries for rule in entry.rules)
        verdicts = self._verdicts(entries, one) if rules else ()
        outcomes = tuple(verdict if isinstance(verdict, bool) else None for verdict in verdicts)
        callers = _callers(policy, entries)
        tags, needs = self._required(one, rules, outcomes, named=bool(callers))
        unknown = [(at, verdict.needs) for at, verdict in enumerate(verdicts) if isinstance(verdict, Unknown)]
        inside = tuple(_inside(entry, entry.runs) for entry in entries if entry.runs is not None)
        grouped = tuple(_grouped(callers, one.call.principal))
        return Judged(
            needs=needs,
            rule=tags.rule,
            sensitivity=tags.sensitivity.label,
            uncertain=bool(inside or grouped)
            or (bool(unknown) and self._differs(one, rules, outcomes, [at for at, _ in unknown], needs)),
            unanswered=(*((rules[at].name, missing) for at, missing in unknown), *inside, *grouped),
            refused=tags.refusal is not None
            or (one.refused == Code.SAME_UID and tags.sensitivity is Sensitivity.CRITICAL),
        )

    def after(self, before: Judge) -> Callable[[Recorded], Judged]:
        """Judge calls as changed from `before`: what nothing was changed about stays as it is there."""

        def judge(one: Recorded) -> Judged:
            return before.judge(one) if before.says(one) == self.says(one) else self.judge(one)

        return judge

    def says(self, one: Recorded) -> Hashable:
        """Everything the policies say about calls of this name, as something to compare; places do not count."""
        place = (one.call.server, one.call.kind, one.call.name)
        if place not in self._said:
            policy = self._policies.policies.get(one.call.server)
            self._said[place] = None if policy is None else _said(policy, *place[1:], self._policies.revision)
        return self._said[place]

    def _verdicts(self, entries: Sequence[Entry], one: Recorded) -> tuple[Verdict, ...]:
        knowledge = Knowledge(one, self._policies, self._digest)
        return tuple(knowledge.verdict(rule, entry.origin) for entry in entries for rule in entry.rules)

    def _differs(
        self, one: Recorded, rules: Sequence[Rule], outcomes: _Outcomes, unknown: Sequence[int], needs: Requirement
    ) -> bool:
        """Whether some answers to what is unknown would lead elsewhere; too many of them to try: yes."""
        if len(unknown) > _TRIED:
            return True
        for answers in product((True, False), repeat=len(unknown)):
            tried = list(outcomes)
            for at, answer in zip(unknown, answers, strict=True):
                tried[at] = answer
            if self._required(one, rules, tuple(tried))[1].label != needs.label:
                return True
        return False

    def _required(
        self, one: Recorded, rules: Sequence[Rule], outcomes: _Outcomes, *, named: bool = False
    ) -> tuple[Classification, Requirement]:
        """The tags and what they require. `named`: callers are listed, so a refusal hangs on whose call it is."""
        call = one.call
        key = (
            call.server, call.kind, call.name, call.definition, one.definition_changed, one.hint_destructive,
            one.findings, outcomes, call.principal.subject if named else None,
        )  # fmt: skip
        known = self._known.get(key)
        if known is None:
            settled = dict(zip((rule.name for rule in rules), outcomes, strict=True))
            tags = classify(
                self._settled(one, settled),
                replace(call, arguments={}),
                now=one.at,
                definition_changed=one.definition_changed,
                hint_destructive=one.hint_destructive,
            )
            known = tags, required(tags, supposed(one.findings), irreversible=self._irreversible)[0]
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[key] = known
        return known

    def _settled(self, one: Recorded, outcomes: Mapping[str, bool | None]) -> PolicySet:
        """The policies with the rules of this call's entries replaced by what they came to."""
        policy = self._policies.policies.get(one.call.server)
        if policy is None or not outcomes:
            return self._policies
        entries = {
            kind: tuple(_entry(entry, outcomes) for entry in found) if kind == one.call.kind else found
            for kind, found in policy.entries.items()
        }
        changed = {**self._policies.policies, policy.server: replace(policy, entries=entries)}
        return PolicySet(changed, self._policies.revision, self._policies.settings, self._policies.locate)


def _inside(entry: Entry, runs: Runs) -> tuple[str, frozenset[str]]:
    """Where a tool is told which others to run. Records are not looked into so far: that counts as critical."""
    paths = (runs.each,) if runs.each else (runs.tool, runs.arguments, runs.server)
    return entry.name, frozenset(f"args.{path[0]}" for path in paths if path)


def _callers(policy: Policy | None, entries: Sequence[Entry]) -> tuple[tuple[str, Callers], ...]:
    """The lists of who may call at all: the file's and those of the entries."""
    if policy is None:
        return ()
    found = [(policy.file, policy.callers), *((entry.name, entry.callers) for entry in entries)]
    return tuple((where, callers) for where, callers in found if callers is not None)


def _grouped(callers: Sequence[tuple[str, Callers]], principal: Principal) -> tuple[tuple[str, frozenset[str]], ...]:
    """The lists on which only a group may have let this agent in. No record holds groups; nothing else lets it in."""
    refusing = [(where, one) for where, one in callers if not one.admit(principal)]
    if not all(one.groups for _, one in refusing):
        return ()
    return tuple((where, frozenset({"principal.groups"})) for where, _ in refusing)


def _said(policy: Policy, kind: str, name: str, revision: str) -> Hashable:
    entries = find(policy.entries.get(kind, ()), name)
    said = tuple(
        (
            one.sensitivity,
            one.effects,
            one.demands,
            one.quorums,
            one.approvers,
            one.definition,
            one.further,
            one.callers,
            one.origin,
            one.runs,
            tuple(map(_rule, one.rules)),
        )
        for one in entries or (policy.default,)
    )
    inside = revision if any(one.runs for one in entries) else ""  # then all that any file says may count
    return bool(entries), policy.match, policy.authors, policy.callers, repr(policy.declared), said, inside


def _rule(rule: Rule) -> Hashable:
    return rule.when and rule.when.text, rule.environments, rule.sensitivity, rule.demands, rule.quorums, rule.effects


def _entry(entry: Entry, outcomes: Mapping[str, bool | None]) -> Entry:
    """An entry whose rules always hold, are gone, or always fail."""
    if not any(rule.name in outcomes for rule in entry.rules):
        return entry
    rules: list[Rule] = []
    for rule in entry.rules:
        holds = outcomes.get(rule.name)
        if holds is not False:
            rules.append(replace(rule, when=None if holds else _FAILS, environments=frozenset()))
    return replace(entry, rules=tuple(rules))


# ------------------------------------------------------------------ comparing


@dataclass(slots=True)
class Row:
    """Calls of one principal to one tool: how often, and what changes for how many of them."""

    calls: int = 0
    before: int = 0
    after: int = 0
    new: int = 0
    new_uncertain: int = 0
    gone: int = 0
    other: int = 0
    uncertain: int = 0
    people: float = 0.0
    people_before: float = 0.0
    requirement: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(slots=True)
class Comparison:
    """Recorded calls before and after. Rows are by (server, tool, principal), `unanswered` by rule."""

    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    unanswered: dict[str, tuple[int, frozenset[str]]] = field(default_factory=dict)

    def total(self) -> Row:
        """All rows as one."""
        whole = Row()
        for row in self.rows.values():
            for name in (
                "calls",
                "before",
                "after",
                "new",
                "new_uncertain",
                "gone",
                "other",
                "uncertain",
                "people",
                "people_before",
            ):
                setattr(whole, name, getattr(whole, name) + getattr(row, name))
        return whole

    def add(self, one: Recorded, before: Judged, after: Judged, signing: bool) -> None:
        """Count one call. `signing`: its agent proves possession by itself."""
        row = self.rows.setdefault((one.call.server, one.call.name, one.call.principal.subject), Row())
        was, is_ = before.stopped, after.stopped
        row.calls += 1
        row.before += was
        row.after += is_
        row.new += is_ and not was
        row.new_uncertain += is_ and not was and after.uncertain
        row.gone += was and not is_
        changed = before.label != after.label
        row.other += was and is_ and changed
        row.uncertain += after.uncertain or before.uncertain
        row.people += _people(after, signing)
        row.people_before += _people(before, signing)
        if changed:
            pair = (before.label, after.label)
            row.requirement[pair] = row.requirement.get(pair, 0) + 1
        for rule, needs in (*after.unanswered, *before.unanswered):
            count, known = self.unanswered.get(rule, (0, frozenset()))
            self.unanswered[rule] = count + 1, known | needs


def _people(judged: Judged, signing: bool) -> int:
    """How many people have to decide; an agent that signs for itself answers a plain step-up without one."""
    needs = judged.needs
    if judged.refused or not asks_people(needs):
        return 0
    if needs.irreducible == {Demand.STEP_UP} and not needs.quorums:
        return int(not signing)
    asked = sum(quorum.people for quorum in needs.quorums if quorum.proof_class.value == "consent")
    return max(asked, 2 if Demand.TWO_PEOPLE in needs.demands else 1)


def as_recorded(one: Recorded) -> Judged:
    """What the guard demanded at the time."""
    needs = _labelled(one.requirement) if one.challenged else Requirement()
    return Judged(needs, one.rule, one.sensitivity, uncertain=False, refused=bool(one.refused))


_LABELS: Final[Mapping[str, frozenset[Demand]]] = {
    "both": frozenset({Demand.POSSESSION, Demand.CONSENT}),
    "none": frozenset(),
}


def _labelled(label: str) -> Requirement:
    """The requirement that a record names; a challenge of which the record says no more is a step-up."""
    parts = _LABELS.get(label)
    if parts is None:
        known = {demand.value for demand in Demand}
        parts = frozenset(Demand(part) for part in label.split("+") if part in known) or frozenset({Demand.STEP_UP})
    return Requirement(parts)

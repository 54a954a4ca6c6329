"""What the owner's tags say about one call. Pure; the time is passed in.

The entry that names the call decides: an exact name before globs, among globs the most specific one (more
literal characters, then fewer stars), and globs that tie are joined, each asking its own people. Then its rules:

* `require` and `effects` of every rule that holds join, so adding them can only raise what is required;
* the first rule that holds and names a sensitivity says it (`match: strictest`: the highest of them);
* a rule that cannot be evaluated joins its `require` and `effects` too, and the sensitivity is the higher
  of that with it and that without it: if it would have lowered, it does not; if it would have raised, it does.

Nothing that names the call leaves the file's default and always a step-up; no file for the server does the
same with `sensitive`. Who is not among the `callers` of the file and of the entry is refused. What a tool is told
to run joins the tool's own tags, and what cannot be told counts as critical. A definition that changed, or is not
the one the file pins, raises the sensitivity one step and asks for consent; so does one that the file pins and nobody
has listed yet. A server's own word that a tool is destructive counts only for tools that no entry names, and makes
them critical.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from types import MappingProxyType
from typing import Final

from guard.model import Call, Classification, Demand, Limit, ProofClass, Quorum, Sensitivity
from guard.policy.callers import Callers
from guard.policy.conditions import Condition, Failure, evaluate, evaluate_all
from guard.policy.document import Entry, Match, Policy, Rule, Runs
from guard.policy.facts import Asked, Declared, Location
from guard.policy.inner import Budget, inner_calls
from guard.policy.scope import Scope, joined
from guard.reasons import Code, Reason

_TAGS: Final = (Code.TAG_PUBLIC, Code.TAG_INTERNAL, Code.TAG_SENSITIVE, Code.TAG_CRITICAL)
_MEMORY: Final = 4096
_LONG: Final = 256
_VERDICTS: Final = 64
_PEOPLE: Final = frozenset({Demand.CONSENT, Demand.TWO_PEOPLE})
_DEPTH: Final = 3
"""How deep a tool may run a tool that runs tools."""


@dataclass(frozen=True, slots=True)
class _Ruled:
    """An entry with what it says before its rules, its conditions together, and what they said for other calls.

    `plain`: each rule is its condition and nothing else.
    """

    entry: Entry
    tagged: Classification
    conditions: tuple[Condition, ...]
    names: Scope
    plain: bool
    said: dict[tuple[bool | Failure, ...], Classification] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Named:
    """The entries that name one (server, kind, name); `settled` when no rule can change what they say."""

    entries: tuple[_Ruled, ...]
    settled: Classification | None
    callers: tuple[tuple[Callers, str], ...]
    runs: tuple[Runs, ...]


@dataclass(frozen=True, slots=True)
class PolicySet:
    """The policies of all servers at one revision (hex digest of the files they came from).

    `settings` holds the environment of each server, and under "" that of the deployment; `locate` finds out where an
    address is. What names what is remembered: exact names as long as the set lives, others (matched by globs, or by
    nothing) up to a number.
    """

    policies: Mapping[str, Policy] = field(default_factory=lambda: MappingProxyType({}))
    revision: str = ""
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    locate: Callable[[str], Location] | None = None
    _exact: dict[tuple[str, str, str], Entry] = field(default_factory=dict, repr=False, compare=False)
    _globs: dict[tuple[str, str], tuple[Entry, ...]] = field(default_factory=dict, repr=False, compare=False)
    _known: dict[tuple[str, str, str], _Named] = field(default_factory=dict, repr=False, compare=False)
    _memory: dict[tuple[str, str, str], _Named] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort exact names from globs, so that a look-up does not grow with the file."""
        for server, policy in self.policies.items():
            for kind, entries in policy.entries.items():
                self._exact.update({(server, kind, one.pattern): one for one in entries if one.glob is None})
                self._globs[server, kind] = tuple(one for one in entries if one.glob is not None)

    def named(self, policy: Policy, kind: str, name: str) -> _Named:
        """The entries that name this, from memory when it was asked before."""
        key = (policy.server, kind, name)
        known = self._known.get(key) or self._memory.get(key)
        if known is None:
            exact = self._exact.get(key)
            entries = (exact,) if exact is not None else find(self._globs.get((policy.server, kind), ()), name)
            known = _named(policy, entries, self.revision)
            if exact is not None:
                self._known[key] = known
            elif len(name) <= _LONG:
                if len(self._memory) >= _MEMORY:
                    self._memory.clear()
                self._memory[key] = known
        return known


def _named(policy: Policy, entries: tuple[Entry, ...], revision: str) -> _Named:
    """Prepare what these entries say, as far as it does not depend on a call."""
    prepared = []
    for entry in entries:
        conditions = tuple(rule.when for rule in entry.rules if rule.when is not None)
        names = joined(condition.names for condition in conditions)
        plain = len(conditions) == len(entry.rules) and not any(rule.environments for rule in entry.rules)
        prepared.append(_Ruled(entry, _tagged(policy, entry, revision), conditions, names, plain))
    callers = [(policy.callers, policy.file)] + [(entry.callers, entry.name) for entry in entries]
    return _Named(
        entries=tuple(prepared),
        settled=None if any(entry.rules for entry in entries) else _settled(policy, entries, revision),
        callers=tuple((one, where) for one, where in callers if one is not None),
        runs=tuple(entry.runs for entry in entries if entry.runs is not None),
    )


def find(entries: Iterable[Entry], name: str) -> tuple[Entry, ...]:
    """The entries that name `name`: the exact one, or the most specific globs (several when they tie)."""
    best: list[Entry] = []
    for entry in entries:
        if entry.glob is None:
            if entry.pattern == name:
                return (entry,)
        elif entry.glob.matches(name):
            if best and best[0].glob is not None and entry.glob.specificity != best[0].glob.specificity:
                if entry.glob.specificity < best[0].glob.specificity:
                    continue
                best.clear()
            best.append(entry)
    return tuple(best)


def classify(
    policies: PolicySet,
    call: Call,
    *,
    now: float,
    definition_changed: bool = False,
    change: str = "",
    hint_destructive: bool = False,
) -> Classification:
    """What the tags say about `call` at `now` (Unix seconds).

    `definition_changed`: the tool is not as it was when it was pinned; `change` says in which words.
    `hint_destructive`: the server's own annotations say so in as many words. Never raises for a call that
    `guard.wire` let through.
    """
    if call.kind == "protocol":
        return Classification(
            sensitivity=Sensitivity.PUBLIC, revision=policies.revision, reasons=(Reason(Code.PROTOCOL),)
        )
    found = _by_tags(policies, call, now, depth=0, budget=Budget())
    if hint_destructive and not found.tagged:
        found = replace(
            found,
            sensitivity=Sensitivity.CRITICAL,
            reasons=(*found.reasons, Reason(Code.HINT_DESTRUCTIVE, call.server)),
        )
    pin = pinned(policies, call.server, call.name) if call.kind == "tool" else ""
    if definition_changed or (pin and pin != call.definition):
        unknown = "the file pins it, and nobody has listed it yet" if pin and not call.definition else change
        found = replace(
            found,
            sensitivity=found.sensitivity.raised(),
            demands=found.demands | {Demand.CONSENT},
            reasons=(*found.reasons, Reason(Code.DEFINITION_CHANGED, call.server, unknown)),
        )
    return found


def pinned(policies: PolicySet, server: str, tool: str) -> str:
    """The digest to which the file of `server` pins the definition of `tool`; "" when it leaves that to the state."""
    policy = policies.policies.get(server)
    return policy.pins.get(tool, "") if policy is not None and policy.pins else ""


def _by_tags(policies: PolicySet, call: Call, now: float, *, depth: int, budget: Budget) -> Classification:
    policy = policies.policies.get(call.server)
    if policy is None:
        return Classification(
            sensitivity=Sensitivity.SENSITIVE,
            demands=frozenset({Demand.STEP_UP}),
            tagged=False,
            revision=policies.revision,
            reasons=(Reason(Code.NO_POLICY, call.server),),
        )
    named = policies.named(policy, call.kind, call.name)
    found = named.settled
    if found is None:
        settings, locate = policies.settings, policies.locate
        said = [_ruled(policy, one, Asked(call, now, settings, one.entry.origin, locate)) for one in named.entries]
        found = said[0] if len(said) == 1 else reduce(_tie, said)
    for callers, where in named.callers:
        if not callers.admit(call.principal):
            refusal = Reason(Code.NOT_ALLOWED, policy.owner, callers.reason or f"callers of {where}")
            return replace(found, refusal=refusal)
    for runs in named.runs:
        calls = inner_calls(runs, call, budget) if depth < _DEPTH else None
        found = _with_inner(policies, found, calls, now, depth=depth + 1, budget=budget)
    return found


def _with_inner(
    policies: PolicySet,
    outer: Classification,
    calls: tuple[Call, ...] | None,
    now: float,
    *,
    depth: int,
    budget: Budget,
) -> Classification:
    """What a tool says that runs these calls, or nobody can tell which."""
    if calls is None:
        return replace(
            outer,
            sensitivity=Sensitivity.CRITICAL,
            demands=outer.demands | {Demand.STEP_UP},
            reasons=(*outer.reasons, Reason(Code.INNER_UNKNOWN, outer.owner)),
        )
    found = outer
    for call in calls:
        inner = _by_tags(policies, call, now, depth=depth, budget=budget)
        said = Reason(Code.INNER_CALL, inner.owner, inner.rule)
        found = _nest(found, replace(inner, reasons=(said, *inner.reasons)))
    return replace(found, log=outer.log, reasons=tuple(dict.fromkeys(found.reasons)))


def _nest(outer: Classification, inner: Classification) -> Classification:
    """Join an inner call; each is counted, and the people of both are asked where they are of different groups."""
    outer_asked, inner_asked = _asked(outer, inner)
    return replace(
        _join(inner_asked, outer_asked),
        limits=outer.limits + inner.limits,
        reasons=(*outer.reasons, *inner.reasons),
    )


def _tie(one: Classification, other: Classification) -> Classification:
    """Join what two entries say of one call; the people of both are asked where they are of different groups."""
    return _join(*_asked(one, other))


def _asked(one: Classification, other: Classification) -> tuple[Classification, Classification]:
    """Both, each with the consent it wants asked of its own group where the other has a different one."""
    if one.approvers == other.approvers:
        return one, other
    if _needs_people(one) and _needs_people(other):
        return _of_their_group(one), _of_their_group(other)
    return (
        _of_their_group(one) if one.demands & _PEOPLE else one,
        _of_their_group(other) if other.demands & _PEOPLE else other,
    )


def _needs_people(tags: Classification) -> bool:
    """Whether tags ask for somebody's consent, or may when an effect turns out to be one that cannot be undone."""
    return bool(tags.demands & _PEOPLE) or tags.sensitivity is Sensitivity.CRITICAL


def _of_their_group(tags: Classification) -> Classification:
    """The tags with every consent they ask for asked of their own group, so that no other group can give it."""
    people = 2 if Demand.TWO_PEOPLE in tags.demands else 1
    named = frozenset(
        replace(one, group=tags.approvers) if one.proof_class is ProofClass.CONSENT and not one.group else one
        for one in tags.quorums
    )
    return replace(
        tags,
        demands=tags.demands | {Demand.TWO_PEOPLE if people > 1 else Demand.CONSENT},
        quorums=named | {Quorum(proof_class=ProofClass.CONSENT, people=people, group=tags.approvers)},
    )


def _settled(policy: Policy, entries: tuple[Entry, ...], revision: str) -> Classification:
    """What entries without rules say, whatever the arguments."""
    if entries:
        return reduce(_tie, (_tagged(policy, entry, revision) for entry in entries))
    found = _tagged(policy, policy.default, revision)
    return replace(found, tagged=False, reasons=(Reason(Code.UNTAGGED, policy.owner),))


def _tagged(policy: Policy, entry: Entry, revision: str) -> Classification:
    """What one entry says before its rules."""
    reasons = [Reason(_TAGS[entry.sensitivity], policy.owner, entry.reason)]
    if entry.demands:
        said = sorted(entry.demands) + sorted(quorum.label for quorum in entry.quorums)
        reasons.append(Reason(Code.REQUIRED, policy.owner, ", ".join(said)))
    return Classification(
        sensitivity=entry.sensitivity,
        effects=entry.effects,
        demands=entry.demands,
        quorums=entry.quorums,
        barred=policy.authors,
        approvers=entry.approvers,
        further=entry.further,
        rule=entry.name,
        where=str(entry.place),
        revision=revision,
        owner=policy.owner,
        log=entry.log,
        limits=policy.limits + entry.limits,
        reasons=tuple(reasons),
    )


@dataclass(slots=True)
class _Tally:
    """What the rules of one entry add up to, for one call."""

    sensitivity: Sensitivity
    least: Sensitivity
    demands: frozenset[Demand]
    quorums: frozenset[Quorum]
    effects: frozenset[str]
    deciding: Rule | None
    spoken: bool
    reasons: list[Reason]

    def hold(self, rule: Rule, match: Match, by: str) -> None:
        """Count a rule that holds."""
        self.demands |= rule.demands
        self.quorums |= rule.quorums
        self.effects |= rule.effects
        if rule.sensitivity is not None and (not self.spoken or match is Match.STRICTEST):
            higher = not self.spoken or rule.sensitivity > self.sensitivity
            self.deciding = rule if higher else self.deciding
            self.sensitivity = rule.sensitivity if higher else self.sensitivity
            self.spoken = True
        self.deciding = self.deciding or rule
        self.reasons.append(Reason(Code.RULE, by, rule.reason or rule.name))

    def fail(self, rule: Rule, why: str, by: str) -> None:
        """Count a rule of which nobody can tell: the stricter of both branches."""
        self.demands |= rule.demands
        self.quorums |= rule.quorums
        self.effects |= rule.effects
        if rule.sensitivity is not None:
            self.least = max(self.least, rule.sensitivity)
        self.reasons.append(Reason(Code.RULE_FAILED, by, f"{rule.reason or rule.name}: {why}"))


def _ruled(policy: Policy, prepared: _Ruled, asked: Asked) -> Classification:
    """What one entry says after its rules; the same verdicts say the same."""
    if not prepared.entry.rules:
        return prepared.tagged
    if prepared.plain:
        verdicts = tuple(evaluate_all(prepared.conditions, prepared.names, asked, policy.declared))
    else:
        verdicts = tuple(_verdicts(prepared, asked, policy.declared))
    known = prepared.said.get(verdicts)
    if known is None:
        known = _tallied(policy, prepared, verdicts)
        if len(prepared.said) < _VERDICTS:
            prepared.said[verdicts] = known
    return known


def _tallied(policy: Policy, prepared: _Ruled, verdicts: tuple[bool | Failure, ...]) -> Classification:
    """What the rules of one entry add up to."""
    entry, tagged = prepared.entry, prepared.tagged
    tally = _Tally(
        sensitivity=entry.sensitivity,
        least=Sensitivity.PUBLIC,
        demands=entry.demands,
        quorums=entry.quorums,
        effects=entry.effects,
        deciding=None,
        spoken=False,
        reasons=list(tagged.reasons),
    )
    for rule, holds in zip(entry.rules, verdicts, strict=True):
        if isinstance(holds, Failure):
            tally.fail(rule, holds.why, policy.owner)
        elif holds:
            tally.hold(rule, policy.match, policy.owner)
    deciding = tally.deciding
    return replace(
        tagged,
        sensitivity=max(tally.sensitivity, tally.least),
        effects=tally.effects,
        demands=tally.demands,
        quorums=tally.quorums,
        rule=deciding.name if deciding else tagged.rule,
        where=str(deciding.place) if deciding else tagged.where,
        reasons=tuple(tally.reasons),
    )


def _verdicts(prepared: _Ruled, asked: Asked, declared: Declared) -> Iterator[bool | Failure]:
    """For each rule in order, whether it holds: its condition does, and its environments hold the call's."""
    verdicts = iter(evaluate_all(prepared.conditions, prepared.names, asked, declared) if prepared.conditions else ())
    for rule in prepared.entry.rules:
        yield _there(rule, asked, declared, holds=True if rule.when is None else next(verdicts))


def applies(rule: Rule, asked: Asked, declared: Declared) -> bool | Failure:
    """Whether one rule holds for a call, or why nobody can tell; `asked.origin` is that of the rule's entry."""
    return _there(rule, asked, declared, holds=True if rule.when is None else evaluate(rule.when, asked, declared))


def _there(rule: Rule, asked: Asked, declared: Declared, *, holds: bool | Failure) -> bool | Failure:
    """The verdict on a rule whose condition `holds`, once its environments are looked at."""
    if not rule.environments or holds is False:
        return holds
    environment = asked.environment(declared)
    if environment is None:
        return Failure("the environment is not known")
    return holds if environment in rule.environments else False


def _both(one: tuple[Limit, ...], other: tuple[Limit, ...]) -> tuple[Limit, ...]:
    """The limits of two entries that name the same call, those of their file once."""
    return one if one == other else tuple(dict.fromkeys((*one, *other)))


def _join(left: Classification, right: Classification) -> Classification:
    """The stricter of two, with the demands, effects, limits and refusals of both."""
    strict, mild = (left, right) if left.sensitivity >= right.sensitivity else (right, left)
    return replace(
        strict,
        effects=strict.effects | mild.effects,
        demands=strict.demands | mild.demands,
        quorums=strict.quorums | mild.quorums,
        barred=strict.barred | mild.barred,
        tagged=strict.tagged and mild.tagged,
        refusal=strict.refusal or mild.refusal,
        limits=_both(strict.limits, mild.limits),
        further=strict.further & mild.further,
        log=strict.log & mild.log,
        reasons=(*strict.reasons, *mild.reasons),
    )

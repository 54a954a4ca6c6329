"""What the owner's tags say about one call. Pure; the time is passed in.

The entry that names the call decides: an exact name before globs, among globs the most specific one (more
literal characters, then fewer stars), and globs that tie are joined. Then its rules, in order:

* `require` and `effects` of every rule that holds join, so adding them can only raise what is required;
* the first rule that holds and names a sensitivity says it (`match: strictest`: the highest of them);
* a rule that cannot be evaluated joins its `require` and `effects` too, and the sensitivity is the higher
  of that with it and that without it: if it would have lowered, it does not; if it would have raised, it does.

Nothing that names the call leaves the file's default and always a step-up; no file for the server does the
same with `sensitive`. A changed definition raises the sensitivity one step and asks for consent. A server's
own word that a tool is destructive counts only for tools that no entry names, and makes them critical.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from types import MappingProxyType
from typing import Final

from guard.model import Call, Classification, Demand, Quorum, Sensitivity
from guard.policy.conditions import Failure, evaluate
from guard.policy.document import Entry, Match, Policy, Rule
from guard.reasons import Code, Reason

_TAGS: Final = (Code.TAG_PUBLIC, Code.TAG_INTERNAL, Code.TAG_SENSITIVE, Code.TAG_CRITICAL)
_MEMORY: Final = 4096
_LONG: Final = 256


@dataclass(frozen=True, slots=True)
class _Named:
    """The entries that name one (server, kind, name); `settled` when no rule can change what they say."""

    entries: tuple[Entry, ...]
    settled: Classification | None


@dataclass(frozen=True, slots=True)
class PolicySet:
    """The policies of all servers at one revision (hex digest of the files they came from).

    Remembers which entries name what, so that a call without rules costs one look-up.
    """

    policies: Mapping[str, Policy] = field(default_factory=lambda: MappingProxyType({}))
    revision: str = ""
    _memory: dict[tuple[str, str, str], _Named] = field(default_factory=dict, repr=False, compare=False)

    def named(self, policy: Policy, kind: str, name: str) -> _Named:
        """The entries that name this, from memory when it was asked before."""
        key = (policy.server, kind, name)
        known = self._memory.get(key)
        if known is None:
            entries = find(policy.entries.get(kind, ()), name)
            settled = None if any(entry.rules for entry in entries) else _settled(policy, entries, self.revision)
            known = _Named(entries, settled)
            if len(name) <= _LONG:
                if len(self._memory) >= _MEMORY:
                    self._memory.clear()
                self._memory[key] = known
        return known


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
    hint_destructive: bool = False,
) -> Classification:
    """What the tags say about `call` at `now` (Unix seconds).

    `definition_changed`: the tool is not as it was when it was pinned. `hint_destructive`: the server's
    own annotations say so in as many words. Never raises for a call that `guard.wire` let through.
    """
    if call.kind == "protocol":
        return Classification(
            sensitivity=Sensitivity.PUBLIC, revision=policies.revision, reasons=(Reason(Code.PROTOCOL),)
        )
    found = _by_tags(policies, call, now)
    if hint_destructive and not found.tagged:
        found = replace(
            found,
            sensitivity=Sensitivity.CRITICAL,
            reasons=(*found.reasons, Reason(Code.HINT_DESTRUCTIVE, call.server)),
        )
    if definition_changed:
        found = replace(
            found,
            sensitivity=found.sensitivity.raised(),
            demands=found.demands | {Demand.CONSENT},
            reasons=(*found.reasons, Reason(Code.DEFINITION_CHANGED, call.server)),
        )
    return found


def _by_tags(policies: PolicySet, call: Call, now: float) -> Classification:
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
    if named.settled is not None:
        return named.settled
    ruled = (_ruled(policy, entry, call, now, policies.revision) for entry in named.entries)
    return reduce(_join, ruled)


def _settled(policy: Policy, entries: tuple[Entry, ...], revision: str) -> Classification:
    """What entries without rules say, whatever the arguments."""
    if entries:
        return reduce(_join, (_tagged(policy, entry, revision) for entry in entries))
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


def _ruled(policy: Policy, entry: Entry, call: Call, now: float, revision: str) -> Classification:
    """What one entry says after its rules."""
    tagged = _tagged(policy, entry, revision)
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
    for rule in entry.rules:
        holds = True if rule.when is None else evaluate(rule.when, call, now=now, windows=policy.windows)
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


def _join(left: Classification, right: Classification) -> Classification:
    """The stricter of two entries that name a call equally well, with the demands and effects of both."""
    strict, mild = (left, right) if left.sensitivity >= right.sensitivity else (right, left)
    return replace(
        strict,
        effects=strict.effects | mild.effects,
        demands=strict.demands | mild.demands,
        quorums=strict.quorums | mild.quorums,
        barred=strict.barred | mild.barred,
        further=strict.further & mild.further,
        log=strict.log & mild.log,
        reasons=(*strict.reasons, *mild.reasons),
    )

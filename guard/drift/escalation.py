"""The first time an agent does something of a kind it never did, and a conversation that turns critical at once.

Kinds are the effects that owners tag, but for reading. A climb is a kind of its own: a critical call among the first
of a conversation that was harmless so far. Kinds are learnt like tools: in an old profile a new one counts as known
after two weeks, or when a person consented to it; from then on it is counted no more. An agent has to be known for
some calls before anything is a first time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from guard.drift.activity import IDLE
from guard.drift.profile import DAY, NEVER
from guard.drift.profiles import PROFILES, Profiles
from guard.model import Band, Call, Classification, Doubt, Finding, ProofClass, Sensitivity
from guard.reasons import Code, Reason

SIGNAL: Final = "escalation"
KNOWN: Final = 60.0
"""Calls (decayed) an agent must have made before something is new for it."""
FEW: Final = 5
"""Calls of a conversation within which a rise counts as sudden."""
HARMLESS: Final = Sensitivity.INTERNAL
"""The highest sensitivity of a harmless call."""
CLIMB: Final = "climb to critical"
"""The kind that a climb counts as; no effect has a name like this."""
_READ: Final = "read"
_PENDING: Final = 4096


class _Talk:
    """A conversation so far: when its last call came, how many came, and the highest sensitivity among those that ran.

    `calm` are tags that were looked at, and nothing about them is new.
    """

    __slots__ = ("calls", "calm", "highest", "last")

    def __init__(self) -> None:
        self.last, self.calls, self.highest = 0.0, 0, Sensitivity.PUBLIC
        self.calm: Classification | None = None


class EscalationSignal:
    """Finds first times and climbs."""

    def __init__(self, profiles: Profiles, irreversible: frozenset[str]) -> None:
        """Judge by `profiles`; effects that are `irreversible` are alarming at the end of a climb."""
        self._profiles, self._irreversible = profiles, irreversible
        self._talks: OrderedDict[str, _Talk] = OrderedDict()
        self.pending: OrderedDict[str, tuple[Sensitivity, list[str]]] = OrderedDict()
        """Assessed calls from which there is something to learn, by id."""

    def assess(self, call: Call, tags: Classification) -> tuple[Finding, ...]:
        """Findings of doubt about intent: at most one for what is new and one for a climb.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        if call.kind != "tool":
            return ()
        talk = self._talks.get(call.principal.credential)
        if talk is None or call.received - talk.last > IDLE:
            talk = self._new(call.principal.credential)
        talk.last, calls = call.received, talk.calls
        talk.calls = calls + 1
        if talk.calm is tags:
            return ()
        profile, sensitivity = self._profiles[call.principal.credential], tags.sensitivity
        new = [one for one in sorted(tags.effects) if one != _READ and not profile.knows(one)]
        if sensitivity > talk.highest:
            sudden = 0 < calls <= FEW and talk.highest <= HARMLESS and sensitivity is Sensitivity.CRITICAL
            new += [CLIMB] if sudden and not profile.knows(CLIMB) else []
        elif not new and profile.since != NEVER:
            talk.calm = tags  # nothing to find, and nothing to learn
            return ()
        self.pending[call.id] = sensitivity, new
        if len(self.pending) > _PENDING:
            self.pending.popitem(last=False)
        return self._findings(call, talk, new) if new else ()

    def learn(self, call: Call, proven: frozenset[ProofClass], *, challenged: bool) -> bool:
        """Count what an executed call did, unless it was `challenged` and no person consented; True if that is news.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        if (told := self.pending.pop(call.id, None)) is None:
            return False
        if (talk := self._talks.get(call.principal.credential)) is not None:
            talk.highest = max(talk.highest, told[0])
        day, vouched = int(call.received // DAY), ProofClass.CONSENT in proven
        profile = self._profiles[call.principal.credential]
        if not vouched and (challenged or proven or profile.full(day)):
            return False
        if not told[1] and profile.since != NEVER:
            return False
        for into in self._profiles.both(call.principal.credential):
            into.note_kinds(told[1], day, vouched=vouched)
        return True

    def _new(self, key: str) -> _Talk:
        talk = self._talks[key] = _Talk()
        self._talks.move_to_end(key)
        if len(self._talks) > PROFILES:
            self._talks.popitem(last=False)
        return talk

    def _findings(self, call: Call, talk: _Talk, new: list[str]) -> tuple[Finding, ...]:
        profile = self._profiles[call.principal.credential]
        if profile.calls < KNOWN or profile.late(int(call.received // DAY)):
            return ()
        first, climbs = [one for one in new if one != CLIMB], CLIMB in new
        found = list[Finding]()
        if first:
            band = Band.ALARMING if climbs and self._irreversible.intersection(first) else Band.UNUSUAL
            said = f"{', '.join(first)}: never in {profile.calls:.0f} calls"
            reason = Reason(Code.FIRST_KIND, by=SIGNAL, evidence=said)
            found.append(Finding(signal=SIGNAL, cause=Doubt.INTENT, band=band, reason=reason))
        if climbs:
            calls = talk.calls - 1
            before = f"{calls} call{'s' if calls > 1 else ''} that {'were' if calls > 1 else 'was'}"
            said = f"critical after {before} at most {talk.highest.label}; never so in {profile.calls:.0f} calls"
            reason = Reason(Code.ESCALATION, by=SIGNAL, evidence=said)
            found.append(Finding(signal=SIGNAL, cause=Doubt.INTENT, band=Band.UNUSUAL, reason=reason))
        return tuple(found)

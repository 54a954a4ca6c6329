"""Asks every signal about a call. A signal may raise the bar, never lower it.

An exception in a signal is not swallowed here: a call that could not be assessed is not a calm one, and the
pipeline refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from guard import faults
from guard.drift.behaviour import Behaviour
from guard.drift.escalation import EscalationSignal
from guard.drift.hopping import HoppingSignal
from guard.drift.job import JobSignal
from guard.drift.places import PlaceSignal
from guard.drift.profiles import PROFILES
from guard.drift.rate import RateSignal
from guard.drift.volume import VolumeSignal
from guard.model import Call, Classification, Finding, ProofClass
from guard.ports import Signal

_HOUR: Final = 3600.0
_Who: TypeAlias = tuple[str, str, float]


class Assessor:
    """The configured signals as one: doubts about identity, then volume, then behaviour.

    `signals` see only from where, with what and at which hour a key is used, and its age; `places` and `hopping` also
    what other calls come at the same time.
    """

    def __init__(
        self,
        signals: Sequence[Signal],
        behaviour: Behaviour | None = None,
        volume: VolumeSignal | None = None,
        *,
        places: PlaceSignal | None = None,
        hopping: HoppingSignal | None = None,
        escalation: EscalationSignal | None = None,
        rate: RateSignal | None = None,
        job: JobSignal | None = None,
    ) -> None:
        """Ask `signals` in this order, then `hopping`, `volume`, `rate`, `escalation`, `job`, `behaviour`, `places`."""
        self._signals, self._volume, self._behaviour = tuple(signals), volume, behaviour
        self._places, self._hopping, self._escalation, self._rate = places, hopping, escalation, rate
        self._job = job
        self._calm: dict[str, _Who] = {}
        self._taught: dict[str, _Who] = {}

    def assess(self, call: Call, tags: Classification) -> tuple[Finding, ...]:
        """Everything unusual about this call, in the order of the signals."""
        faults.point("drift.score")
        found: list[Finding] = []
        who, key = _who(call), call.principal.credential
        if self._calm.get(key) != who:
            found += self._assess_who(call, who)
        if self._volume is not None:
            found += self._volume.assess(call)
        if self._rate is not None and key in self._rate.fast:
            found += self._rate.assess(call)
        if self._escalation is not None:
            found += self._escalation.assess(call, tags)
        if self._behaviour is not None:
            if self._job is None:
                found += self._behaviour.assess(call, tags)
            else:
                found += self._job.assess(call)
                found += self._behaviour.assess(call, tags, self._job.no_news(call))
        if self._places is not None:  # last: a call that could not be assessed does not stay in flight
            found += self._places.assess(call)
        return tuple(found)

    def knows_size(self, call: Call) -> bool:
        """Whether enough is known of this agent to say which size of a result is unusual."""
        return self._volume is not None and self._volume.knows_size(call)

    def bulky(self, call: Call, size: int) -> tuple[Finding, ...]:
        """What is unusual about the size of a result, before the agent has it."""
        found = self._volume.bulky(call, size) if self._volume is not None else None
        return () if found is None else (found,)

    def _assess_who(self, call: Call, who: _Who) -> list[Finding]:
        """Doubts about identity; where there are none, and none can come from others, `who` is calm."""
        found: list[Finding] = []
        for signal in self._signals:
            found += signal.assess(call)
        if self._hopping is not None:
            found += self._hopping.assess(call)
        if not found and not (self._hopping is not None and self._hopping.counts(call)):
            _keep(self._calm, call.principal.credential, who)
        return found

    def learn(
        self,
        call: Call,
        proven: frozenset[ProofClass],
        shown: bytes = b"",
        *,
        cut: bool = False,
        size: int = 0,
        challenged: bool = False,
    ) -> bool:
        """Let every signal learn from an executed call what its proofs vouch for; True when something changed.

        `shown` is the answer, `cut` whether there was more of it than is at hand, and `size` the bytes of all of it;
        a call that was `challenged` is no example of what is usual but for what is proven.
        """
        changed = self._learn_who(call, proven)
        if self._volume is not None and call.kind != "protocol":
            changed |= self._volume.learn(call, proven, size)
        if self._rate is not None and call.kind != "protocol":
            changed |= self._rate.learn(call, proven)
        if self._escalation is not None and call.id in self._escalation.pending:
            changed |= self._escalation.learn(call, proven, challenged=challenged)
        if self._behaviour is not None:
            changed |= self._behaviour.learn(call, proven, shown, cut=cut, challenged=challenged)
        return changed

    def _learn_who(self, call: Call, proven: frozenset[ProofClass]) -> bool:
        """Let the signals about identity learn."""
        who, key, changed = _who(call), call.principal.credential, False
        if proven or self._taught.get(key) != who:
            for signal in self._signals:
                changed |= signal.learn(call, proven)
            if changed:
                self._calm.pop(key, None)  # it may have been calm only because nothing was known
            elif not proven:
                _keep(self._taught, key, who)
        if proven and self._hopping is not None:
            self._hopping.learn(call, proven)
        if proven and self._places is not None:
            changed |= self._places.learn(call, proven)
        return changed

    def ended(self, call: Call) -> None:
        """An assessed call came to its end, whether or not it was executed."""
        if self._behaviour is not None:
            self._behaviour.ended(call)
        if self._places is not None:
            self._places.ended(call)


def _who(call: Call) -> _Who:
    """All that the signals about identity look at; what they found calm stays calm for the hour."""
    return call.source.address, call.source.client, call.received // _HOUR


def _keep(of: dict[str, _Who], key: str, who: _Who) -> None:
    if len(of) >= PROFILES:
        of.clear()
    of[key] = who

"""Asks every signal about a call. A signal may raise the bar, never lower it.

An exception in a signal is not swallowed here: a call that could not be assessed is not a calm one, and the
pipeline refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence

from guard import faults
from guard.drift.behaviour import Behaviour
from guard.drift.volume import VolumeSignal
from guard.model import Call, Classification, Finding, ProofClass
from guard.ports import Signal


class Assessor:
    """The configured signals as one: doubts about identity, then volume, then behaviour."""

    def __init__(
        self, signals: Sequence[Signal], behaviour: Behaviour | None = None, volume: VolumeSignal | None = None
    ) -> None:
        """Ask `signals` in this order, then `volume` and `behaviour`."""
        self._signals, self._volume, self._behaviour = tuple(signals), volume, behaviour

    def assess(self, call: Call, tags: Classification) -> tuple[Finding, ...]:
        """Everything unusual about this call, in the order of the signals."""
        faults.point("drift.score")
        found: list[Finding] = []
        for signal in self._signals:
            found += signal.assess(call)
        if self._volume is not None:
            found += self._volume.assess(call)
        if self._behaviour is not None:
            found += self._behaviour.assess(call, tags)
        return tuple(found)

    def learn(
        self, call: Call, proven: frozenset[ProofClass], shown: bytes = b"", *, cut: bool = False, size: int = 0
    ) -> bool:
        """Let every signal learn from an executed call what its proofs vouch for; True when something changed.

        `shown` is the answer, `cut` whether there was more of it than is at hand, and `size` the bytes of all of it.
        """
        changed = [signal.learn(call, proven) for signal in self._signals]  # every one of them, before any answer
        if self._volume is not None and call.kind != "protocol":
            changed.append(self._volume.learn(call, proven, size))
        if self._behaviour is not None:
            changed.append(self._behaviour.learn(call, proven, shown, cut=cut))
        return any(changed)

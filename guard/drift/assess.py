"""Asks every signal about a call. A signal may raise the bar, never lower it.

An exception in a signal is not swallowed here: a call that could not be assessed is not a calm one, and the
pipeline refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence

from guard.model import Call, Finding, ProofClass
from guard.ports import Signal


class Assessor:
    """The configured signals as one."""

    def __init__(self, signals: Sequence[Signal]) -> None:
        """Ask `signals` in this order."""
        self._signals = tuple(signals)

    def assess(self, call: Call) -> tuple[Finding, ...]:
        """Everything unusual about this call, in the order of the signals."""
        return tuple(finding for signal in self._signals for finding in signal.assess(call))

    def learn(self, call: Call, proven: frozenset[ProofClass]) -> bool:
        """Let every signal learn from an executed call what its proofs vouch for; True when something changed."""
        changed = [signal.learn(call, proven) for signal in self._signals]  # every one of them, before any answer
        return any(changed)

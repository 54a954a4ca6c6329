"""How old a key is. The older it is, the more places it was left at, and the more people saw it.

A proof of possession shows that the workload has it still, and calms for a day: an unattended agent signs once a day
until somebody rotates its key.
"""

from __future__ import annotations

from typing import Final

from guard.drift.profile import DAY
from guard.drift.profiles import PROFILES
from guard.model import Band, Call, Doubt, Finding, ProofClass
from guard.reasons import Code, Reason

SIGNAL: Final = "age"


class AgeSignal:
    """Finds keys that should have been rotated."""

    def __init__(self, days: float) -> None:
        """Doubt keys that are older than `days`; 0 doubts none."""
        self._days = days
        self._proven: dict[str, float] = {}

    def assess(self, call: Call) -> tuple[Finding, ...]:
        """One finding of doubt about identity, or none; an agent without a key of the guard's has none."""
        since, now = call.principal.since, call.received
        if not self._days or not since or now - since <= self._days * DAY:
            return ()
        if 0 <= now - self._proven.get(call.principal.credential, 0.0) < DAY:
            return ()
        said = f"made {(now - since) / DAY:.0f} days ago; rotate it within {self._days:.0f}"
        reason = Reason(Code.OLD_KEY, by=SIGNAL, evidence=said)
        return (Finding(signal=SIGNAL, cause=Doubt.IDENTITY, band=Band.UNUSUAL, reason=reason),)

    def learn(self, call: Call, proven: frozenset[str]) -> bool:
        """Note a proof of possession; nothing of it is stored."""
        if ProofClass.POSSESSION in proven:
            if len(self._proven) >= PROFILES:
                self._proven.clear()
            self._proven[call.principal.credential] = call.received
        return False

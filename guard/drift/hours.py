"""The hours a key is used at. A thief lives by another clock.

Hours of the week, in UTC: workdays and weekends apart, and an hour's neighbours count with it. A key has to be known
for two weeks before any hour is strange.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from guard.drift.profile import DAY, DAYS, HOURS, NEVER, Profile
from guard.drift.profiles import Profiles
from guard.model import Band, Call, Doubt, Finding, ProofClass
from guard.reasons import Code, Reason

SIGNAL: Final = "hours"
KNOWN_FOR: Final = 14
"""Days a key must have been used before an hour is strange."""
CALLS: Final = 200.0
RARE: Final = 0.002
"""Share of a key's calls in an hour and its neighbours, below which the hour is strange."""
_HOUR: Final = 3600.0
_FIRST_WEEKEND: Final = 2
"""The first of January 1970 was a Thursday, so its third day was a Saturday."""


def hour_of(now: float) -> int:
    """The bin of a time: 0 to 23 on workdays, 24 to 47 at weekends, in UTC."""
    return _bin(int(now // _HOUR))


@lru_cache(maxsize=64)
def _bin(hour: int) -> int:
    day, at = divmod(hour, 24)
    weekend = (day - _FIRST_WEEKEND) % 7 < 2  # noqa: PLR2004 - Saturday and Sunday
    return at + (HOURS // 2 if weekend else 0)


class HourSignal:
    """Finds calls at hours the key is never used at."""

    def __init__(self, profiles: Profiles) -> None:
        """Judge by `profiles`; the profile of a call's credential must be loaded."""
        self._profiles = profiles

    def assess(self, call: Call) -> tuple[Finding, ...]:
        """One finding of doubt about identity, or none.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        profile = self._profiles[call.principal.credential]
        if profile.calm_hour == call.received // _HOUR:
            return ()  # within one hour its share can only grow
        if profile.born == NEVER or 0 <= (int(call.received // DAY) & DAYS) - profile.born < KNOWN_FOR:
            return ()
        total = sum(profile.hours)
        if total < CALLS:
            return ()
        at = hour_of(call.received)
        near = sum(profile.hours[at - at % 24 + (at + step) % 24] for step in (-1, 0, 1))
        if near >= RARE * total:
            profile.calm_hour = call.received // _HOUR
            return ()
        when = f"{at % 24:02d} h UTC on a {'workday' if at < HOURS // 2 else 'weekend'}"
        reason = Reason(Code.NEW_HOUR, by=SIGNAL, evidence=f"{when}; {near:.0f} of {total:.0f} calls were near it")
        return (Finding(signal=SIGNAL, cause=Doubt.IDENTITY, band=Band.UNUSUAL, reason=reason),)

    def learn(self, call: Call, proven: frozenset[str]) -> bool:
        """Learn the hour of an executed call; a strange one only on possession, and only so many on one day.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        profile = self._profiles[call.principal.credential]
        if profile.calm_hour == call.received // _HOUR and profile.full(int(call.received // DAY)):
            return False
        at, weight = hour_of(call.received), 1.0
        if self.assess(call):
            if ProofClass.POSSESSION not in proven:
                return False
            weight = max(1.0, sum(profile.hours) * RARE)

        def fold(into: Profile, known: Profile) -> bool:
            del known
            into.hours[at] += weight
            return True

        return self._profiles.learn(call.principal.credential, fold)

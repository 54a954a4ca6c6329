"""How fast one key calls, against the fastest it usually is: an agent in a loop, a script in its place, a drip.

A rate is an average of executed calls a minute that fades: by half in five minutes, which sees a burst within a minute,
and by half in an hour, which sees what goes on. For both the profile counts on how many days which level was reached;
levels double. A level reached on some days is normal however rarely in the day it comes, so bursts an agent always had
say nothing. A rate is unusual beyond twice the highest normal level.

Nothing is unusual below `LEAST`, or before a week of history. A rate teaches no more than the level next to normal.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from guard.drift.profile import BELIEVED, DAY, DAYS, LEVELS, NEVER
from guard.drift.profiles import PROFILES, Profiles
from guard.model import Band, Call, Doubt, Finding, ProofClass
from guard.reasons import Code, Reason

SIGNAL: Final = "rate"
HALF_LIVES: Final = (300.0, 3600.0)
"""Seconds in which a rate fades by half."""
LEAST: Final = (5.0, 2.0)
"""Calls a minute that are the lowest level of each."""
OFTEN: Final = 2.5
"""Days (decayed) on which a level must have been reached to be normal: three that are not long ago."""
BELIEVED_AS: Final = 5.0
"""Days that one of a profile's first days counts for, so what it was made for stays normal for a month or longer."""
HISTORY: Final = 7.0
"""Days (decayed) that must be known."""
BEYOND: Final = 2.0
"""Times the highest normal level that are unusual."""
ALARMING: Final = 4.0
"""Times what is unusual that are alarming."""
BATCH: Final = 8
"""Calls that are counted together, for that is cheaper."""
_WAITING: Final = 8 * PROFILES
_ONE: Final = tuple(60.0 * math.log(2.0) / half for half in HALF_LIVES)
"""What one call adds to a rate."""


class _Pace:
    """The rates of one key at `last`; from `begun` until `over`: which are unusual, which teach, and what they taught.

    `normal` are the levels that were normal when the day began.
    """

    __slots__ = ("begun", "last", "most", "news", "normal", "over", "rates", "taught")

    def __init__(self) -> None:
        self.last = self.begun = self.over = 0.0
        self.rates, self.most, self.news = [0.0, 0.0], [math.inf, math.inf], [0.0, 0.0]
        self.normal, self.taught = [0, 0], [0, 0]


class RateSignal:
    """Finds keys that call far faster than they used to."""

    def __init__(self, profiles: Profiles) -> None:
        """Judge by `profiles`; the profile of a call's credential must be loaded."""
        self._profiles = profiles
        self._paces: OrderedDict[str, _Pace] = OrderedDict()
        self._waiting: dict[str, int] = {}
        self.fast = set[str]()
        """Keys whose rate was unusual at their last call; nothing is to be asked about others."""

    def assess(self, call: Call) -> tuple[Finding, ...]:
        """One finding of doubt about intent, or none.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        if call.principal.credential not in self.fast:
            return ()
        pace = self._paces[call.principal.credential]
        rates, most = pace.rates, pace.most
        since, found = call.received - pace.last, list[tuple[float, str]]()
        if not since > 0:
            since = 0.0
        for rate, half, limit in zip(rates, HALF_LIVES, most, strict=True):
            now = rate * 2.0 ** (-since / half)
            if now > limit:
                said = f"{now:.1f} calls a minute over {half / 60:.0f} minutes; more than {limit:.0f} is unusual"
                found.append((now / limit, said))
        if not found:
            self.fast.discard(call.principal.credential)
            return ()
        times, said = max(found)
        reason = Reason(Code.TOO_FAST, by=SIGNAL, evidence=said)
        band = Band.ALARMING if times > ALARMING else Band.UNUSUAL
        return (Finding(signal=SIGNAL, cause=Doubt.INTENT, band=band, reason=reason),)

    def learn(self, call: Call, proven: frozenset[ProofClass]) -> bool:
        """Count an executed call; a person's consent allows twice as fast for the day. True when a level was learnt.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        key = call.principal.credential
        calls = self._waiting.get(key, 0) + 1
        if calls < BATCH and not proven:
            self._waiting[key] = calls
            return False
        if len(self._waiting) > _WAITING:
            self._waiting.clear()
        self._waiting[key] = 0
        pace, now = self._paces.get(key) or self._new(key), call.received
        rates = pace.rates
        if (since := now - pace.last) > 0:  # a clock that was set back makes nothing fade
            pace.last = now
            for which, half in enumerate(HALF_LIVES):
                rates[which] *= 2.0 ** (since / -half)
        for which, one in enumerate(_ONE):
            rates[which] += calls * one
        changed = False
        if proven or not pace.begun <= now < pace.over or rates[0] > pace.news[0] or rates[1] > pace.news[1]:
            changed = self._teach(pace, key, now, vouched=ProofClass.CONSENT in proven)
        if rates[0] > pace.most[0] or rates[1] > pace.most[1]:
            self.fast.add(key)
        return changed

    def _new(self, key: str) -> _Pace:
        if len(self._paces) >= PROFILES:
            old, _ = self._paces.popitem(last=False)
            self._waiting.pop(old, None)
            self.fast.discard(old)
        pace = self._paces[key] = _Pace()
        return pace

    def _teach(self, pace: _Pace, key: str, now: float, *, vouched: bool) -> bool:
        """Count the levels that this day reached for the first time."""
        profile = self._profiles[key]
        day = int(now // DAY)
        young = profile.since == NEVER or 0 <= (day & DAYS) - profile.since < BELIEVED
        if not pace.begun <= now < pace.over:
            pace.begun = now // DAY * DAY
            known = profile.daily["calls"][0] >= HISTORY and profile.since != NEVER and not profile.late(day)
            pace.over, pace.taught, pace.most = pace.begun + DAY, [0, 0], [0.0, 0.0] if known else [math.inf, math.inf]
            pace.normal = [_normal(days) for days in profile.rates]
        told = list[tuple[int, int]]()
        for which, least in enumerate(LEAST):
            normal, rate = pace.normal[which], pace.rates[which]
            top = LEVELS if young or vouched else min(normal + 1, LEVELS)
            for level in range(normal if vouched else pace.taught[which], top):
                if rate > least * 2.0**level:
                    told.append((which, level))
                    pace.taught[which] = max(pace.taught[which], level + 1)
            usual = max(rate if vouched else 0.0, least * 2.0**normal)
            pace.most[which] = max(pace.most[which], BEYOND * usual)  # what a person allowed holds for the day
            pace.news[which] = least * 2.0 ** pace.taught[which] if pace.taught[which] < top else math.inf
        mass = BELIEVED_AS if young else OFTEN if vouched else 1.0
        for into in self._profiles.both(key) if told else ():
            for which, level in told:
                into.rates[which][level] += mass
        return bool(told)


def _normal(days: list[float]) -> int:
    """How many levels are normal."""
    return next((at for at, one in enumerate(days) if not one >= OFTEN), LEVELS)

"""How much one key does and takes in a day: bulk exports, and many small pieces that add up.

What counts are the calls and the bytes of results since midnight (UTC), against the days before. The share of a day is
not weighed by what a tool can do: a thousand harmless reads are an export, too.
"""

from __future__ import annotations

import math
from typing import Final

from guard.drift.profile import DAY, Profile
from guard.drift.profiles import Profiles
from guard.drift.usual import DAYS, limit
from guard.model import Band, Call, Doubt, Finding, ProofClass
from guard.reasons import Code, Reason

SIGNAL: Final = "volume"
ALARMING: Final = math.log(5.0)
"""Nats beyond unusual that are alarming: five times as much again."""
_KINDS: Final = (("calls", Code.MANY_CALLS, "calls"), ("bytes", Code.MUCH_DATA, "bytes of results"))


def _ceiling(profile: Profile) -> tuple[float, float]:
    """The calls and the bytes up to which a day is surely usual."""
    calls, size = (limit(profile.daily[kind]) for kind in ("calls", "bytes"))
    return math.inf if calls is None else math.exp(calls), math.inf if size is None else math.exp(size)


class VolumeSignal:
    """Finds days on which a key does or takes far more than it used to."""

    def __init__(self, profiles: Profiles) -> None:
        """Judge by `profiles`; the profile of a call's credential must be loaded."""
        self._profiles = profiles

    def assess(self, call: Call) -> tuple[Finding, ...]:
        """Findings of doubt about intent: at most one for calls and one for bytes.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        profile = self._profiles[call.principal.credential]
        today = profile.today
        if today.day != int(call.received // DAY):
            return ()
        ceiling = profile.ceiling = profile.ceiling or _ceiling(profile)
        if today.calls <= ceiling[0] and today.bytes <= ceiling[1]:
            return ()
        found = []
        for kind, code, words in _KINDS:
            so_far = profile.today.amount(kind)
            most = limit(profile.daily[kind])
            if most is None or so_far <= 0 or so_far <= profile.today.allowed(kind):
                continue
            beyond = math.log(so_far) - most
            if beyond <= 0:
                continue
            evidence = f"{so_far:.0f} {words} today; more than {math.exp(most):.0f} is unusual"
            band = Band.ALARMING if beyond > ALARMING else Band.UNUSUAL
            reason = Reason(code, by=SIGNAL, evidence=evidence)
            found.append(Finding(signal=SIGNAL, cause=Doubt.INTENT, band=band, reason=reason))
        return tuple(found)

    def knows_size(self, call: Call) -> bool:
        """Whether enough days of this key are known; also when its profile is not at hand."""
        key = call.principal.credential
        return key not in self._profiles or self._profiles[key].daily["bytes"][0] >= DAYS

    def bulky(self, call: Call, size: int) -> Finding | None:
        """What is unusual about a result of `size` bytes on top of what this key was given today; None: nothing.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        profile = self._profiles[call.principal.credential]
        today, most = profile.today, limit(profile.daily["bytes"])
        if most is None or size <= 0:
            return None
        same = today.day == int(call.received // DAY)
        so_far = size + (today.bytes if same else 0.0)
        beyond = math.log(so_far) - most
        if beyond <= 0 or (same and so_far <= today.allowed("bytes")):
            return None
        evidence = f"{so_far:.0f} bytes of results today with this one; more than {math.exp(most):.0f} is unusual"
        band = Band.ALARMING if beyond > ALARMING else Band.UNUSUAL
        return Finding(
            signal=SIGNAL, cause=Doubt.INTENT, band=band, reason=Reason(Code.MUCH_DATA, by=SIGNAL, evidence=evidence)
        )

    def learn(self, call: Call, proven: frozenset[ProofClass], size: int) -> bool:
        """Count an executed call and the bytes of its result; a person's consent allows as much again today.

        Raises:
            KeyError: the profile of this credential was not loaded.
        """
        day, consent = int(call.received // DAY), ProofClass.CONSENT in proven

        learnt, known = self._profiles.both(call.principal.credential)
        for into in (learnt, known):
            today = into.today
            if today.day == day and not consent:
                today.calls += 1.0
                today.bytes += size
            else:
                into.count(day, size, most=lambda kind: limit(known.daily[kind]), forgive=consent)
        return True

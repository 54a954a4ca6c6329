"""Does this call fit what this agent does? Doubt about intent, from every signal of `guard.drift.score` together.

A call above the calibrated threshold is unusual or alarming as a whole: one finding carries that band, and one
calm finding each its share of the score, so what a reviewer reads adds up to what was decided.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple

from guard.drift.activity import Activity
from guard.drift.calibrate import Thresholds, thresholds
from guard.drift.effect import CHANGES, HURTS, READS, effect
from guard.drift.observation import Observation
from guard.drift.profile import SCORES, Lesson, Profile
from guard.drift.profiles import Profiles, peers_of
from guard.drift.scene import Scene
from guard.drift.score import Factor, Weights, score, shipped
from guard.drift.values import Hasher, values
from guard.model import Band, Call, Classification, Doubt, Finding, Json, ProofClass, Sensitivity
from guard.reasons import Code, Reason

SIGNAL: Final = "behaviour"
IDLE: Final = 900.0
"""Seconds without a call after which an activity is over."""
ACTIVITIES: Final = 1024
PENDING: Final = 4096
AGAIN: Final = 20
"""Calls learnt between two looks at the thresholds."""
DAY: Final = 86400.0

_WEIGHTS: Final = {
    Sensitivity.PUBLIC: READS,
    Sensitivity.INTERNAL: READS,
    Sensitivity.SENSITIVE: CHANGES,
    Sensitivity.CRITICAL: HURTS,
}
_EFFECTS: Final = {
    "read": READS,
    "egress": HURTS,
    "notify": HURTS,
    "destroy": HURTS,
    "execute": HURTS,
    "move_money": HURTS,
    "export_secret": HURTS,
    "grant_privilege": HURTS,
    "change_policy": HURTS,
}


_CODES: Final = {str(code): code for code in Code}


class Assessment(NamedTuple):
    """What one call scored, before it ran, and what the score was held against (None: not calibrated)."""

    seen: Observation
    before: str
    score: float
    factors: tuple[Factor, ...]
    limits: Thresholds | None
    band: Band


class Behaviour:
    """Scores calls against profiles, and teaches the profiles what executed calls may teach."""

    def __init__(self, profiles: Profiles, key: bytes, *, budget: float = 0.02, weights: Weights | None = None) -> None:
        """Judge by `profiles`; `key` keys the digests of values; `budget` is the share of normal calls challenged."""
        self._profiles, self._hasher, self._budget = profiles, Hasher(key), budget
        self._weights = weights or shipped()
        self._activities: OrderedDict[str, Activity] = OrderedDict()
        self._limits: dict[str, tuple[int, Thresholds | None]] = {}
        self._pending: OrderedDict[str, Assessment] = OrderedDict()

    # -------------------------------------------------------------- before the call

    def judge(self, own: str, server: str, seen: Observation, activity: Activity) -> Assessment:
        """Score one call of the profile `own` on `server`.

        Raises:
            KeyError: a profile was not loaded.
        """
        mine, peers = self._profiles[own], self._profiles[peers_of(server)]
        total, factors = score(Scene(seen, mine, peers, activity), self._weights)
        limits = self._threshold(own, mine) or self._threshold(peers_of(server), peers)
        return Assessment(seen, activity.before, total, factors, limits, _band(seen, total, factors, limits))

    def assess(self, call: Call, tags: Classification) -> tuple[Finding, ...]:
        """The findings about one call: none when it is calm.

        Raises:
            KeyError: a profile was not loaded.
        """
        if call.kind != "tool":
            return ()
        seen = self.observe(call.server, call.name, call.arguments, tags)
        key = call.principal.credential
        found = self.judge(key, call.server, seen, self._activity(key, call.received))
        self._pending[call.id] = found
        if len(self._pending) > PENDING:
            self._pending.popitem(last=False)
        return self.findings(found)

    def findings(self, found: Assessment) -> tuple[Finding, ...]:
        """The call as a whole and each factor; nothing for a calm call."""
        return () if found.band is Band.CALM else tuple(_findings(found, self._budget))

    def observe(
        self, server: str, tool: str, arguments: Mapping[str, Json], tags: Classification | None
    ) -> Observation:
        """The call as signals see it; an owner's tags say what it can do, else its name does."""
        weight = effect(tool)
        if tags is not None and tags.tagged:
            weight = max((_EFFECTS.get(one, CHANGES) for one in tags.effects), default=READS)
            weight = max(weight, _WEIGHTS[tags.sensitivity])
        return Observation(f"{server}/{tool}", values(arguments, self._hasher), weight)

    # -------------------------------------------------------------- after the call

    def learn(self, call: Call, proven: frozenset[ProofClass], shown: str, *, cut: bool = False) -> bool:
        """Fold an executed call: all of it if it was unchallenged and not alarming, or if a person wanted it.

        `shown` is the text of its result, `cut` whether there was more. True when a profile changed.
        """
        if call.kind == "protocol":
            return False  # what a listing shows is pinned and no result
        key = call.principal.credential
        activity = self._activity(key, call.received)
        found = self._pending.pop(call.id, None)
        if found is not None:
            activity.called(found.seen)
        activity.showed(shown, cut=cut)
        if found is None:
            return False
        vouched = ProofClass.CONSENT in proven
        if not vouched and (proven or found.band is Band.ALARMING):
            return False
        self.teach(key, call.server, found, now=call.received, day=int(call.received // DAY), vouched=vouched)
        return True

    def teach(self, own: str, server: str, found: Assessment, *, now: float, day: int, vouched: bool = False) -> None:
        """Fold one assessed and executed call into its agent's profile and that of the server."""
        lesson = Lesson(
            tool=found.seen.tool,
            before=found.before,
            values=found.seen.values,
            now=now,
            day=day,
            vouched=vouched,
            score=None if vouched else found.score,
        )

        def fold(into: Profile, known: Profile) -> bool:
            into.learn(lesson, known)
            return True

        self._profiles.learn(own, fold)
        self._profiles.learn(peers_of(server), fold)

    # -------------------------------------------------------------- inside

    def _activity(self, key: str, now: float) -> Activity:
        activity = self._activities.get(key)
        if activity is None or now - activity.last > IDLE:
            activity = self._activities[key] = Activity()
        self._activities.move_to_end(key)
        activity.last = max(now, activity.last)
        if len(self._activities) > ACTIVITIES:
            self._activities.popitem(last=False)
        return activity

    def _threshold(self, key: str, profile: Profile) -> Thresholds | None:
        """The thresholds of a profile, looked at again after every `AGAIN` calls it learnt."""
        stage = len(profile.scores) if len(profile.scores) < SCORES else int(profile.calls) // AGAIN + SCORES
        known = self._limits.get(key)
        if known is None or known[0] // AGAIN != stage // AGAIN:
            known = self._limits[key] = stage, thresholds(profile.scores, self._budget)
        return known[1]


def _band(seen: Observation, total: float, factors: tuple[Factor, ...], limits: Thresholds | None) -> Band:
    """Calm, unusual or alarming; with nothing to calibrate by, only what a result drives and what hurts is unusual."""
    if limits is None:
        driven = any(one.name == "destination_from_result" for one in factors)
        return Band.UNUSUAL if driven and seen.weight >= HURTS else Band.CALM
    if total > limits.alarming:
        return Band.ALARMING
    return Band.UNUSUAL if total > limits.unusual else Band.CALM


def _findings(found: Assessment, budget: float) -> list[Finding]:
    """The call as a whole, and what each factor adds to its score."""
    said = f"score {found.score:.2f}"
    if found.limits is not None:
        limit = found.limits.alarming if found.band is Band.ALARMING else found.limits.unusual
        said += (
            f", threshold {limit:.2f} for {budget:.1%} of calls ({found.limits.achieved:.1%} of the last "
            f"{found.limits.points}); calm without {', '.join(_enough(found))}"
        )
    else:
        said += ", and no history to compare with"
    whole = Finding(
        signal=SIGNAL,
        cause=Doubt.INTENT,
        band=found.band,
        reason=Reason(Code.UNUSUAL_CALL, by=SIGNAL, evidence=said),
        nats=found.score,
    )
    parts = [
        Finding(
            signal=one.name,
            cause=Doubt.INTENT,
            band=Band.CALM,
            reason=Reason(_CODES[one.name], by=SIGNAL, evidence=one.evidence),
            nats=one.value,
        )
        for one in found.factors
    ]
    return [whole, *parts]


def _enough(found: Assessment) -> list[str]:
    """The fewest factors without which the call would have been calm."""
    left, without = found.score, []
    for one in found.factors:
        if found.limits is None or left <= found.limits.unusual:
            break
        left -= one.value
        without.append(one.name)
    return without

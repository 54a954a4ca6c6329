"""Does this call fit what this agent does? Doubt about intent, from every signal of `guard.drift.score` together.

A call above the calibrated threshold is unusual or alarming as a whole: one finding carries that band, and one
calm finding each its share of the score, so what a reviewer reads adds up to what was decided.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from guard.drift.activity import IDLE, Activity
from guard.drift.calibrate import Thresholds, thresholds
from guard.drift.effect import CHANGES, DESTROYS, HURTS, READS, effect
from guard.drift.observation import Measure, Observation
from guard.drift.profile import AGAIN, Lesson, Profile
from guard.drift.profiles import Profiles, peers_of
from guard.drift.scene import Scene
from guard.drift.score import Base, Factor, Weights, factors, shipped
from guard.drift.values import Hasher, values
from guard.model import Band, Call, Classification, Doubt, Finding, Json, ProofClass, Sensitivity
from guard.reasons import Code, Reason

SIGNAL: Final = "behaviour"
ACTIVITIES: Final = 1024
PENDING: Final = 4096
HELD: Final = 16 * 1024 * 1024
"""Bytes of results that all activities together keep."""
_LATELY: Final = 1024
"""Calls whose values, and whose scores by profiles, are kept for the next that are the same."""
_SMALL: Final = 2048  # characters of arguments whose values are kept for the next call that has the same
NEWCOMERS: Final = 3
"""Of how many calls of a server's agents one is scored as if its agent were new."""
FIRST: Final = 20
"""Calls on a server in which everything is new, so that none is."""
FEW: Final = 60
"""Such scores below which every call is."""
NOBODY: Final = Profile()
DAY: Final = 86400.0

_LEVELS: Final = {
    Sensitivity.PUBLIC: READS,
    Sensitivity.INTERNAL: READS,
    Sensitivity.SENSITIVE: CHANGES,
    Sensitivity.CRITICAL: HURTS,
}
_EFFECTS: Final = {
    "read": READS,
    "egress": HURTS,
    "notify": HURTS,
    "destroy": DESTROYS,
    "execute": HURTS,
    "move_money": HURTS,
    "export_secret": HURTS,
    "grant_privilege": HURTS,
    "change_policy": HURTS,
}


_K = TypeVar("_K")
_V = TypeVar("_V")
_CODES: Final = {str(code): code for code in Code}


def plain(result: bytes) -> str:
    """A result that is text."""
    return result.decode("utf-8", "replace")


class Assessment(NamedTuple):
    """What one call scored, before it ran, and what the score was held against (None: not calibrated)."""

    seen: Observation
    before: str
    score: float
    parts: list[Measure]
    limits: Thresholds | None
    band: Band
    newcomer: float | None = None
    """What an agent without history would score: asked now and then, to set the threshold of such agents."""
    base: Base | None = None
    """What of the score is due to profiles alone."""

    @property
    def doubt(self) -> tuple[Sequence[int], float]:
        """The hashes of its new values, and how doubtful they are: see `guard.drift.score.Base.doubt`."""
        return self.base.doubt(self.score) if self.base else ((), 0.0)

    @property
    def factors(self) -> tuple[Factor, ...]:
        """What adds up to the score, the largest first."""
        return factors(self.parts)


class Behaviour:
    """Scores calls against profiles, and teaches the profiles what executed calls may teach."""

    def __init__(
        self,
        profiles: Profiles,
        key: bytes,
        *,
        budget: float = 0.02,
        weights: Weights | None = None,
        read: Callable[[bytes], str] = plain,
    ) -> None:
        """Judge by `profiles`; `key` keys the digests of values; `budget` is the share of normal calls challenged.

        `read` gives the text that a result showed the agent.
        """
        self._profiles, self._hasher, self._budget, self._read = profiles, Hasher(key), budget, read
        self._lately: dict[tuple[str, str, str], tuple[Classification | None, Observation]] = {}
        self._known: dict[tuple[str, int], Base] = {}
        self._held = 0
        self._weights = weights or shipped()
        self._activities: OrderedDict[str, Activity] = OrderedDict()
        self._pending: OrderedDict[str, tuple[Assessment, Activity]] = OrderedDict()

    # -------------------------------------------------------------- before the call

    def judge(self, own: str, server: str, seen: Observation, activity: Activity, *, lesson: bool = True) -> Assessment:
        """Score one call of the profile `own` on `server`; `lesson` when it may be taught afterwards.

        Raises:
            KeyError: a profile was not loaded.
        """
        mine, peers = self._profiles[own], self._profiles[peers_of(server)]
        scene, known = Scene(seen, mine, peers), self._known.get((own, id(seen)))
        if known is None or not known.holds(scene):
            known = Base(scene, self._weights)
            _keep(self._known, (own, id(seen)), known)
        total, parts = known.score(activity, scene)
        limits, newcomer = self._threshold(mine, peers), None
        if lesson and peers.calls >= FIRST and (len(peers.scores) < FEW or int(peers.calls) % NEWCOMERS == 0):
            stranger = Scene(seen, NOBODY, peers)
            newcomer = Base(stranger, self._weights).score(activity, stranger)[0]
        band = Band.CALM if limits and total <= limits.unusual else _band(seen, total, parts, limits)
        return Assessment(seen, activity.before, total, parts, limits, band, newcomer, known)

    def assess(self, call: Call, tags: Classification, no_news: frozenset[str] = frozenset()) -> tuple[Finding, ...]:
        """The findings about one call: none when it is calm; measures named in `no_news` do not count.

        Raises:
            KeyError: a profile was not loaded.
        """
        if call.kind != "tool":
            return ()
        seen = self.observed(call, tags)
        key = call.principal.credential
        activity = self._activity(key, call.received)
        found = self.judge(key, call.server, seen, activity)
        if no_news:
            found = _without(found, no_news)
        self._pending[call.id] = found, activity
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
        return Observation.of(f"{server}/{tool}", values(arguments, self._hasher), level(tool, tags))

    def observed(self, call: Call, tags: Classification | None) -> Observation:
        """The same, where the values of a call that came lately are not taken apart again."""
        what = call.server, call.name, call.canonical
        known = self._lately.get(what)
        if known is not None and (known[0] is tags or known[0] == tags):
            return known[1]
        seen = self.observe(call.server, call.name, call.arguments, tags)
        if len(call.canonical) <= _SMALL:
            _keep(self._lately, what, (tags, seen))
        return seen

    # -------------------------------------------------------------- after the call

    def learn(
        self, call: Call, proven: frozenset[ProofClass], shown: bytes, *, cut: bool = False, challenged: bool = False
    ) -> bool:
        """Fold an executed call: all of it if it was unchallenged and not alarming, or if a person wanted it.

        `shown` is its result, `cut` whether there was more. True when a profile changed.
        """
        if call.kind == "protocol":
            return False  # what a listing shows is pinned and no result
        key = call.principal.credential
        known = self._pending.pop(call.id, None)
        if known is None:
            self._hold(self._activity(key, call.received), shown, cut=cut)
            return False
        found, activity = known
        vouched = ProofClass.CONSENT in proven
        activity.called(found.seen, *(() if vouched else found.doubt))
        self._hold(activity, shown, cut=cut)
        if not vouched and (proven or challenged or found.band is Band.ALARMING):
            return False
        self.teach(key, call.server, found, now=call.received, day=int(call.received // DAY), vouched=vouched)
        return True

    def ended(self, call: Call) -> None:
        """An assessed call came to its end; one that was not executed teaches nothing."""
        self._pending.pop(call.id, None)

    def teach(self, own: str, server: str, found: Assessment, *, now: float, day: int, vouched: bool = False) -> None:
        """Fold one assessed and executed call into its agent's profile and that of the server."""
        mine, peers = self._profiles[own], self._profiles[peers_of(server)]
        if not vouched and mine.full(day) and peers.full(day):
            return
        lesson = Lesson(
            tool=found.seen.tool,
            before=found.before,
            values=found.seen.values,
            now=now,
            day=day,
            vouched=vouched,
            score=None if vouched else found.score,
        )

        others = lesson._replace(score=None if vouched else found.newcomer)
        for key, told in ((own, lesson), (peers_of(server), others)):
            learnt, known = self._profiles.both(key)
            if vouched or not known.full(day):
                learnt.learn(told, known)
                known.learn(told, known)

    # -------------------------------------------------------------- inside

    def _hold(self, activity: Activity, shown: bytes, *, cut: bool) -> None:
        """Keep a result; the activities that slept longest let go of theirs when all together hold too much."""
        before = activity.held
        activity.showed(shown, cut=cut)
        self._held += activity.held - before
        if self._held > HELD:
            for one in self._activities.values():
                self._held -= one.held
                one.forget()
                if self._held <= HELD // 2:
                    return

    def _activity(self, key: str, now: float) -> Activity:
        activity = self._activities.get(key)
        if activity is None or now - activity.last > IDLE:
            if activity is not None:
                self._held -= activity.held
            activity = self._activities[key] = Activity(self._read)
            if len(self._activities) > ACTIVITIES:
                self._held -= self._activities.popitem(last=False)[1].held
        self._activities.move_to_end(key)
        activity.last = max(activity.last, now)
        return activity

    def _threshold(self, mine: Profile, peers: Profile) -> Thresholds | None:
        """The thresholds of a profile, or else of its peers; looked at again after every `AGAIN` scores learnt."""
        if peers.unread >= AGAIN:
            peers.unread, peers.limits = 0, thresholds(peers.scores, self._budget)
        if mine.unread >= AGAIN:
            mine.unread, mine.limits = 0, thresholds(mine.scores, self._budget, peers.limits)
        return mine.limits or peers.limits


def level(tool: str, tags: Classification | None) -> int:
    """What a call can do: by its owner's tags, or by the tool's name where nobody tagged it."""
    if tags is None or not tags.tagged:
        return effect(tool)
    found = _LEVELS[tags.sensitivity]
    for one in tags.effects:
        found = max(found, _EFFECTS.get(one, CHANGES))
    return found


def _keep(of: dict[_K, _V], key: _K, value: _V) -> None:
    """Remember one more; the oldest makes room."""
    if len(of) >= _LATELY:
        del of[next(iter(of))]
    of[key] = value


def _band(seen: Observation, total: float, parts: list[Measure], limits: Thresholds | None) -> Band:
    """Calm, unusual or alarming; with nothing to calibrate by, only what a result drives and what hurts is unusual."""
    if limits is None:
        driven = any(name == "destination_from_result" for name, *_ in parts)
        return Band.UNUSUAL if driven and seen.can >= HURTS else Band.CALM
    if total > limits.alarming:
        return Band.ALARMING
    return Band.UNUSUAL if total > limits.unusual else Band.CALM


def _without(found: Assessment, measures: frozenset[str]) -> Assessment:
    """The same call where some measures do not count."""
    parts = [part for part in found.parts if part[0] not in measures]
    total = sum(part[1] for part in parts)
    return found._replace(score=total, parts=parts, band=_band(found.seen, total, parts, found.limits))


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

"""What is normal for one credential (or for all agents of one server): a fold over executed calls.

Everything counted is a sum that decays with time, so what two processes learnt apart adds up (`Profile.add`). Values
are keyed hashes; each carries the days it was seen on, and stays in `quarantine` until it was seen again long
enough after, or until a person wanted it. Bounded: the oldest and rarest go first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from guard.drift.calibrate import Thresholds
from guard.drift.reference import Reference
from guard.drift.usual import limit
from guard.drift.values import Value

NETWORKS: Final = 16
"""Networks kept for one credential: the first, and the most recently taught ones."""
KINDS: Final = 64
"""Kinds of calls (effects, sensitivities) that are told apart."""
TOGETHER: Final = 32
"""Pairs of networks kept at which one credential is used at once."""
BELIEVED: Final = 10
"""Days in which a new profile believes what it sees."""
SPAN: Final = 14.0
"""Days of the longest quarantine."""
NEVER: Final = 0x7FFF
TOOLS: Final = 128
PAIRS: Final = 1024
SLOTS: Final = 384
VALUES: Final = 2048
PER_SLOT: Final = 256
SCORES: Final = 400
"""Scores of the last calls that are kept to calibrate by."""
DAILY: Final = 500.0
"""Calls that may teach counts on one day; what comes after them teaches nothing, so nobody floods a profile."""
BEYOND_BUDGET: Final = 1.5
"""Times its budget that scores above the threshold may count for the next one."""
SPARE: Final = 2.0
"""Scores above the threshold that may count in a row."""
_VERSIONS: Final = itertools.count(1)
"""No two states of profiles have the same one, so that it names a state without keeping it."""
AGAIN: Final = 20
"""Scores learnt between two looks at the thresholds."""
DAY: Final = 86400.0
HOURS: Final = 48
LEVELS: Final = 16
"""Levels of a rate of calls; each is twice the one below."""
HALF_LIFE: Final = 30 * DAY
LEAST: Final = 0.01
"""What is left of a pair of tools when it is forgotten."""
FREE: Final = 0.9
"""A slot whose values are new this often, over `FREE_AFTER` of them, is free text: its values are not kept."""
FREE_AFTER: Final = 24

DAYS: Final = 0x3FFF
"""Day numbers are kept modulo this, plus one."""
START: Final = "^"
"""What stands before the first call of an activity."""


class Seen:
    """How often (decayed) something was seen, on which day first and last, and whether it counts as known."""

    __slots__ = ("count", "first", "last", "trusted")

    def __init__(self, count: float = 0.0, first: int = NEVER, last: int = NEVER, *, trusted: bool = False) -> None:
        """`first` and `last` are day numbers, `NEVER` for none."""
        self.count, self.first, self.last, self.trusted = count, first, last, trusted

    def note(self, mass: float, day: int, born: int) -> None:
        """Count one more on this day, in a profile that began on day `born`."""
        self.count += mass
        if self.first == NEVER:
            self.first = self.last = day
        else:
            self.last = max(self.last, day)
        if not self.trusted:
            self.trusted = self.last - self.first >= quarantine(self.first - born)

    def join(self, other: Seen, born: int) -> None:
        """Add what another process saw."""
        self.count += other.count
        if other.first != NEVER:
            self.first = min(self.first, other.first)
            self.last = other.last if self.last == NEVER else max(self.last, other.last)
            self.trusted |= other.trusted or self.last - self.first >= quarantine(self.first - born)


def quarantine(age: int) -> float:
    """Days between two sightings before something new counts as known, in a profile that is `age` days old.

    A profile's first days are believed at once, for nothing else is known then. The older it is, the longer
    something new takes: whoever wants to be learnt has to keep it up for two weeks. A clock that was set back to
    before its beginning makes no profile young.
    """
    if age < 0:
        return SPAN
    return 0.0 if age < BELIEVED else min(SPAN, max(1.0, (age - BELIEVED) / 4))


class Slot:
    """One argument path of one tool: how many values it took, how many were new, and which are known."""

    __slots__ = ("fresh", "total", "values")

    def __init__(self, total: float = 0.0, fresh: float = 0.0) -> None:
        self.total, self.fresh = total, fresh
        self.values: dict[int, Seen] = {}

    @property
    def free(self) -> bool:
        """Whether it holds free text."""
        return self.total >= FREE_AFTER and self.fresh > FREE * self.total


class Lesson(NamedTuple):
    """What one executed call teaches.

    `before` is the tool called before it in its activity, `now` is in seconds, `day` the number of the day, `vouched`
    whether a person wanted exactly this, `score` what it scored before it ran.
    """

    tool: str
    before: str
    values: tuple[Value, ...]
    now: float
    day: int
    vouched: bool = False
    score: float | None = None


class Today:
    """Calls and bytes of results since midnight, and how much of each a person allowed."""

    __slots__ = ("allowance", "bytes", "calls", "day")

    def __init__(self, day: int = NEVER, calls: float = 0.0, size: float = 0.0) -> None:
        """Begin a day."""
        self.day, self.calls, self.bytes = day, calls, size
        self.allowance = {"calls": 0.0, "bytes": 0.0}

    def amount(self, kind: str) -> float:
        """What there was so far."""
        return self.calls if kind == "calls" else self.bytes

    def allowed(self, kind: str) -> float:
        """How much a person allowed."""
        return self.allowance[kind]


class Profile:
    """Counts of one credential. `networks` in the order they were learnt; the first is the baseline.

    What is `forgotten` counts no more for what is normal among all agents of a server.
    """

    __slots__ = (
        "after",
        "at",
        "born",
        "calls",
        "calm_hour",
        "ceiling",
        "clients",
        "daily",
        "day",
        "everywhere",
        "forgotten",
        "hours",
        "kinds",
        "limits",
        "mass",
        "networks",
        "pairs",
        "partial",
        "past",
        "rates",
        "reference",
        "scores",
        "since",
        "slots",
        "spare",
        "today",
        "together",
        "tools",
        "unread",
        "version",
    )

    def __init__(self) -> None:
        """Know nothing."""
        self.networks: tuple[str, ...] = ()
        self.clients: tuple[str, ...] = ()
        self.forgotten = False
        self.together: tuple[str, ...] = ()
        self.hours = [0.0] * HOURS
        self.calm_hour = -1.0
        self.ceiling: tuple[float, float] | None = None
        self.today = Today()
        self.partial = False
        self.past: Today | None = None
        self.daily: dict[str, list[float]] = {"calls": [0.0, 0.0, 0.0], "bytes": [0.0, 0.0, 0.0]}
        self.reference = Reference()
        self.rates = [[0.0] * LEVELS, [0.0] * LEVELS]
        self.at = 0.0
        self.day, self.mass, self.born = 0, 0.0, NEVER
        self.scores: list[float] = []
        self.limits: Thresholds | None = None
        self.version, self.spare = next(_VERSIONS), SPARE
        self.unread = AGAIN
        self.calls = 0.0
        self.tools: dict[str, Seen] = {}
        self.kinds: dict[str, Seen] = {}
        self.since = NEVER
        self.after: dict[str, float] = {}
        self.pairs: dict[tuple[str, str], float] = {}
        self.slots: dict[str, Slot] = {}
        self.everywhere: dict[int, Seen] = {}

    def blank(self) -> Profile:
        """An empty profile that began when this one did, for what is learnt from now on."""
        empty = Profile()
        empty.partial = True
        empty.born, empty.at, empty.day, empty.mass = self.born, self.at, self.day, self.mass
        empty.spare, empty.limits, empty.unread = self.spare, self.limits, 0
        empty.since = self.since
        return empty

    # -------------------------------------------------------------- the fold

    def full(self, day: int) -> bool:
        """Whether this day has taught all it may."""
        return self.mass >= DAILY and day & DAYS == self.day

    def learn(self, lesson: Lesson, known: Profile) -> None:
        """Fold one executed call. `known` is the whole profile where this one holds only what is new since a while.

        A time that is not finite or lies before the last one decays nothing.
        """
        self.version = next(_VERSIONS)
        self.decay(lesson.now)
        day = lesson.day & DAYS
        if self.born == NEVER:
            self.born = day
        if day != self.day:
            self.day, self.mass = day, 0.0
        self.mass += 1.0
        if self.mass > DAILY and not lesson.vouched:
            return
        if lesson.score is not None and self._counts(lesson.score):
            self.scores.append(lesson.score)
            self.unread += 1
            del self.scores[:-SCORES]
        tool, before = lesson.tool, lesson.before
        self.calls += 1.0
        self._note(self.tools.setdefault(tool, Seen()), day, vouched=lesson.vouched)
        self.after[before] = self.after.get(before, 0.0) + 1.0
        self.pairs[before, tool] = self.pairs.get((before, tool), 0.0) + 1.0
        for value in lesson.values:
            self._value(tool + value.path, value, day, known, vouched=lesson.vouched)
        self._bound()

    def _counts(self, score: float) -> bool:
        """Whether a score counts for the threshold: of those above it only little more than the budget.

        So a burst of unusual calls moves the threshold slowly, and what became usual moves it in the end.
        """
        if self.limits is None:
            return True
        self.spare = min(SPARE, self.spare + BEYOND_BUDGET * self.limits.budget)
        if score <= self.limits.unusual:
            return True
        if self.spare < 1.0:
            return False
        self.spare -= 1.0
        return True

    def _value(self, key: str, value: Value, day: int, known: Profile, *, vouched: bool) -> None:
        slot = self.slots.setdefault(key, Slot())
        whole = known.slots.get(key)
        slot.total += 1.0
        if whole is None or value.digest not in whole.values:
            slot.fresh += 1.0
        if slot.free or (whole is not None and whole.free):
            slot.values.clear()
            return
        seen = slot.values.get(value.digest)
        if seen is None:
            seen = slot.values[value.digest] = Seen()
            if len(slot.values) > PER_SLOT:
                _forget(slot.values, PER_SLOT * 3 // 4)
        self._note(seen, day, vouched=vouched)
        for digest in (value.digest, value.parent):
            if digest:
                self._note(self.everywhere.setdefault(digest, Seen()), day, vouched=vouched)

    def _note(self, seen: Seen, day: int, *, vouched: bool) -> None:
        seen.note(1.0, day, self.born)
        seen.trusted |= vouched

    def decay(self, now: float) -> None:
        """Let counts fade to their value at `now`; days and networks stay. Once a day is often enough."""
        if not math.isfinite(now) or now - self.at < DAY:
            return
        factor = 0.5 ** ((now - self.at) / HALF_LIFE) if self.at else 1.0
        self.at = now
        if factor == 1.0:
            return
        self.calls *= factor
        self.hours = [count * factor for count in self.hours]
        self.rates = [[days * factor for days in one] for one in self.rates]
        self.ceiling = None
        self.daily = {kind: [one * factor for one in stats] for kind, stats in self.daily.items()}
        for seen in (*self.tools.values(), *self.kinds.values(), *self.everywhere.values()):
            seen.count *= factor
        self.after = {key: count * factor for key, count in self.after.items()}
        self.pairs = {key: kept for key, count in self.pairs.items() if (kept := count * factor) > LEAST}
        for slot in self.slots.values():
            slot.total, slot.fresh = slot.total * factor, slot.fresh * factor
            for seen in slot.values.values():
                seen.count *= factor

    def _bound(self) -> None:
        if len(self.tools) > TOOLS:
            _forget(self.tools, TOOLS * 3 // 4)
        if len(self.pairs) > PAIRS:
            keep = sorted(self.pairs, key=self.pairs.__getitem__)[-PAIRS * 3 // 4 :]
            self.pairs = {key: self.pairs[key] for key in keep}
            self.after = {}
            for (before, _), count in self.pairs.items():
                self.after[before] = self.after.get(before, 0.0) + count
        if len(self.slots) > SLOTS:
            keep_slots = sorted(self.slots, key=lambda key: self.slots[key].total)[-SLOTS * 3 // 4 :]
            self.slots = {key: self.slots[key] for key in keep_slots}
        if len(self.everywhere) > VALUES:
            _forget(self.everywhere, VALUES * 3 // 4)
            for slot in self.slots.values():
                for digest in [one for one in slot.values if one not in self.everywhere]:
                    del slot.values[digest]

    @property
    def counts(self) -> dict[str, float]:
        """Calls (decayed) by tool."""
        return {name: seen.count for name, seen in self.tools.items()}

    def note_kinds(self, did: Iterable[str], day: int, *, vouched: bool) -> None:
        """Count a call that does these kinds of things; they may be counted `since` later than the rest."""
        day &= DAYS
        if self.since == NEVER:
            self.since = day
        for kind in did:
            seen = self.kinds.setdefault(kind, Seen())
            seen.note(1.0, day, self.since)
            seen.trusted |= vouched
        if len(self.kinds) > KINDS:
            _forget(self.kinds, KINDS * 3 // 4)

    def knows(self, kind: str) -> bool:
        """Whether a kind is out of quarantine."""
        seen = self.kinds.get(kind)
        return seen is not None and seen.trusted

    def late(self, day: int) -> bool:
        """Whether kinds and rates were not counted from the beginning, and for too short a time to know what is new."""
        began_late = self.born != NEVER and self.since > self.born
        return began_late and (day & DAYS) - self.since < BELIEVED

    # -------------------------------------------------------------- days, networks, clients

    def count(self, day: int, size: int, *, most: Callable[[str], float | None], forgive: bool) -> None:
        """Count a call of this day; the day before it closes, clipped to what was usual so that no day teaches much."""
        if day > self.today.day or self.today.day == NEVER:
            if self.partial and self.past is None and self.today.day != NEVER:
                self.past = self.today  # the rest of that day is in the store
            else:
                self._close_day(most)
            self.today = Today(day)
        self.today.calls += 1.0
        self.today.bytes += size
        if forgive:
            self.today.allowance = {"calls": 2 * self.today.calls, "bytes": 2 * self.today.bytes}

    def _close_day(self, most: Callable[[str], float | None]) -> None:
        self.ceiling = None
        for kind, stats in self.daily.items():
            if (amount := self.today.amount(kind)) > 0:
                usual = most(kind)
                told = math.log(amount) if usual is None else min(math.log(amount), usual)
                self.daily[kind] = [stats[0] + 1.0, stats[1] + told, stats[2] + told * told]

    def with_client(self, name: str) -> bool:
        """Know this client software too; the first one is never pushed out. True when it was not known."""
        if name in self.clients:
            return False
        clients = (*self.clients, name)
        self.clients = (clients[0], *clients[2:]) if len(clients) > NETWORKS else clients
        return True

    def with_network(self, network: str) -> bool:
        """Know this network too; the baseline is never pushed out. True when it was not known."""
        if network in self.networks:
            return False
        networks = (*self.networks, network)
        if len(networks) > NETWORKS:
            networks = (networks[0], *networks[2:])
        self.networks = networks
        return True

    def with_pair(self, networks: str) -> bool:
        """Know that it is used from these two networks at once. True when that was not known."""
        if networks in self.together:
            return False
        self.together = (*self.together, networks)[-TOGETHER:]
        return True

    # -------------------------------------------------------------- joining

    def add(self, other: Profile) -> None:
        """Add what another process learnt: counts add up, days and networks join."""
        self.version = next(_VERSIONS)
        late = max(self.at, other.at)
        self.decay(late)
        other.decay(late)
        self.at = late
        self.reference.add(other.reference)
        if other.partial and not self.partial:  # what is new since the last time; a whole profile brings its own
            self.reference.fold(other.counts, other.scores, late)
        for network in other.networks:
            self.with_network(network)
        for client in other.clients:
            self.with_client(client)
        self._add_days(other)
        self.calls += other.calls
        self.born = min(self.born, other.born)
        self.scores = [*self.scores, *other.scores][-SCORES:]
        self.unread, self.spare = AGAIN, min(self.spare, other.spare)
        self.day, self.mass = max((self.day, self.mass), (other.day, other.mass))
        for name, seen in other.tools.items():
            self.tools.setdefault(name, Seen()).join(seen, self.born)
        self._add_kinds(other)
        for digest, seen in other.everywhere.items():
            self.everywhere.setdefault(digest, Seen()).join(seen, self.born)
        for before, count in other.after.items():
            self.after[before] = self.after.get(before, 0.0) + count
        for pair, count in other.pairs.items():
            self.pairs[pair] = self.pairs.get(pair, 0.0) + count
        for key, slot in other.slots.items():
            mine = self.slots.setdefault(key, Slot())
            mine.total, mine.fresh = mine.total + slot.total, mine.fresh + slot.fresh
            for digest, seen in slot.values.items():
                mine.values.setdefault(digest, Seen()).join(seen, self.born)
        self._bound()

    def _add_kinds(self, other: Profile) -> None:
        self.since = min(self.since, other.since)
        for name, seen in other.kinds.items():
            self.kinds.setdefault(name, Seen()).join(seen, self.since)
        if len(self.kinds) > KINDS:
            _forget(self.kinds, KINDS * 3 // 4)

    def _add_days(self, other: Profile) -> None:
        self.forgotten |= other.forgotten
        for networks in other.together:
            self.with_pair(networks)
        self.hours = [mine + theirs for mine, theirs in zip(self.hours, other.hours, strict=True)]
        self.rates = [
            [mine + theirs for mine, theirs in zip(own, new, strict=True)]
            for own, new in zip(self.rates, other.rates, strict=True)
        ]
        self.ceiling, self.calm_hour = None, -1.0
        for kind, stats in other.daily.items():
            self.daily[kind] = [mine + theirs for mine, theirs in zip(self.daily[kind], stats, strict=True)]
        for today in (other.past, other.today):
            if today is not None and today.day != NEVER:
                self._add_today(today)

    def _add_today(self, theirs: Today) -> None:
        mine = self.today
        if mine.day == theirs.day:
            mine.calls, mine.bytes = mine.calls + theirs.calls, mine.bytes + theirs.bytes
            mine.allowance = {kind: max(mine.allowance[kind], theirs.allowance[kind]) for kind in mine.allowance}
        elif mine.day == NEVER or theirs.day > mine.day:
            self._close_day(lambda kind: limit(self.daily[kind]))
            self.today = Today(theirs.day, theirs.calls, theirs.bytes)
            self.today.allowance = dict(theirs.allowance)


def _forget(seen: dict[str, Seen] | dict[int, Seen], keep: int) -> None:
    """Keep the `keep` that were seen on most days, then most often."""
    ranked = sorted(seen.items(), key=lambda item: (item[1].trusted, item[1].count))
    for key, _ in ranked[: len(seen) - keep]:
        del seen[key]  # type: ignore[arg-type]  # the key came from this mapping

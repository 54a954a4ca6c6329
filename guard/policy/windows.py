"""Change windows and freezes: named spans of local time that conditions ask for as `windows.NAME`.

Which days recur is said as in calendars (RFC 5545) and worked out by python-dateutil, once for each year.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

if TYPE_CHECKING:
    from dateutil.rrule import rrule

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS: Final = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])", re.ASCII)
_DATES: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:\.\.([0-9]{4}-[0-9]{2}-[0-9]{2}))?", re.ASCII)
_MINUTES: Final = 24 * 60
MAX_SPANS: Final = 64
"""Spans of dates one window may list."""
_EARLIEST: Final = date(2000, 1, 1)
_LIST: Final = r"-?[1-9][0-9]{0,2}(?:,-?[1-9][0-9]{0,2})*"
_DAY: Final = r"[+-]?[0-9]{0,2}(?:MO|TU|WE|TH|FR|SA|SU)"
_PARTS: Final = {
    "INTERVAL": re.compile(r"[1-9][0-9]?"),
    "BYDAY": re.compile(rf"{_DAY}(?:,{_DAY})*"),
    "WKST": re.compile("MO|SU"),
} | {name: re.compile(_LIST) for name in ("BYMONTHDAY", "BYMONTH", "BYYEARDAY", "BYWEEKNO", "BYSETPOS")}
_FREQUENCIES: Final = {
    "DAILY": frozenset({"INTERVAL"}),
    "WEEKLY": frozenset({"INTERVAL", "BYDAY", "WKST"}),
    "MONTHLY": frozenset({"INTERVAL", "BYDAY", "BYMONTHDAY", "BYSETPOS"}),
    "YEARLY": frozenset(
        {"INTERVAL", "BYMONTH", "BYDAY", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYSETPOS", "WKST"},
    ),
}
"""What may stand beside each frequency; of the parts that name days one must be there, or the dates say it."""
_NAMING: Final = frozenset({"BYDAY", "BYMONTHDAY", "BYYEARDAY"})
_CYCLE: Final = 9599
"""A year after which the calendar has one whole cycle left, so that a rule that never comes true is found soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Open on `days` (0 is Monday) that recur, from minute `start` to before minute `end`, within one of the spans.

    A window whose end is not after its start passes midnight and belongs to the day it starts on. The
    wall clock of `zone` counts, so daylight saving time moves the window with the people in it.
    """

    zone: tzinfo
    days: frozenset[int] = frozenset(range(7))
    start: int = 0
    end: int = _MINUTES
    spans: tuple[tuple[date, date], ...] = ((date.min, date.max),)
    recurs: str = ""
    _last: list[tuple[int, bool]] = field(default_factory=lambda: [(-1, False)], init=False, repr=False, compare=False)

    def open(self, now: float) -> bool:
        """Whether the window is open at `now` (Unix seconds); worked out once a minute."""
        minute, verdict = self._last[0]
        if minute != now // 60:
            minute, verdict = int(now // 60), self._open(now)
            self._last[0] = (minute, verdict)
        return verdict

    def _open(self, now: float) -> bool:
        local = datetime.fromtimestamp(now, self.zone)
        minute = local.hour * 60 + local.minute
        if self.start < self.end:
            return self._on(local.date()) and self.start <= minute < self.end
        yesterday = local.date() - timedelta(days=1)
        return (self._on(local.date()) and minute >= self.start) or (self._on(yesterday) and minute < self.end)

    def _on(self, day: date) -> bool:
        return (
            day.weekday() in self.days
            and any(first <= day <= last for first, last in self.spans)
            and (not self.recurs or day in _recurring(self.recurs, self.spans[0][0], day.year))
        )


@lru_cache(maxsize=1024)
def _recurring(rule: str, first: date, year: int) -> frozenset[date]:
    """The days of a year on which a rule recurs; one that counts, counts from `first`."""
    start = date(year, 1, 1) if first == date.min else first
    found = _rule(rule, start).between(
        datetime(year, 1, 1),  # noqa: DTZ001 - days of a calendar
        datetime(year, 12, 31),  # noqa: DTZ001 - the same
        inc=True,
    )
    return frozenset(moment.date() for moment in found)


def _rule(text: str, start: date) -> rrule:
    from dateutil.rrule import rrulestr  # noqa: PLC0415 - for the few policies that recur

    made: rrule = rrulestr(text, dtstart=datetime(start.year, start.month, start.day))  # noqa: DTZ001 - a wall clock
    return made


def recurrence(text: str, first: date | None) -> str:
    """Check a rule of RFC 5545 such as `FREQ=MONTHLY;BYDAY=2TU`; `first` is the first day of the window's dates.

    Raises:
        ValueError: what to write instead.
    """
    pairs = [part.partition("=")[::2] for part in text.split(";")]
    parts = dict(pairs)
    frequency = parts.pop("FREQ", "")
    if frequency not in _FREQUENCIES:
        raise ValueError(f'recurs is written like "FREQ=MONTHLY;BYDAY=2TU"; FREQ is one of {", ".join(_FREQUENCIES)}')
    known = _FREQUENCIES[frequency]
    if len(pairs) != len(parts) + 1 or not all(name in known and _PARTS[name].fullmatch(parts[name]) for name in parts):
        raise ValueError(f"with FREQ={frequency}, recurs may have {', '.join(sorted(known))}, each once")
    if frequency == "WEEKLY" and re.search("[0-9]", parts.get("BYDAY", "")):
        raise ValueError("the second Monday is one of a month or year: FREQ=MONTHLY;BYDAY=2MO")
    if first is None and parts.get("INTERVAL", "1") != "1":
        raise ValueError('INTERVAL needs a first day to count from; give dates: "2026-01-05..2027-01-04"')
    if first is not None and first < _EARLIEST:
        raise ValueError(f"recurs counts from the first of the dates, which is {_EARLIEST} or later")
    if frequency != "DAILY" and first is None and parts.keys().isdisjoint(_NAMING):
        raise ValueError(f"say on which days, with {' or '.join(sorted(_NAMING & known))}")
    start = date(_CYCLE, 1, 1) if first is None else first
    try:
        comes = next(iter(_rule(text, start)), None)
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"the rule cannot be worked out: {str(error)[:80]}") from None
    if comes is None:
        raise ValueError("there is no such day")
    return text


def days(text: str) -> frozenset[int]:
    """Read `mon-fri`, `sat,sun` or `mon-wed,fri`; a span may pass the end of the week.

    Raises:
        ValueError: what to write instead.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f'days are written like "mon-fri" or "sat,sun", of {", ".join(DAYS)}')
        start = DAYS.index(first)
        count = (DAYS.index(last or first) - start) % 7 + 1
        found.update((start + step) % 7 for step in range(count))
    return frozenset(found)


def hours(text: str) -> tuple[int, int]:
    """Read `08:00-18:00` as minutes of the day; `24:00` is the end of the day.

    Raises:
        ValueError: what to write instead.
    """
    match = _HOURS.fullmatch(text)
    numbers = [int(part) for part in match.groups()] if match else []
    start, end = (numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]) if match else (-1, -1)
    if not 0 <= start < _MINUTES or not 0 < end <= _MINUTES or start == end:
        raise ValueError('hours are written like "08:00-18:00" or, past midnight, "22:00-06:00"')
    return start, end


def dates(text: str) -> tuple[date, date]:
    """Read `2026-12-20..2027-01-06` or one day; both ends are included.

    Raises:
        ValueError: what to write instead.
    """
    match = _DATES.fullmatch(text)
    try:
        first, last = (
            (date.fromisoformat(match[1]), date.fromisoformat(match[2] or match[1])) if match else (None, None)
        )
    except ValueError:
        first = last = None
    if first is None or last is None or first > last:
        raise ValueError('dates are written like "2026-12-20..2027-01-06", the earlier first')
    return first, last


def zone(name: str) -> ZoneInfo:
    """The time zone of this IANA name.

    Raises:
        ValueError: what to write instead.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            'the time zone is not known; write an IANA name such as "Europe/Berlin" or "UTC"'
            " (without a system time zone database, install the tzdata package)"
        ) from None

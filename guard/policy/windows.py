"""Change windows and freezes: named spans of local time that conditions ask for as `windows.NAME`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS: Final = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])", re.ASCII)
_DATES: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:\.\.([0-9]{4}-[0-9]{2}-[0-9]{2}))?", re.ASCII)
_MINUTES: Final = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Open on `days` (0 is Monday), from minute `start` to before minute `end`, within the dates.

    A window whose end is not after its start passes midnight and belongs to the day it starts on. The
    wall clock of `zone` counts, so daylight saving time moves the window with the people in it.
    """

    zone: tzinfo
    days: frozenset[int] = frozenset(range(7))
    start: int = 0
    end: int = _MINUTES
    first: date = date.min
    last: date = date.max

    def open(self, now: float) -> bool:
        """Whether the window is open at `now` (Unix seconds)."""
        local = datetime.fromtimestamp(now, self.zone)
        minute = local.hour * 60 + local.minute
        if self.start < self.end:
            return self._on(local.date()) and self.start <= minute < self.end
        yesterday = local.date() - timedelta(days=1)
        return (self._on(local.date()) and minute >= self.start) or (self._on(yesterday) and minute < self.end)

    def _on(self, day: date) -> bool:
        return day.weekday() in self.days and self.first <= day <= self.last


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


def opened(windows: Mapping[str, Window], now: float) -> dict[str, bool]:
    """Which of the windows are open at `now`."""
    return {name: window.open(now) for name, window in windows.items()}

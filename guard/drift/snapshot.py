"""Profiles as texts: JSON, versioned; networks in clear, counts compressed, and 14 bytes for each value.

A snapshot comes from the guard's own store. Even so it is unpacked only up to `LARGEST`.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from guard.drift.profile import HOURS, LEVELS, NEVER, SCORES, START, Profile, Seen, Slot, Today
from guard.drift.reference import BINS, Reference
from guard.model import Json

VERSION: Final = 2
_ROW: Final = struct.Struct(">QeHH")
_TRUSTED: Final = 0x8000
_NO_FLAG: Final = 0x7FFF
_MOST: Final = 65000.0
LARGEST: Final = 1024 * 1024
"""Bytes of the counts of a snapshot."""


def dump(profile: Profile) -> str:
    """The snapshot of a profile."""
    tools, today = list(profile.tools), profile.today
    index = {name: at for at, name in enumerate(tools)}
    slots: list[Json] = []
    kept: set[int] = set()
    rows: list[bytes] = []
    for key, slot in profile.slots.items():
        kept.update(slot.values)
        slots.append([key, round(slot.total, 2), round(slot.fresh, 2), len(slot.values)])
        rows.append(_pack(slot.values))
    rest = {digest: seen for digest, seen in profile.everywhere.items() if digest not in kept}
    rows.append(_pack(rest))
    counts: dict[str, Json] = {
        "clients": list(profile.clients),
        "together": list(profile.together),
        "hours": [round(count, 2) for count in profile.hours],
        "forgotten": profile.forgotten,
        "slow": profile.reference.rows(),
        "rates": [[round(days, 2) for days in one] for one in profile.rates],
        "daily": {kind: [round(one, 4) for one in stats] for kind, stats in profile.daily.items()},
        "today": [today.day, today.calls, today.bytes, today.allowance["calls"], today.allowance["bytes"]],
        "at": profile.at,
        "day": [profile.day, profile.mass, profile.spare],
        "born": profile.born,
        "calls": round(profile.calls, 2),
        "scores": [round(one, 2) for one in profile.scores],
        "tools": _rows(profile.tools),
        "kinds": _rows(profile.kinds),
        "since": profile.since,
        "pairs": [
            [index.get(a, -1), index[b], round(count, 2)] for (a, b), count in profile.pairs.items() if b in index
        ],
        "slots": slots,
    }
    packed = zlib.compress(json.dumps(counts, separators=(",", ":")).encode(), 6)
    data: dict[str, Json] = {
        "v": VERSION,
        "networks": list(profile.networks),
        "counts": base64.b85encode(packed).decode(),
        "values": base64.b85encode(b"".join(rows)).decode(),
    }
    return json.dumps(data, separators=(",", ":"))


def load(snapshot: str) -> Profile:
    """The profile behind a snapshot of this version or of the one before, which knew networks only.

    Raises:
        ValueError: it is neither. An unreadable baseline is no empty one.
    """
    data = json.loads(snapshot)
    version = data.get("v") if isinstance(data, dict) else None
    profile = Profile()
    try:
        for network in _names(data["networks"], version):
            profile.with_network(network)
        if version == VERSION:
            counts = zlib.decompressobj()
            text = counts.decompress(base64.b85decode(data["counts"]), LARGEST)
            found = json.loads(text)
            _fill_later(profile, found)
            _fill(profile, found, base64.b85decode(data["values"]))
    except (zlib.error, KeyError, TypeError, IndexError, AttributeError, struct.error) as error:
        message = f"not a drift profile of version {VERSION}"
        raise ValueError(message) from error
    return profile


def _names(value: Json, version: Json) -> list[str]:
    """The networks of a snapshot of a version that can be read.

    Raises:
        TypeError: they are not a list of names, or the version is another one.
    """
    names = [one for one in value if isinstance(one, str) and one] if isinstance(value, list) else None
    if version not in {1, VERSION} or names is None or names != value:
        raise TypeError
    return names


def _fill_later(profile: Profile, data: Mapping[str, Any]) -> None:
    """What snapshots of this version did not always hold."""
    for networks in _names(data.get("together", []), VERSION):
        profile.with_pair(networks)
    _seen(data.get("kinds", []), profile.kinds)
    profile.since = int(data.get("since", NEVER))
    profile.forgotten = data.get("forgotten") is True
    if "slow" in data:
        profile.reference = _slow(*data["slow"])
    if "rates" in data:
        fast, slow = ([_number(days) for days in one] for one in data["rates"])
        if len(fast) != LEVELS or len(slow) != LEVELS:
            raise TypeError
        profile.rates = [fast, slow]


def _fill(profile: Profile, data: Mapping[str, Any], packed: bytes) -> None:
    values = _unpack(packed)
    for client in _names(data["clients"], VERSION):
        profile.with_client(client)
    if len(data["hours"]) != HOURS:
        raise TypeError
    profile.hours = [_number(count) for count in data["hours"]]
    profile.daily = {kind: [_number(one) for one in data["daily"][kind]] for kind in profile.daily}
    day, calls, size, *allowed = data["today"]
    profile.today = Today(int(day), _number(calls), _number(size))
    profile.today.allowance = dict(zip(profile.today.allowance, map(_number, allowed), strict=True))
    profile.at, profile.calls, profile.born = _number(data["at"]), _number(data["calls"]), int(data["born"])
    at, mass, spare = data["day"]
    profile.day, profile.mass, profile.spare = int(at), _number(mass), _number(spare)
    profile.scores = [_number(one) for one in data["scores"]][-SCORES:]
    _seen(data["tools"], profile.tools)
    names = [*profile.tools]
    for before, tool, count in data["pairs"]:
        key = names[before] if before >= 0 else START, names[tool]
        profile.pairs[key] = _number(count)
        profile.after[key[0]] = profile.after.get(key[0], 0.0) + profile.pairs[key]
    for key, total, fresh, size in data["slots"]:
        slot = profile.slots[key] = Slot(_number(total), _number(fresh))
        slot.values = dict(islice(values, size))
        if len(slot.values) != size:
            raise IndexError
        for digest, seen in slot.values.items():
            profile.everywhere.setdefault(digest, Seen()).join(seen, profile.born)
    for digest, seen in values:
        profile.everywhere.setdefault(digest, Seen()).join(seen, profile.born)


def _slow(at: float, begun: float, told: int, tools: list[tuple[str, float]], scores: list[float]) -> Reference:
    found = Reference()
    found.at, found.begun, found.told = _number(at), _number(begun), int(told)
    found.tools = {name: _number(count) for name, count in tools}
    if len(scores) != BINS:
        raise TypeError
    found.scores = [_number(count) for count in scores]
    return found


def _rows(seen: Mapping[str, Seen]) -> list[Json]:
    return [[name, round(s.count, 2), s.first, s.last | s.trusted * _TRUSTED] for name, s in seen.items()]


def _seen(rows: Iterable[tuple[str, float, int, int]], into: dict[str, Seen]) -> None:
    for name, count, first, last in rows:
        into[name] = Seen(_number(count), first, last & _NO_FLAG, trusted=bool(last & _TRUSTED))


def _number(value: float) -> float:
    """A count as stored.

    Raises:
        ValueError: it is not finite.
    """
    if not math.isfinite(value):
        message = "a drift profile holds a number that is not finite"
        raise ValueError(message)
    return float(value)


def _unpack(rows: bytes) -> Iterator[tuple[int, Seen]]:
    for digest, count, first, last in _ROW.iter_unpack(rows):
        yield digest, Seen(_number(count), first, last & _NO_FLAG, trusted=bool(last & _TRUSTED))


def _pack(values: Mapping[int, Seen]) -> bytes:
    return b"".join(
        _ROW.pack(digest, min(seen.count, _MOST), seen.first, seen.last | seen.trusted * _TRUSTED)
        for digest, seen in values.items()
    )

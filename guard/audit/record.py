"""What one record is: the closed set of events, the line it is written as, and how strictly it is read back.

A record is one line of printable ASCII holding a JSON object, at most 16 KiB with its line feed:
`seq`, `time` (RFC 3339, UTC, microseconds), `mono` (monotonic seconds), `boot_id` (one run of one process),
`event`, the event's own fields, and last `crc`, a CRC-32 that runs over the whole lane. The CRC proves
nothing; it names the first damaged record, where the Merkle root only says that there is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from time import gmtime, strftime
from types import MappingProxyType
from typing import Final, Self
from zlib import crc32

import orjson

from guard.model import Json

EVENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "call.received": "a message reached the guard and was understood",
        "call.rejected": "a message was refused before or outside a decision",
        "decision.made": "a call was judged: permit, challenge or deny, with every reason",
        "challenge.opened": "a call was paused, and this is what must be proven",
        "challenge.joined": "the same call came again while its challenge was open",
        "challenge.notified": "a channel took the notice of a challenge",
        "challenge.escalated": "half of the time is gone, and a further group is asked; the first may still answer",
        "challenge.flooded": "an agent asks for more decisions, or more notices of them, than it may",
        "notice.failed": "a channel did not take a notice; nothing becomes easier or later by that",
        "proof.accepted": "a proof counts towards a challenge",
        "proof.rejected": "a proof was offered and does not count",
        "proof.hurried": "a person approved within two seconds of the opening, too soon to have read the call",
        "list.proven": "a person approved a list of calls with one code, every one of them shown; this is the list",
        "challenge.denied": "a person refused a call",
        "challenge.expired": "a challenge ran out of time, which is never an approval",
        "challenge.cancelled": "a challenge was closed before it was decided",
        "challenge.staled": "policy, tool or credential changed, or the call came to need nothing: a challenge is void",
        "grant.consumed": "a single-use grant was spent on exactly one call",
        "grant.revoked": "a grant was taken back before it was spent",
        "glass.broken": "a person let one call run without its proofs; everybody is told, and another has to review it",
        "glass.reviewed": "another person looked at a call for which glass was broken",
        "call.forwarded": "a granted call is about to go to its tool server (the intent)",
        "call.concluded": "a call ended, and this is how (the outcome)",
        "call.unknown": "a granted call was cut off by a crash; whether it ran is not known, and it is not repeated",
        "result.withheld": "a call ran, and what came back goes to the agent only once somebody consents",
        "result.released": "a grant was spent on a withheld result, and the agent gets it",
        "result.dropped": "a withheld result is no longer kept, and will not be delivered",
        "session.lost": "a tool server no longer knows a session, and what set it up is about to be said again",
        "session.healed": "a lost session was begun again at its tool server; nothing but its set-up was repeated",
        "policy.loaded": "a set of policies came into force",
        "policy.rejected": "changed policies have a mistake; the last good set stays in force",
        "child.ended": "a tool server's process ended by itself, or was of no use; what it left unanswered is unknown",
        "tool.changed": "a tool server describes a tool otherwise than when it was pinned",
        "tool.pinned": "an operator accepted the tool definitions seen last",
        "agent.added": "an agent was enrolled",
        "agent.described": "groups or claims of an agent, which policies ask about, were changed",
        "agent.rotated": "an agent got a new key, and its old one ends",
        "agent.revoked": "an agent and all its keys were revoked",
        "approver.added": "a person may approve",
        "approver.removed": "a person may no longer approve",
        "approver.invited": "a one-time link to enrol a passkey was made for an approver",
        "login.accepted": "an approver logged in at the console, to look; a login never decides",
        "login.refused": "somebody logged in at the OpenID provider, and does not come in with that",
        "intent.published": "somebody who is not the agent said in advance which calls are wanted",
        "intent.given": "a person allowed further calls while approving one; each is spent and recorded by itself",
        "intent.rejected": "an intent was offered and does not count",
        "intent.revoked": "an intent was taken back",
        "factor.enrolled": "a factor was enrolled",
        "factor.locked": "a factor was locked",
        "factor.revoked": "a factor was revoked",
        "client.wrapped": "the configuration of an agent now starts the guard before its tool servers",
        "client.unwrapped": "the configuration of an agent starts its tool servers without the guard again",
        "profile.diverged": "what an agent does lately is not what it did over the year; it may have been led there",
        "guard.started": "a guard process began to serve",
        "guard.stopped": "a guard process stopped in order",
        "ledger.recovered": "a torn last record was cut off after a crash; so many bytes were lost",
        "ledger.sealed": "a writer closed its lane in order; this is the root over everything before",
        "clock.stepped": "the wall clock was set; times before and after do not compare",
    }
)
"""Every event a record may carry, `noun.verb-past`, with its meaning in a sentence."""

LIMIT: Final = 16_384
"""Bytes of the longest record, line feed included."""

_ORDER: Final = frozenset({"seq", "time", "mono", "boot_id", "event", "crc", "truncated"})
_TAIL: Final = len(b',"crc":"00000000"}\n')
_BODY: Final = LIMIT - _TAIL
_ENCODE: Final = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":")).encode
_CRC: Final = re.compile(rb',"crc":"([0-9a-f]{8})"\}')
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_CONTROL: Final = re.compile(rb"[^\x20-\x7e]")
_PLAIN: Final = re.compile(r"[^\x20-\x7e]|[\\\"]")
_STEPS: Final = (1024, 256, 64, 16)
_SMALL: Final = 128
_PATHS: Final = 32
_PATH: Final = 96


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as read back: its lane, its place, the text of its time, the whole JSON object, the line itself."""

    lane: str
    seq: int
    time: str
    event: str
    fields: Mapping[str, Json]
    line: bytes

    def text(self, name: str) -> str:
        """A field as text; "" when it is absent or no string."""
        value = self.fields.get(name)
        return value if isinstance(value, str) else ""

    @property
    def decision(self) -> str:
        """What came of a decision: where calls are only watched (`enforce = false`), every one is a permit."""
        decided = self.text("decision")
        return "permit" if decided and self.fields.get("watched") is True else decided


@lru_cache(maxsize=4)
def _second(whole: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(whole))


def rfc3339(time: float) -> str:
    """Unix seconds as RFC 3339 in UTC with exactly six decimals, so that texts sort as times do."""
    whole = int(time)
    return f"{_second(whole)}.{int((time - whole) * 1_000_000):06d}Z"


@dataclass(frozen=True, slots=True)
class Shared:
    """Fields that many records share, encoded once: `members` is their JSON without the braces, comma at the end."""

    fields: Mapping[str, Json]
    members: bytes

    @classmethod
    def of(cls, fields: Mapping[str, Json]) -> Self:
        """Encode the fields.

        Raises:
            ValueError, TypeError: as `line`.
        """
        _check_names(fields)
        members = _encoded(fields)[1:-1]
        return cls(fields, members + b"," if members else b"")


NOTHING: Final = Shared({}, b"")
"""No shared fields."""


def line(
    seq: int,
    time: float,
    mono: float,
    boot_id: str,
    *,
    event: str,
    fields: Mapping[str, Json],
    shared: Shared = NOTHING,
) -> bytes:
    """One record as a JSON object in printable ASCII, without line feed and `crc` (see `chain`).

    Fields too large for the limit are shortened, the largest first, and named in `truncated`
    (JSON pointers, RFC 6901).

    Raises:
        ValueError: the event is not in `EVENTS`, a field has a reserved name, or a number is not finite.
        TypeError: a field is not JSON.
    """
    if event not in EVENTS:
        raise ValueError(f"no such event: {event!r}")
    _check_names(fields)
    if not shared.fields.keys().isdisjoint(fields):
        raise ValueError(f"fields given twice: {sorted(shared.fields.keys() & fields.keys())}")
    head = f'{{"seq":{seq},"time":"{rfc3339(time)}","mono":{mono:.6f},"boot_id":"{boot_id}","event":"{event}",'.encode()
    body, members = _encoded(fields), shared.members
    if len(head) + len(members) + len(body) >= _BODY:
        body, members = _encoded(_shortened({**shared.fields, **fields}, _BODY - len(head) - 1)), b""
    if body == b"{}":
        return b"%b%b}" % (head, members[:-1]) if members else head[:-1] + b"}"
    return b"%b%b%b" % (head, members, body[1:])


def _check_names(fields: Mapping[str, Json]) -> None:
    if not _ORDER.isdisjoint(fields):
        raise ValueError(f"reserved field names: {sorted(_ORDER.intersection(fields))}")


def _encoded(fields: Mapping[str, Json]) -> bytes:
    """The fields as one JSON object in printable ASCII.

    orjson is ten times as fast and right wherever its output is ASCII without a `null`, which it also writes
    for what is no number; everything else takes the way of the standard library, which refuses that.
    """
    try:
        fast = orjson.dumps(fields)
    except TypeError:  # integers beyond 64 bits, mappings that are no dict
        fast = b"null"
    if b"null" in fast or not fast.isascii() or b"\x7f" in fast:
        return _printable(_ENCODE(fields)).encode()
    return fast


def _printable(text: str) -> str:
    """JSON that needs no second look: DEL escaped, and halves of surrogate pairs replaced."""
    if "\x7f" in text:
        text = text.replace("\x7f", "\\u007f")
    if "\\ud" in text:  # perhaps half a pair; most often a whole one, which comes back as it was
        whole = json.loads(text)
        text = _ENCODE(_paired(whole)).replace("\x7f", "\\u007f")
    return text


def _paired(value: Json) -> Json:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {str(_paired(key)): _paired(member) for key, member in value.items()}
    return [_paired(member) for member in value] if isinstance(value, list | tuple) else value


def chain(body: bytes, crc: int) -> tuple[bytes, int]:
    """Close a record: the line as stored (line feed included), and the running CRC behind it.

    `crc` is that of the record before (0 for the first).
    """
    crc = crc32(body[:-1], crc)
    return b'%b,"crc":"%08x"}\n' % (body[:-1], crc), crc


def read(lane: str, stored: bytes) -> tuple[Entry, int]:
    """Read a stored line (without its line feed) strictly; return the entry and the CRC it claims.

    Raises:
        ValueError: in words, what makes it no record.
    """
    if len(stored) >= LIMIT:
        raise ValueError("it is longer than a record can be")
    if _CONTROL.search(stored):
        raise ValueError("it holds bytes that are not printable ASCII")
    end = _CRC.fullmatch(stored, max(0, len(stored) - _TAIL + 1))
    if end is None:
        raise ValueError("it does not end in a checksum")
    if not stored.startswith(b"{"):
        raise ValueError("it is not a JSON object")
    try:
        fields: dict[str, Json] = json.loads(stored, object_pairs_hook=_once, parse_constant=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg}") from None
    seq, time, event = fields.get("seq"), fields.get("time"), fields.get("event")
    if type(seq) is not int or not isinstance(time, str) or not _TIME.fullmatch(time):
        raise ValueError("seq or time is missing or malformed")
    if not isinstance(event, str) or event not in EVENTS:
        raise ValueError("it carries an event that does not exist")
    return Entry(lane, seq, time, event, fields, stored), int(end[1], 16)


def crc_of(stored: bytes, crc: int) -> int:
    """The running CRC a stored line (without line feed) must claim after one that claims `crc`."""
    return crc32(stored[: 1 - _TAIL], crc)


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is given twice")
    return members


def _finite(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _shortened(fields: Mapping[str, Json], room: int) -> dict[str, Json]:
    """Shorten the largest fields step by step until everything fits into `room` bytes of JSON."""
    kept = dict(fields)
    cut: list[str] = []
    sizes = {name: len(_ENCODE({name: value})) for name, value in kept.items()}
    room -= _PATHS * (_PATH + 3) + len('"truncated":[],')
    total = sum(sizes.values())
    for step in (*_STEPS, 0):
        for name in sorted(sizes, key=lambda one: -sizes[one]):
            if total <= room or sizes[name] <= _SMALL:
                break
            path = f"/{_pointer(name)}"
            if step:
                kept[name] = _clipped(kept[name], step, path, cut)
            else:
                kept[name] = None
                cut.append(path)
            total -= sizes[name]
            sizes[name] = len(_ENCODE({name: kept[name]}))
            total += sizes[name]
    while total > room:  # more fields than fit even when each is small: the last ones go
        name, size = sizes.popitem()
        total -= size
        del kept[name]
        cut.append(f"/{_pointer(name)}")
    return kept | {"truncated": list(dict.fromkeys(cut))[:_PATHS]}


def _pointer(name: str) -> str:
    """A reference token of RFC 6901, itself bounded and in ASCII."""
    return _PLAIN.sub("?", name[:40]).replace("~", "~0").replace("/", "~1")


def _clipped(value: Json, limit: int, path: str, cut: list[str]) -> Json:
    """A value with strings of at most `limit` characters and containers of at most `limit // 4` members."""
    if isinstance(value, str):
        if len(value) > limit:
            cut.append(path[:_PATH])
            return value[:limit] + "..."
        return value
    if not isinstance(value, Mapping | list | tuple):
        return value
    if len(value) > limit // 4:
        cut.append(path[:_PATH])
    if isinstance(value, Mapping):
        members = list(value.items())[: limit // 4]
        return {key[:limit]: _clipped(member, limit, f"{path}/{_pointer(key)}", cut) for key, member in members}
    return [_clipped(member, limit, f"{path}/{at}", cut) for at, member in enumerate(value[: limit // 4])]

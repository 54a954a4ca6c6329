"""Recorded traffic: the calls of a ledger with everything a tag could have looked at, and how people answered.

A record holds the keyed digests of arguments, and the values of those the owner opted in (`log`). What a
record does not hold is unknown here, never guessed (`guard.lab.unknown`).
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from guard.audit.export import Reader
from guard.audit.lane import folder
from guard.audit.record import LIMIT, Entry
from guard.audit.redact import MASK, TEXT_LIMIT
from guard.model import Band, Call, Doubt, Json, Principal, Source
from guard.reasons import Code
from guard.results import KIND

_DIGESTED: Final = {"hmac", "type", "size"}
_MEMBERS: Final = 16
_PERSON: Final = frozenset({"consent", "emergency"})
_LIFTED: Final = frozenset({Code.NOT_ALLOWED, Code.SAME_UID})
"""Reasons of refusals that go through where calls are only watched, as in the guard."""
_JOINED: Final = "joined"
_DEPTH: Final = 8
_LINE: Final = 2 * LIMIT
_LONG: Final = 60_000  # bytes of JSON beyond which the guard itself may not have looked at a value


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One recorded call. `call.arguments` has the known values; `digests` and `types` the others, by top-level field.

    `partial`: the record left fields out, so that an argument may have been there although it is not named. `refused`:
    the reason for which it would have been refused, had it not been only watched.
    """

    call: Call
    at: float
    digests: Mapping[str, str]
    types: Mapping[str, str]
    partial: bool
    findings: tuple[tuple[Doubt, Band], ...]
    definition_changed: bool
    hint_destructive: bool
    challenged: bool
    sensitivity: str
    rule: str
    revision: str
    requirement: str = ""
    refused: str = ""


@dataclass(slots=True)
class Answers:
    """How people answered the prompts about one tool; `waits` are seconds from the opening to a person's decision."""

    prompts: int = 0
    approved: int = 0
    denied: int = 0
    expired: int = 0
    doubted: int = 0
    waits: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Traffic:
    """A ledger as read: so many `records`, and `skipped` lines that are none.

    `continued` calls went on with a proof given before, `denied` ones were refused at once.
    """

    calls: list[Recorded] = field(default_factory=list)
    answers: dict[tuple[str, str], Answers] = field(default_factory=dict)
    signing: set[str] = field(default_factory=set)
    continued: int = 0
    denied: int = 0
    records: int = 0
    skipped: int = 0

    @property
    def waits(self) -> list[float]:
        """Every measured wait."""
        return [seconds for found in self.answers.values() for seconds in found.waits]


def entries(path: Path) -> Iterator[tuple[Entry | None, int]]:
    """The records at `path` and the bytes each takes; None for a line that is no record.

    `path` is a state directory, one lane's records.jsonl, or what `guard audit export` printed.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_dir():
        if not folder(path).is_dir():
            raise FileNotFoundError(errno.ENOENT, "there is no ledger in this folder; name a state directory")
        reader = Reader(path)
        for entry in reader.read():
            yield entry, len(entry.line) + 1
        yield from ((None, 0) for _ in range(reader.skipped))
        return
    with path.open("rb") as file:
        while line := file.readline(_LINE):
            yield _entry(line), len(line)


def size(path: Path) -> int:
    """Bytes that `entries` will go through, about."""
    if path.is_dir():
        return sum(lane.stat().st_size for lane in (path / "ledger").glob("*/*.jsonl"))
    return path.stat().st_size


def _entry(line: bytes) -> Entry | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    event, at = fields.get("event"), fields.get("time")
    if not isinstance(event, str) or not isinstance(at, str):
        return None
    try:
        _seconds(at)
    except (ValueError, OverflowError):
        return None
    return Entry(str(fields.get("lane", "")), 0, at, event, fields, line)


class _Reading:
    """One pass over the records, in the order of time."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self._asked: dict[str, int] = {}
        self._opened: dict[str, tuple[float, tuple[str, str]]] = {}

    def add(self, entry: Entry) -> None:
        """Take one record."""
        match entry.event:
            case "decision.made" if entry.text("kind") and entry.text("tool") and not entry.text("result_of"):
                self._decided(entry)
            case "challenge.opened":
                self._open(entry)
            case "challenge.joined":
                self._join(entry)
            case "proof.accepted":
                self._proven(entry)
            case "challenge.denied" | "challenge.expired":
                self._end(entry)
            case _:
                pass

    def _decided(self, entry: Entry) -> None:
        reasons = tuple(_codes(entry.fields.get("reasons")))
        codes, denied = set(reasons), entry.text("decision") == "deny"
        if denied and not (entry.fields.get("watched") is True and reasons and reasons[0] in _LIFTED):
            self.traffic.denied += 1
        elif Code.GRANTED in codes:
            self.traffic.continued += 1
        else:
            if entry.text("decision") == "challenge":
                self._asked[entry.text("call_id")] = len(self.traffic.calls)
            one = _recorded(entry, codes)
            self.traffic.calls.append(replace(one, refused=reasons[0]) if denied else one)

    def _open(self, entry: Entry) -> None:
        at, place = self._asked.get(entry.text("call_id")), (entry.text("server"), entry.text("tool"))
        if entry.text("kind") == KIND:  # it asks for the result; the call ran
            at = None
        answers = self.traffic.answers.setdefault(place, Answers())
        answers.prompts += 1
        if at is not None:
            answers.doubted += bool(self.traffic.calls[at].findings)
            self.traffic.calls[at] = replace(self.traffic.calls[at], requirement=entry.text("requirement"))
        self._opened[entry.text("challenge_id")] = _seconds(entry.time), place

    def _join(self, entry: Entry) -> None:
        """The same call again while its challenge was open: no prompt of its own."""
        at = self._asked.pop(entry.text("call_id"), None)
        if at is not None:
            self.traffic.continued += 1
            self.traffic.calls[at] = replace(self.traffic.calls[at], requirement=_JOINED)

    def _proven(self, entry: Entry) -> None:
        proof = entry.fields.get("proof")
        kind = proof.get("class") if isinstance(proof, Mapping) else None
        if kind == "possession":
            self.traffic.signing.add(entry.text("principal"))
        opened = self._opened.get(entry.text("challenge_id"))
        if opened is None:
            return
        answers = self.traffic.answers[opened[1]]
        answers.approved += not entry.text("missing")
        if kind in _PERSON and isinstance(proof, Mapping) and proof.get("view_digest"):
            answers.waits.append(max(0.0, _seconds(entry.time) - opened[0]))

    def _end(self, entry: Entry) -> None:
        opened = self._opened.get(entry.text("challenge_id"))
        if opened is None:
            return
        answers = self.traffic.answers[opened[1]]
        if entry.event == "challenge.denied":
            answers.denied += 1
            answers.waits.append(max(0.0, _seconds(entry.time) - opened[0]))
        else:
            answers.expired += 1


def read(records: Iterable[Entry | None]) -> Traffic:
    """The traffic in these records, in the order of time. Calls that joined an open challenge are left out."""
    reading = _Reading()
    for entry in records:
        if entry is None:
            reading.traffic.skipped += 1
        else:
            reading.traffic.records += 1
            reading.add(entry)
    reading.traffic.calls = [one for one in reading.traffic.calls if one.requirement != _JOINED]
    return reading.traffic


# ------------------------------------------------------------------ one record


def _recorded(entry: Entry, codes: set[str]) -> Recorded:
    fields = entry.fields
    arguments = fields.get("args")
    members = arguments if isinstance(arguments, Mapping) else {}
    known = {name: value for name, value in members.items() if not digested(value) and whole(value)}
    hidden = {name: value for name, value in members.items() if name not in known and name != "..."}
    truncated = fields.get("truncated")
    cut = isinstance(truncated, list) and any(str(one).startswith("/args") for one in truncated)
    at = _seconds(entry.time)
    return Recorded(
        call=Call(
            id=entry.text("call_id"),
            principal=Principal(subject=entry.text("principal"), credential=entry.text("cred_thumbprint")),
            source=Source(transport=entry.text("transport"), address=entry.text("src")),
            server=entry.text("server"),
            method=entry.text("method"),
            kind=entry.text("kind"),
            name=entry.text("tool"),
            arguments=known,
            canonical="",
            definition=entry.text("tool_def_hash"),
            digest=entry.text("args_digest"),
            received=at,
        ),
        at=at,
        digests={name: _hmac(value) for name, value in hidden.items()},
        types={name: _type(value) for name, value in hidden.items()},
        partial="..." in members or cut,
        findings=tuple(_findings(fields.get("findings"))),
        definition_changed=Code.DEFINITION_CHANGED in codes,
        hint_destructive=Code.HINT_DESTRUCTIVE in codes,
        challenged=entry.text("decision") == "challenge",
        sensitivity=entry.text("sensitivity"),
        rule=entry.text("rule_id"),
        revision=entry.text("policy_revision"),
        requirement=entry.text("requirement"),  # a watched call's; that of others stands where it was opened
    )


def digested(value: Json) -> bool:
    """Whether a record's argument is a keyed digest rather than a value."""
    return isinstance(value, Mapping) and set(value) <= _DIGESTED and {"type", "size"} <= set(value)


def whole(value: Json, depth: int = _DEPTH) -> bool:
    """Whether a value that was opted in stands in the record as it was: not cut, masked or spelled out."""
    if not depth:
        return False
    if isinstance(value, str):
        return MASK not in value and "⟨" not in value and len(value) < TEXT_LIMIT
    if isinstance(value, Mapping):
        return len(value) < _MEMBERS and all(whole(name) and whole(member, depth - 1) for name, member in value.items())
    if isinstance(value, list | tuple):
        return len(value) < _MEMBERS and bool(value) and all(whole(member, depth - 1) for member in value)
    return True


def _hmac(value: Json) -> str:
    if not isinstance(value, Mapping) or not digested(value):
        return ""
    found, length = value.get("hmac"), value.get("size")
    return found if isinstance(found, str) and isinstance(length, int) and length < _LONG else ""


def _type(value: Json) -> str:
    return str(value.get("type")) if isinstance(value, Mapping) and digested(value) else ""


def _findings(value: Json) -> Iterator[tuple[Doubt, Band]]:
    for one in value if isinstance(value, list) else ():
        if isinstance(one, Mapping):
            try:
                yield Doubt(str(one.get("cause"))), Band[str(one.get("band")).upper()]
            except (ValueError, KeyError):  # of a later version: the strongest there is
                yield Doubt.INTENT, Band.ALARMING


def _codes(reasons: Json) -> Iterator[str]:
    for reason in reasons if isinstance(reasons, list) else ():
        if isinstance(reason, Mapping):
            yield str(reason.get("code"))


def _seconds(rfc3339: str) -> float:
    return datetime.fromisoformat(rfc3339).timestamp()

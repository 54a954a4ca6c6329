"""`guard why` for an intent: who said what is wanted, on which calls it was spent, and what ended it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from guard.audit.export import Reader
from guard.audit.record import EVENTS, Entry

_MADE: Final = ("intent.published", "intent.given")


def gather(state: Path, wanted: str) -> tuple[Entry, ...]:
    """The records of all lanes that name an intent (`i_`): its own, and those of proofs and grants that rest on it.

    Raises:
        LedgerUnavailableError: a file cannot be read.
    """
    if not wanted.isascii() or not wanted.replace("_", "").isalnum():
        return ()
    entries = Reader(state).read(holding=frozenset({f'"{wanted}"'.encode("ascii")}))
    return tuple(entry for entry in entries if wanted in {entry.text("intent"), *_factors(entry)})


def tell(entries: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    """Heading and sentence of everything there is to say, oldest first."""
    first = next((entry for entry in entries if entry.event in _MADE), entries[0])
    if signer := first.text("signer"):
        yield "who", f"{signer}, for calls of {first.text('agent') or '?'}"
    if tool := first.text("tool"):
        yield "what", f"tool {tool} of server {first.text('server') or '?'}"
    begins, ends, uses = (first.fields.get(name) for name in ("begins", "ends", "uses"))
    if isinstance(begins, int) and isinstance(ends, int) and isinstance(uses, int):
        times = "once" if uses == 1 else f"{uses} times"
        yield "allows", f"{times}, from {_moment(begins)} until {_moment(ends)}"
    if challenge := first.text("challenge_id") if first.event == "intent.given" else "":
        yield "given", f"while approving {challenge}"
    said = ": ".join(part for part in (first.text("ticket"), first.text("note")) if part)
    if said:
        yield "because", said
    spent = [entry for entry in entries if entry.event == "grant.consumed"]
    yield "spent", f"on {len(spent)} calls" if len(spent) != 1 else "on 1 call"
    for entry in entries:
        yield "then", _then(entry)


def _then(entry: Entry) -> str:
    sentence, at = EVENTS.get(entry.event, entry.event), entry.time[:19].replace("T", " ") + " UTC"
    about = entry.text("call_id") or entry.text("challenge_id")
    by = entry.text("by")
    reasons = entry.fields.get("reasons")
    why = [
        str(one["evidence"])
        for one in (reasons if isinstance(reasons, list) else ())
        if isinstance(one, Mapping) and one.get("evidence")
    ]
    because = f": {'; '.join(why)}" if why and entry.event.endswith(".rejected") else ""
    return f"{at} {sentence}" + (f" ({about})" if about else "") + (f", by {by}" if by else "") + because


def _factors(entry: Entry) -> set[str]:
    """The factors that the proofs in a record rest on."""
    proofs = entry.fields.get("factors")
    found = [entry.fields.get("proof"), *(proofs if isinstance(proofs, list) else ())]
    return {str(one.get("factor", "")) for one in found if isinstance(one, Mapping)}


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

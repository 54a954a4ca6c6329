"""`guard why`: what happened to a call, a challenge or a grant, and why, in plain words.

Everything said here stands in records; nothing is computed again, so the answer is what was true then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guard.audit import intents
from guard.audit.consistency import RAN
from guard.audit.export import Reader
from guard.audit.record import EVENTS, Entry
from guard.audit.redact import shown
from guard.errors import NotFoundError
from guard.model import Json
from guard.reasons import Code

_IDS: Final = ("call_id", "challenge_id", "grant_id")
_OUTCOMES: Final[Mapping[str, str]] = {
    "ok": "the tool server answered",
    "tool_error": "the tool server answered with an error of the tool",
    "upstream_error": "the tool server failed",
    "unknown": "the connection broke after the call was sent; whether it ran is not known, and it is not repeated",
    "pending": "the caller was told that proof is needed",
    "refused": "the call did not run",
    "released": "nothing ran; the agent got the withheld result of an earlier run",
}
_DOUBTS: Final = {"identity": "doubt about who is calling", "intent": "doubt about what is wanted"}
_MEANINGS: Final[Mapping[str, str]] = {str(code): code.meaning for code in Code}
_WATCHED: Final = " if it were not only watched: enforce = false, so it went through"
_DECISIONS: Final = {"permit": "let through", "challenge": "paused until proven", "deny": "refused"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The answer: `lines` are (heading, sentence) in order, `entries` the records they come from, oldest first."""

    id: str
    lines: tuple[tuple[str, str], ...]
    entries: tuple[Entry, ...]

    def text(self) -> str:
        """A few lines for people; nothing in them can move a cursor or hide."""
        width = max(len(heading) for heading, _ in self.lines)
        return "\n".join(f"{heading:<{width}}  {shown(sentence)}".rstrip() for heading, sentence in self.lines)

    def json(self) -> dict[str, Json]:
        """The same as one JSON object, with the whole records."""
        answer = dict[str, list[Json]]()
        for heading, sentence in self.lines:
            answer.setdefault(heading, []).append(sentence)
        return {"id": self.id, "answer": answer, "records": [{"lane": e.lane, **e.fields} for e in self.entries]}


def explain(state: Path, id: str) -> Story:  # noqa: A002 - the user's word
    """Gather what the lanes below `state/ledger/` say of a call, challenge, grant or intent (`k_ c_ g_ i_`).

    Raises:
        NotFoundError: no record names it.
        LedgerUnavailableError: a file cannot be read.
    """
    entries = intents.gather(state, id) if id.startswith("i_") else _gather(state, id)
    if not entries:
        raise NotFoundError(f"no record names {shown(id)}")
    tell = intents.tell if id.startswith("i_") else _tell
    return Story(id=id, lines=tuple(tell(entries)), entries=entries)


def _gather(state: Path, wanted: str) -> tuple[Entry, ...]:
    """The records that name it, and those about the challenge it belongs to."""
    if len(wanted) < 3 or not wanted.isascii() or not wanted.replace("_", "").isalnum():  # noqa: PLR2004 - a prefix and more
        return ()
    near = _naming(state, {wanted})
    related = {wanted} | {entry.text(name) for entry in near for name in _IDS[1:]} - {""}
    related |= {"c" + one[1:] for one in related if one.startswith("g_")}
    related |= {"g" + one[1:] for one in related if one.startswith("c_")}
    entries = near if related == {wanted} else _naming(state, related)
    if not wanted.startswith("k_"):
        calls = {entry.text("call_id") for entry in entries} - {""}
        return _naming(state, related | calls) if calls else entries
    return tuple(
        e for e in entries if e.text("call_id") in {"", wanted} or e.event.startswith(("challenge.", "grant."))
    )


def _naming(state: Path, ids: set[str]) -> tuple[Entry, ...]:
    holding = frozenset(f'"{one}"'.encode("ascii") for one in ids)
    entries = Reader(state).read(holding=holding)
    return tuple(entry for entry in entries if any(entry.text(name) in ids for name in _IDS))


def _tell(entries: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    """The story, heading by heading."""
    first = _latest(entries, "challenge.opened") or _latest(entries, "decision.made") or entries[0]
    yield "who", _who(entries, first)
    yield "what", _what(first)
    if tags := _tags(first):
        yield "tags", tags
    if decision := _DECISIONS.get(next((e.text("decision") for e in entries if e.text("decision")), "")):
        yield "decision", decision + (_WATCHED if first.fields.get("watched") is True else "")
    yield from (("because", line) for line in _reasons(first.fields.get("reasons")))
    yield from (("unusual", line) for line in _findings(first.fields.get("findings")))
    if requirement := first.text("requirement"):
        group = first.text("approver_group")
        yield "required", requirement.replace("_", " ") + (f" (people of {group})" if group else "")
    yield from (("required", line) for line in _texts(first.fields.get("quorums")))
    if barred := _texts(first.fields.get("barred")):
        yield "required", f"not by {', '.join(barred)}, who changed the policy last"
    given = [entry for entry in entries if entry.event == "proof.accepted"]
    yield from (("given", line) for line in _unique(map(_given, given)))
    if requirement and not given and first.event == "challenge.opened":
        yield "given", "nothing"
    yield from (("otherwise", line) for line in _texts(first.fields.get("counterfactual")))
    yield from (("then", line) for line in _unique(map(_then, entries)))


def _latest(entries: Sequence[Entry], event: str) -> Entry | None:
    return next((entry for entry in reversed(entries) if entry.event == event), None)


def _who(entries: Sequence[Entry], first: Entry) -> str:
    who = first.text("principal") or first.text("agent") or "somebody"
    if behalf := first.text("on_behalf_of"):
        who += f" on behalf of {behalf}"
    made = next((entry for entry in entries if entry.text("transport")), first)
    place = made.text("src") or ("this machine (stdio)" if made.text("transport") == "stdio" else "")
    return (
        who + (f", from {place}" if place else "") + (f", key {key}" if (key := first.text("cred_thumbprint")) else "")
    )


def _what(entry: Entry) -> str:
    kind, name, server = entry.text("kind") or "call", entry.text("tool") or entry.text("method"), entry.text("server")
    digest = entry.text("args_digest")
    return f"{kind} {name} of server {server or '?'} at {_when(entry)}" + (f", digest {digest[:6]}" if digest else "")


def _tags(entry: Entry) -> str:
    sensitivity, effects = entry.text("sensitivity"), _texts(entry.fields.get("effects"))
    parts = [sensitivity, *effects] if sensitivity else []
    rule, where, revision = entry.text("rule_id"), entry.text("where"), entry.text("policy_revision")
    source = ", ".join(part for part in (rule, where, revision and f"policy {revision[:19]}") if part)
    return ", ".join(parts) + (f"; by {source}" if parts and source else source)


def _reasons(value: Json) -> Iterator[str]:
    for reason in _objects(value):
        meaning = _meaning(_text(reason, "code"))
        by, evidence = _text(reason, "by"), _text(reason, "evidence")
        yield meaning + (f" ({by})" if by else "") + (f": {evidence}" if evidence else "")


def _findings(value: Json) -> Iterator[str]:
    for finding in _objects(value):
        doubt = _DOUBTS.get(_text(finding, "cause"), "")
        marks = ", ".join(part for part in (_text(finding, "band"), doubt) if part)
        evidence = _text(finding, "evidence")
        meaning = _meaning(_text(finding, "code") or _text(finding, "signal"))
        yield meaning + (f": {evidence}" if evidence else "") + (f" ({marks})" if marks else "")


def _meaning(code: str) -> str:
    """The sentence of a code; an unknown one stands for itself."""
    return _MEANINGS.get(code) or code or "no reason was recorded"


def _given(entry: Entry) -> str:
    proof = entry.fields.get("proof")
    if not isinstance(proof, Mapping):
        return f"a proof at {_when(entry)}"
    what = _text(proof, "class") or "a proof"
    who, how, note = _text(proof, "subject"), _text(proof, "kind"), _text(proof, "note")
    parts = [what, who and f"by {who}", how and f"with {how}", f"at {_when(entry)}", note and f'saying "{note}"']
    own = ["(a party to the call: solo)"] if proof.get("solo") is True else []
    if how == "intent" and not proof.get("attestation"):
        own.append("(its key is in no known token)")
    return " ".join(part for part in (*parts, *own) if part)


def _then(entry: Entry) -> str:
    """What one later record adds, or nothing."""
    event, at = entry.event, _when(entry)
    if event in {"decision.made", "proof.accepted"}:
        return ""
    sentence = EVENTS.get(event, event)
    if event == "call.concluded":
        outcome, size = entry.text("outcome"), entry.fields.get("result_bytes")
        sentence = _OUTCOMES.get(outcome) or _meaning(outcome)
        if outcome in RAN and isinstance(size, int) and size:
            sentence += f" ({size} bytes)"
        because = "; ".join(_reasons(entry.fields.get("reasons")))
    else:
        size = entry.fields.get("result_bytes")
        if event.startswith("result.") and isinstance(size, int):
            sentence += f" ({size} bytes)"
        told = event in {"challenge.opened", "call.forwarded"}  # their reasons stand above
        because = entry.text("because") or ("" if told else "; ".join(_reasons(entry.fields.get("reasons"))))
    by = entry.text("by")
    return f"{at} {sentence}" + (f", by {by}" if by else "") + (f": {because}" if because else "")


def _when(entry: Entry) -> str:
    """The time to the second, as people read it."""
    return entry.time[:19].replace("T", " ") + " UTC"


def _unique(lines: Iterable[str]) -> Sequence[str]:
    return tuple(dict.fromkeys(line for line in lines if line))


def _objects(value: Json) -> Iterator[Mapping[str, Json]]:
    for one in value if isinstance(value, list) else ():
        if isinstance(one, Mapping):
            yield one


def _texts(value: Json) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _text(value: Mapping[str, Json], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""

"""What an approver sees: the whole call and why it is asked, with nothing cut and nothing hidden.

The view is plain text, the same on page, terminal and mail. Its digest goes into the proof, so that the
record says what the approver had before their eyes.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from guard.model import Challenge, Finding, Further, Proof, State
from guard.quorum import INTENT
from guard.requirement import missing
from guard.results import KIND
from guard.stepup.visible import visible
from guard.wire.canonical import digest

WIDTH: Final = 100
_LABEL: Final = 11
_DEEPEST: Final = 20
"""Levels that are indented; what lies deeper must not be pushed out of sight, or over the edge of a terminal."""
_WRAPPED: Final = "↳ "
_PIECE: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}:,]|[^][{}:,"]+|.', re.DOTALL)
"""A string, a structural character, or a number or word of a JSON text without blanks."""


@dataclass(frozen=True, slots=True)
class View:
    """The text shown, and the hex SHA-256 of its UTF-8 bytes."""

    text: str
    digest: str


def render(challenge: Challenge, *, width: int = WIDTH) -> View:
    """Everything an approver must know about a challenge, as lines of at most `width` characters.

    Depends on the challenge and the width alone. Arguments are shown in full, in their canonical spelling;
    long lines continue after `↳`. Once the challenge has ended they are gone, and the view says so.
    """
    lines = [wrapped for label, text in facts(challenge) for wrapped in _field(label, text, width)]
    lines += ["", "arguments"]
    if challenge.state.open:
        for line in pretty(visible(challenge.arguments)):
            lines += _wrap(line, width)
    else:
        lines.append("  (erased when the challenge ended)")
    text = "\n".join(lines) + "\n"
    return View(text, digest(text))


def shows(challenge: Challenge, shown: str) -> bool:
    """Whether this is the digest of the view as it is now, or as it was before anybody answered."""
    unanswered = replace(challenge, proofs=(), state=State.PENDING)
    return any(hmac.compare_digest(shown.encode(), render(view).digest.encode()) for view in (challenge, unanswered))


def facts(challenge: Challenge) -> Iterator[tuple[str, str]]:
    """Label and text of every fact, in reading order; a label may come again. Texts are not made visible yet."""
    principal, requirement = challenge.principal, challenge.requirement
    yield "challenge", f"{challenge.id}, {challenge.state}"
    yield "digest", challenge.short_digest
    owner = f" of {principal.owner}" if principal.owner else ""
    yield "agent", f"{principal.subject}{owner}, key {principal.credential or 'unknown'}"
    if principal.on_behalf_of:
        yield "on behalf", principal.on_behalf_of
    ran = challenge.kind == KIND
    yield "wants", f"what came back from {challenge.name}, which ran" if ran else f"{challenge.kind} {challenge.name}"
    yield "on server", challenge.server
    yield "tagged", ", ".join([challenge.sensitivity.label, *sorted(challenge.effects)])
    yield "rule", challenge.rule or "none names this"
    yield "policy", challenge.policy_revision or "none"
    for reason in challenge.reasons:
        yield "because", str(reason)
    for finding in challenge.findings:
        yield "unusual", _finding(finding)
    yield "required", requirement.label + (f", people of group {requirement.approvers}" if requirement else "")
    for term in requirement.terms:
        yield "", term
    if challenge.further:
        yield "may allow", further_words(challenge.further)
    if requirement.barred:
        yield "but not by", f"{', '.join(sorted(requirement.barred))}, who changed the policy last"
    for proof in challenge.proofs:
        yield "given", _proof(proof)
    yield "missing", missing(requirement, challenge.proofs) or "nothing"
    yield "opened", _time(challenge.opened)
    yield "expires", _time(challenge.expires)
    if challenge.ended_because:
        by = f"{challenge.ended_by}: " if challenge.ended_by else ""
        yield "ended", by + challenge.ended_because


def further_words(further: Further) -> str:
    """What an approver may allow beyond the call, in words."""
    return f"up to {further.uses} further calls of this tool, within {further.seconds / 60:g} minutes"


def _finding(finding: Finding) -> str:
    return f"{finding.reason} (signal {finding.signal}, {finding.band.name.lower()}, doubt about {finding.cause})"


def _proof(proof: Proof) -> str:
    what = proof.proof_class.value
    solo = ", who owns the agent" if proof.solo else ""
    if proof.kind == INTENT and not proof.attestation:
        solo = ", whose key is in no known token"
    note = f": {proof.note}" if proof.note else ""
    return f"{what} by {proof.subject}{solo}, {proof.kind}, {_time(proof.at)}{note}"


def _time(at: float) -> str:
    return datetime.fromtimestamp(int(at), tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _field(label: str, text: str, width: int) -> Iterator[str]:
    first, *more = _wrap(visible(text), width - _LABEL)
    yield f"{label:<{_LABEL}}{first}"
    for line in more:
        yield " " * _LABEL + line


def _wrap(line: str, width: int) -> list[str]:
    """The line in pieces of at most `width` characters, none dropped: every piece but the first begins with ↳."""
    indent = len(line) - len(line.lstrip(" "))
    room = max(width - indent - len(_WRAPPED), 20)
    if len(line) <= max(width, room):
        return [line]
    pieces, start = list[str](), indent
    while start < len(line):
        blank = line.rfind(" ", start + room // 2, start + room) + 1
        end = blank if blank and len(line) > start + room else start + room
        pieces.append(line[start:end])
        start = end
    first, *more = pieces
    return [" " * indent + first, *(" " * indent + _WRAPPED + piece for piece in more)]


def pretty(canonical: str) -> Iterator[str]:
    """The lines of an RFC 8785 text, indented; every character of it appears once, in order and unchanged.

    Works on the text, so numbers and escapes stay spelled as they were approved and as they are forwarded.
    Brackets alone tell the levels beyond `_DEEPEST`.
    """
    depth, parts, before = 1, list[str](), ""
    for piece in _PIECE.findall(canonical):
        closes = piece in {"]", "}"}
        if (before in {"[", "{"} and not closes) or before == ",":
            yield "  " * min(depth, _DEEPEST) + "".join(parts)
            parts.clear()
            depth += before != ","
        elif closes and before not in {"[", "{"}:
            yield "  " * min(depth, _DEEPEST) + "".join(parts)
            parts.clear()
            depth -= 1
        parts.append(": " if piece == ":" else piece)
        before = piece
    yield "  " * min(depth, _DEEPEST) + "".join(parts)

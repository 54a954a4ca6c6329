"""What a channel says. Pure.

Agents choose the names of the tools they ask for, and chat programs make links and markup of what they are given. So
a name appears only when it is plain, with its dots set apart; anything else is to be read on the page, which shows
it safely. No argument is ever said, and of the reasons only the sentences of the closed vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from guard.model import Challenge, Json, ProofClass
from guard.notices import Notice, Stage
from guard.reasons import Code, Reason
from guard.requirement import missing
from guard.results import KIND

TYPES: Final = {
    Stage.OPENED: "challenge.opened",
    Stage.ESCALATED: "challenge.escalated",
    Stage.BREAK_GLASS: "glass.broken",
    Stage.TEST: "channel.tested",
}
"""What the `type` of a webhook says."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_STRANGE: Final = "(a name to read on the page only)"


def notice(challenge: Challenge, stage: Stage, *, groups: Sequence[str], public_url: str, now: float) -> Notice:
    """What may be said about a challenge; `groups` are those that are asked, `now` is in Unix seconds."""
    emergency = [proof for proof in challenge.proofs if proof.proof_class is ProofClass.EMERGENCY]
    return Notice(
        stage=stage,
        challenge=challenge.id,
        link=f"{public_url}/challenges/{challenge.id}",
        digest=challenge.short_digest,
        agent=plain(challenge.principal.subject),
        server=plain(challenge.server),
        tool=plain(challenge.name),
        sensitivity=challenge.sensitivity.label,
        wanting=missing(challenge.requirement, challenge.proofs),
        reasons=challenge.reasons,
        groups=tuple(groups),
        at=now,
        expires=challenge.expires,
        words=f"{emergency[0].subject}: {emergency[0].note}" if emergency and stage is Stage.BREAK_GLASS else "",
        ran=challenge.kind == KIND,
    )


def trial(public_url: str, now: float) -> Notice:
    """A notice that says only that the channel works."""
    return Notice(
        stage=Stage.TEST,
        challenge="",
        link=public_url,
        digest="",
        agent="",
        server="",
        tool="",
        sensitivity="",
        wanting="",
        reasons=(),
        groups=(),
        at=now,
        expires=now,
    )


def plain(name: str) -> str:
    """A name as it may stand in a chat."""
    return name if _PLAIN.fullmatch(name) else _STRANGE


def title(one: Notice) -> str:
    """One line."""
    tool = f"the result of {_apart(one.tool)}" if one.ran else _apart(one.tool)
    what = f"{_apart(one.agent)} wants {tool} on {_apart(one.server)} ({one.digest})"
    match one.stage:
        case Stage.OPENED:
            return f"Guard: {what}"
        case Stage.ESCALATED:
            return f"Guard: still undecided: {what}"
        case Stage.BREAK_GLASS:
            return f"Guard: glass was broken for {what}"
        case Stage.TEST:
            return "Guard: this channel works"


def text(one: Notice) -> str:
    """The whole message as plain text."""
    if one.stage is Stage.TEST:
        return f"This is a test of a notification channel; nothing waits for you. {one.link}\n"
    wants = "wants what came back from" if one.ran else "wants to run"
    ran = "which ran, " if one.ran else ""
    lines = [
        f"{_apart(one.agent)} {wants} {_apart(one.tool)} on {_apart(one.server)}, {ran}tagged {one.sensitivity}.",
        f"Digest: {one.digest}",
        *(f"Because {sentence}." for sentence in sentences(one.reasons)),
    ]
    if one.stage is Stage.BREAK_GLASS:
        lines += [
            f"It may {'go out' if one.ran else 'run'} without the proofs it needs, on the word of {one.words}",
            "Another person must review it.",
        ]
    else:
        lines += [f"It needs {one.wanting}.", f"Asked: {', '.join(one.groups)}. Open until {_time(one.expires)}."]
    return "\n".join([*lines, "", f"Look at it, and decide there only: {one.link}"]) + "\n"


def payload(one: Notice) -> dict[str, Json]:
    """The body of a webhook."""
    return {
        "type": TYPES[one.stage],
        "timestamp": _time(one.at),
        "data": {
            "challenge": one.challenge,
            "url": one.link,
            "short_digest": one.digest,
            "agent": one.agent,
            "server": one.server,
            "tool": one.tool,
            "sensitivity": one.sensitivity,
            "missing": one.wanting,
            "reasons": [{"code": code.value, "sentence": code.meaning} for code in _codes(one.reasons)],
            "groups": list(one.groups),
            "expires": _time(one.expires),
            "words": one.words,
            "title": title(one),
            "text": text(one),
        },
    }


def sentences(reasons: Sequence[Reason]) -> tuple[str, ...]:
    """What the reasons mean, each once."""
    return tuple(code.meaning for code in _codes(reasons))


def _codes(reasons: Sequence[Reason]) -> tuple[Code, ...]:
    return tuple(dict.fromkeys(reason.code for reason in reasons))


def _apart(name: str) -> str:
    """A name in which no program finds an address to link to."""
    return name.replace(".", " . ")


def _time(at: float) -> str:
    return datetime.fromtimestamp(int(at), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

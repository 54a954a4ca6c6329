"""The words of a pause and of a refusal.

The text is read by a language model: it says what happened, that nothing ran, what a person does, and
that the identical call is to be repeated. It is short and the same every time for the same challenge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from guard.model import Challenge, Deny, Json, State
from guard.reasons import Code, Reason
from guard.requirement import missing
from guard.results import KIND

_QUIET = frozenset({Code.STEP_UP_PENDING})
_LATER = frozenset(
    {
        Code.AUDIT_UNAVAILABLE,
        Code.STORE_UNAVAILABLE,
        Code.OVERLOADED,
        Code.TOO_MANY_PENDING,
        Code.APPROVERS_BUSY,
        Code.STOPPING,
        Code.UPSTREAM_RESTING,
        Code.TOO_MANY_CHILDREN,
        Code.RESULT_WITHHELD,
    }
)
_RAN = {
    Code.UPSTREAM_BROKE: "FAILED, perhaps executed",
    Code.RESULT_WITHHELD: "WITHHELD, executed",
    Code.RESULT_GONE: "WITHHELD, executed",
}
"""What is said of a call that ran, or may have."""
_NAMED = 6
_LONGEST = 40


def url_of(challenge: Challenge, public_url: str) -> str:
    """Where people look at the challenge; the path ends in its id."""
    return f"{public_url}/challenges/{challenge.id}"


def paused_text(challenge: Challenge, public_url: str, now: float, *, notes: Sequence[str] = ()) -> str:
    """What the agent reads at the floor of the pause ladder; the first URL is the challenge's.

    `notes` are further sentences, without their final stop.
    """
    minutes = max(1, round((challenge.expires - now) / 60))
    wanting = missing(challenge.requirement, challenge.proofs)
    what, then = f"PAUSED, not executed: {challenge.name} on {challenge.server} needs", "it will run once"
    if challenge.kind == KIND:
        what = f"WITHHELD: {challenge.name} on {challenge.server} ran, once; what came back needs"
        then = "it will be answered with what came back, and will not run again"
    return (
        f"{what} {wanting}"
        f" because {sentence(challenge.reasons)}. "
        f"Tell the person in charge: {url_of(challenge, public_url)} (or `guard challenge show {challenge.id}`),"
        f" digest {challenge.short_digest}. "
        f"Then repeat exactly this call, same tool and same arguments, after about 30 seconds; {then}. "
        f"Any change starts over. The request stays open for {minutes} min."
    ) + "".join(f" Note: {note}." for note in notes)


def link_text(challenge: Challenge) -> str:
    """What a client shows beside the link to the challenge."""
    wanting = missing(challenge.requirement, challenge.proofs)
    wants = "to have what came back from" if challenge.kind == KIND else "to run"
    return (
        f"{challenge.principal.subject} wants {wants} {challenge.name} on {challenge.server}. It needs {wanting}"
        f" because {sentence(challenge.reasons)}."
        f" Open the page, compare the digest {challenge.short_digest}, and decide."
    )


def difference(challenge: Challenge, other: Challenge | None) -> str:
    """How a new call differs from one of the same agent and tool that was approved or waits; "" if there is none.

    Only names are said, and only of arguments that the new call has: a caller learns nothing it did not send.
    """
    if other is None:
        return ""
    new, old = _members(challenge.arguments), _members(other.arguments)
    changed = sorted(name for name in new if name not in old or new[name] != old[name])
    dropped = len(old.keys() - new.keys())
    if not changed and not dropped:
        return ""
    named = ", ".join(f'"{name[:_LONGEST]}"' for name in changed[:_NAMED])
    more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    parts = [f"in {named}{more}" if changed else "", f"by {dropped} argument(s) left out" if dropped else ""]
    which = "was approved" if other.state is State.SATISFIED else "waits already"
    how = " and ".join(filter(None, parts))
    return (
        f"this differs from the call that {which} (digest {other.short_digest}) {how}; only the unchanged call joins it"
    )


def _members(arguments: str) -> Mapping[str, str]:
    """The arguments of an open challenge, each as one text for one value."""
    found = json.loads(arguments) if arguments else {}
    return {name: json.dumps(value, sort_keys=True) for name, value in found.items()} if isinstance(found, dict) else {}


def challenge_object(challenge: Challenge, public_url: str) -> Mapping[str, Json]:
    """`_meta["guard/challenge"]`: id, url, expires (Unix seconds), requirement label, reason codes."""
    return {
        "id": challenge.id,
        "url": url_of(challenge, public_url),
        "expires": int(challenge.expires),
        "requirement": challenge.requirement.label,
        "reasons": [str(reason.code) for reason in challenge.reasons],
    }


def refused_text(deny: Deny) -> str:
    """What the agent reads when the call is refused for good, or for now; or when nobody knows whether it ran."""
    what = _RAN.get(deny.code, "REFUSED, not executed")
    return f"{what}: {sentence(deny.reasons)}. {_remedy(deny.code)}"


def sentence(reasons: tuple[Reason, ...]) -> str:
    """The reasons joined into one clause, each once."""
    said = dict.fromkeys(str(reason) for reason in reasons if reason.code not in _QUIET)
    return "; ".join(said) or "the policy demands it"


def _remedy(code: Code) -> str:  # noqa: PLR0911 - one sentence each
    """What the agent had better do next."""
    match code:
        case Code.DENIED | Code.COOL_DOWN:
            return "Do not repeat this call; ask the person in charge before trying anything similar."
        case Code.SPENT | Code.STALE | Code.EXPIRED | Code.CANCELLED | Code.REVOKED:
            return "Repeat the call to ask again."
        case Code.BACKING_OFF:
            return "Do not repeat it before then; tell the person in charge what you want to do and why."
        case Code.RESULT_GONE:
            return "To repeat it runs it once more; ask the person in charge first, or ask for less."
        case _ if code in _LATER:
            return "Repeat exactly this call later."
        case Code.UPSTREAM_BROKE:
            return "Do not repeat this call before you know whether it ran."
        case _:
            return "Repeating it unchanged will not help."

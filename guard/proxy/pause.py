"""The words of a pause and of a refusal, and how long a paused call is held.

The text is read by a language model: it says what happened, that nothing ran, what a person does, and
that the identical call is to be repeated. It is short and the same every time for the same challenge.
"""

from __future__ import annotations

from collections.abc import Mapping

from guard.model import Challenge, Deny, Json
from guard.reasons import Code, Reason
from guard.requirement import missing

_QUIET = frozenset({Code.STEP_UP_PENDING})


def url_of(challenge: Challenge, public_url: str) -> str:
    """Where people look at the challenge; the path ends in its id."""
    return f"{public_url}/challenges/{challenge.id}"


def paused_text(challenge: Challenge, public_url: str, now: float) -> str:
    """What the agent reads at the floor of the pause ladder; the first URL is the challenge's."""
    minutes = max(1, round((challenge.expires - now) / 60))
    wanting = missing(challenge.requirement, challenge.proofs)
    return (
        f"PAUSED, not executed: {challenge.name} on {challenge.server} needs {wanting}"
        f" because {sentence(challenge.reasons)}. "
        f"Tell the person in charge: {url_of(challenge, public_url)} (or `guard challenge show {challenge.id}`),"
        f" digest {challenge.short_digest}. "
        "Then repeat exactly this call, same tool and same arguments, after about 30 seconds; it will run once. "
        f"Any change starts over. The request stays open for {minutes} min."
    )


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
    what = "FAILED, perhaps executed" if deny.code is Code.UPSTREAM_BROKE else "REFUSED, not executed"
    return f"{what}: {sentence(deny.reasons)}. {_remedy(deny.code)}"


def sentence(reasons: tuple[Reason, ...]) -> str:
    """The reasons joined into one clause, each once."""
    said = dict.fromkeys(str(reason) for reason in reasons if reason.code not in _QUIET)
    return "; ".join(said) or "the policy demands it"


def _remedy(code: Code) -> str:
    """What the agent had better do next."""
    match code:
        case Code.DENIED | Code.COOL_DOWN:
            return "Do not repeat this call; ask the person in charge before trying anything similar."
        case Code.SPENT | Code.STALE | Code.EXPIRED | Code.CANCELLED | Code.REVOKED:
            return "Repeat the call to ask again."
        case Code.AUDIT_UNAVAILABLE | Code.STORE_UNAVAILABLE | Code.OVERLOADED | Code.TOO_MANY_PENDING | Code.STOPPING:
            return "Repeat exactly this call later."
        case Code.UPSTREAM_RESTING | Code.TOO_MANY_CHILDREN:
            return "Repeat exactly this call later."
        case Code.UPSTREAM_BROKE:
            return "Do not repeat this call before you know whether it ran."
        case _:
            return "Repeating it unchanged will not help."

"""The guard's own `requestState`: what a client carries between two rounds of one paused call.

It says which challenge the call waits for and how many rounds it took, sealed (AES-256-GCM) and bound to principal,
server, what is called and the digest of the whole call. It gives no right to anything: a call runs only on a
grant, which is spent once in the store. States of tool servers do not begin with `PREFIX` and pass through.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from guard.errors import StoreUnavailableError, WireError
from guard.model import Call, Json
from guard.ports import Seal
from guard.proxy.ladder import QUESTION, ROUNDS, Leg, said
from guard.reasons import Code
from guard.wire.canonical import canonical
from guard.wire.decode import decode
from guard.wire.message import Message, Request
from guard.wire.methods import INVALID_PARAMS, target

PREFIX: Final = "guard-state/1:"
"""How every state of the guard begins, and none of a tool server."""

_FOR: Final = b"guard.request-state/1"
_LIMIT: Final = 4096
_OURS: Final = ("inputResponses", "requestState")


def issue(seal: Seal, call: Call, leg: Leg, *, expires: float) -> str:
    """The state that brings `call` back as this round, until `expires` (Unix seconds)."""
    claims: dict[str, Json] = _bound(call) | {
        "challenge": leg.challenge,
        "round": leg.round,
        "asked": leg.asked,
        "expires": expires,
    }
    return PREFIX + base64.urlsafe_b64encode(seal.seal(json.dumps(claims).encode(), _FOR)).decode("ascii")


def resume(seal: Seal, call: Call, message: Message, *, now: float) -> Leg | None:
    """The round a message comes back from; None when it brings no state of the guard.

    Raises:
        WireError: the state was tampered with, belongs to another call or principal, or is too old
            (STATE_INVALID); or it comes with answers to questions the guard did not ask (UNSOLICITED).
    """
    state = message.params.get("requestState") if isinstance(message, Request) else None
    if not isinstance(state, str) or not state.startswith(PREFIX) or not isinstance(message, Request):
        return None
    claims = _opened(seal, state)
    if any(claims.get(name) != value for name, value in _bound(call).items()):
        raise _invalid("it belongs to another call")
    challenge, taken, asked, expires = (claims.get(name) for name in ("challenge", "round", "asked", "expires"))
    if (
        not isinstance(challenge, str)
        or type(taken) is not int
        or not 1 <= taken <= ROUNDS
        or not isinstance(asked, bool)
        or not isinstance(expires, int | float)
    ):
        raise _invalid("it has no known form")
    if not now < expires:
        raise _invalid("it is too old")
    return _answered(Leg(challenge=challenge, round=taken, asked=asked), message)


def without(message: Request, *, exact_integers: bool) -> Request:
    """The same request without the guard's state and the answer to its question, decoded anew from new bytes.

    Raises:
        WireError: what was written does not say the same call (INTERNAL); it must not be forwarded.
    """
    params = {name: value for name, value in message.params.items() if name not in _OURS}
    rewritten = {"jsonrpc": "2.0", "id": message.id, "method": message.method, "params": params}
    again = decode(json.dumps(rewritten).encode("ascii"), exact_integers=exact_integers)
    if (
        not isinstance(again, Request)
        or (again.id, again.method) != (message.id, message.method)
        or canonical(again.params) != canonical(params)
        or target(again) != target(message)
    ):
        raise WireError("", reason=Code.INTERNAL, detail="a rewritten call is not the call that was inspected")
    return again


def _bound(call: Call) -> dict[str, Json]:
    """What a state is tied to."""
    return {
        "v": 1,
        "principal": call.principal.subject,
        "server": call.server,
        "method": call.method,
        "name": call.name,
        "digest": call.digest,
    }


def _opened(seal: Seal, state: str) -> Mapping[str, Json]:
    encoded = state.removeprefix(PREFIX)
    if len(encoded) > _LIMIT or not encoded.isascii():
        raise _invalid("it has no known form")
    try:
        sealed = base64.b64decode(encoded, altchars=b"-_", validate=True)
        if base64.urlsafe_b64encode(sealed).decode("ascii") != encoded:
            raise _invalid("it is not spelled as it was issued")
        claims = json.loads(seal.unseal(sealed, _FOR))
    except (binascii.Error, ValueError, StoreUnavailableError) as error:
        raise _invalid("it does not open") from error
    if not isinstance(claims, dict):
        raise _invalid("it has no known form")
    return claims


def _answered(leg: Leg, message: Request) -> Leg:
    """The round with what the client said to the question of the guard, and to no other."""
    answers = message.params.get("inputResponses", {})
    if not isinstance(answers, Mapping) or not answers.keys() <= ({QUESTION} if leg.asked else set()):
        text = "inputResponses answer questions that were not asked in this call; repeat it without them"
        raise WireError(text, reason=Code.UNSOLICITED, rpc_code=INVALID_PARAMS)
    given = answers.get(QUESTION)
    return replace(leg, said=said(given if given is None or isinstance(given, Mapping) else {}))


def _invalid(detail: str) -> WireError:
    text = f"{Code.STATE_INVALID.meaning}; repeat the call without requestState"
    return WireError(text, reason=Code.STATE_INVALID, rpc_code=INVALID_PARAMS, detail=detail)

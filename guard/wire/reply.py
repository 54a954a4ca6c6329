"""How the guard answers in a tool server's stead: one JSON-RPC message as bytes, without a newline.

A paused or refused `tools/call` is answered by a tool result with `isError`, in one block of text that the
model reads: clients lose their session over HTTP errors, some agents crash on a JSON-RPC error, and
`structuredContent` is shown instead of the text by others. `prompts/get`, `resources/read` and the rest have no
such form; they get a JSON-RPC error with a code of the guard's own.

All text is cleaned of control, bidirectional and other invisible characters first, and everything is
ASCII on the wire, so that no terminal or line reader downstream can be steered by it.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final

from guard.errors import WireError
from guard.model import Json
from guard.wire.era import Era

PAUSED: Final = -32010
"""The request waits for proofs; `data` is the challenge. Repeat it later, unchanged.

`-32000…-32019` are an implementation's own; -32000 and -32001 mean a lost connection and a timeout inside
SDK clients, -32002 and -32042 are retired, and -32020…-32099 belong to the specification."""

REFUSED: Final = -32011
"""The request was refused; the message says why."""

CHALLENGE_KEY: Final = "guard/challenge"
"""Where `_meta` of a paused tool result carries the challenge object."""

_MAX_TEXT: Final = 4000
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def error(request_id: str | int | None, rpc_code: int, text: str, *, data: Json = None) -> bytes:
    """A JSON-RPC error; `request_id` None when the request's could not be read, `data` None for none."""
    body: dict[str, Json] = {"code": rpc_code, "message": clean(text)}
    if data is not None:
        body["data"] = _cleaned(data)
    return _bytes({"jsonrpc": "2.0", "id": request_id, "error": body})


def malformed(wrong: WireError) -> bytes:
    """The error that answers a message refused before it was judged, under its own id where it has a readable one."""
    return error(wrong.request_id, wrong.rpc_code, wrong.public, data=wrong.data)


def paused(
    request_id: str | int,
    era: Era,
    *,
    text: str,
    challenge: Mapping[str, Json],
    method: str = "tools/call",
    failed: bool = True,
) -> bytes:
    """The answer to a request that waits for proofs.

    Args:
        request_id: id of the paused request.
        era: a modern result also says `resultType`.
        text: what happened and what to do, for the model.
        challenge: id, url, expires, requirement and reasons, for programs.
        method: `tools/call` gets a tool result, every other method an error `PAUSED` with the challenge as data.
        failed: False for a client that hides the text of failed calls from its model.
    """
    if method != "tools/call":
        return error(request_id, PAUSED, text, data=challenge)
    return _tool_result(request_id, era, text, {"_meta": {CHALLENGE_KEY: _cleaned(challenge)}}, failed=failed)


def refused(request_id: str | int, era: Era, *, text: str, method: str = "tools/call", failed: bool = True) -> bytes:
    """The answer to a request that will not run: like `paused`, without a challenge (error code `REFUSED`)."""
    if method != "tools/call":
        return error(request_id, REFUSED, text)
    return _tool_result(request_id, era, text, {}, failed=failed)


def input_required(
    request_id: str | int, *, state: str, questions: Mapping[str, Mapping[str, Json]] | None = None
) -> bytes:
    """The answer that makes a client of the modern era repeat its request with `state`.

    `questions` are parameters of `elicitation/create` by key; without any, the client repeats by itself.
    """
    result: dict[str, Json] = {"resultType": "input_required", "requestState": state}
    if questions:
        result["inputRequests"] = {
            key: {"method": "elicitation/create", "params": _cleaned(params)} for key, params in questions.items()
        }
    return _bytes({"jsonrpc": "2.0", "id": request_id, "result": result})


def asked(question: str, params: Mapping[str, Json]) -> bytes:
    """A question of the guard's own to a client of the legacy era."""
    return _bytes({"jsonrpc": "2.0", "id": question, "method": "elicitation/create", "params": _cleaned(params)})


def withdrawn(question: str) -> bytes:
    """Word that a question needs no answer any more."""
    params: Json = {"requestId": question, "reason": "the question is no longer open"}
    return _bytes({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})


def _tool_result(request_id: str | int, era: Era, text: str, extra: Mapping[str, Json], *, failed: bool) -> bytes:
    result: dict[str, Json] = {"content": [{"type": "text", "text": clean(text)}], "isError": failed, **extra}
    if era is Era.MODERN:
        result["resultType"] = "complete"
    return _bytes({"jsonrpc": "2.0", "id": request_id, "result": result})


def clean(text: str) -> str:
    """The text with every invisible character but the line feed replaced by U+FFFD, and at most 4,000 characters."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(
            c if c == "\n" or unicodedata.category(c) not in _INVISIBLE else "\ufffd" for c in text[: _MAX_TEXT + 1]
        )
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def _cleaned(value: Json) -> Json:
    match value:
        case str():
            return clean(value)
        case Mapping():
            return {clean(name): _cleaned(member) for name, member in value.items()}
        case Sequence():
            return [_cleaned(member) for member in value]
        case _:
            return value


def _bytes(message: Mapping[str, Json]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode("ascii")

"""The closed list of methods an agent may send, and what each message acts upon.

Covers the revisions 2025-06-18, 2025-11-25 and 2026-07-28 of the Model Context Protocol and its tasks
extension (SEP-2663). A method that is not here is never forwarded: `tools/callBatch` of some vendor would
have the power of a tool without the name of one. Requests that only servers send
(`sampling/createMessage`, `elicitation/create`, `roots/list`) are not here either; their answers arrive
as responses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from guard.errors import WireError
from guard.model import Json
from guard.reasons import Code
from guard.wire.canonical import canonical_uri
from guard.wire.message import Message, Request, Response

Kind: TypeAlias = Literal["tool", "resource", "prompt", "protocol"]

METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
"""The whole name of a tool that can be called (the specification's SHOULD is a MUST here)."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method: request or notification, what it acts on, and the closed set of its parameters.

    `named_by` is the parameter that `Mcp-Name` repeats and that must be a string ("" for none); with
    `members` None the method takes parameters the protocol does not list. `legacy` methods were removed
    in the modern era.
    """

    request: bool
    kind: Kind
    members: frozenset[str] | None
    named_by: str = ""
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """What a message acts upon: `name` is a tool, a canonical URI, a prompt, or the method itself."""

    kind: Kind
    name: str
    arguments: Mapping[str, Json]


_RESUMING: Final = ("inputResponses", "requestState")


def _request(kind: Kind, *members: str, named_by: str = "", legacy: bool = False) -> Method:
    return Method(request=True, kind=kind, members=frozenset({*members, "_meta"}), named_by=named_by, legacy=legacy)


def _notification(*members: str) -> Method:
    return Method(request=False, kind="protocol", members=frozenset({*members, "_meta"}))


METHODS: Final[Mapping[str, Method]] = {
    # What has power of its own.
    "tools/call": _request("tool", "name", "arguments", "task", *_RESUMING, named_by="name"),
    "prompts/get": _request("prompt", "name", "arguments", *_RESUMING, named_by="name"),
    "resources/read": _request("resource", "uri", *_RESUMING, named_by="uri"),
    "resources/subscribe": _request("resource", "uri", named_by="uri", legacy=True),
    "resources/unsubscribe": _request("resource", "uri", named_by="uri", legacy=True),
    # `ref` says whether a prompt or a resource template is meant; `target` tells.
    "completion/complete": _request("prompt", "ref", "argument", "context"),
    # Answers what a task asked its human, so it weighs as much as the call that made the task.
    "tasks/update": _request("tool", "taskId", *_RESUMING, named_by="taskId"),
    # What only asks, lists or sets up. Clients put members of their own into `initialize`.
    "initialize": Method(request=True, kind="protocol", members=None, legacy=True),
    "ping": _request("protocol", legacy=True),
    "server/discover": _request("protocol"),
    "tools/list": _request("protocol", "cursor"),
    "prompts/list": _request("protocol", "cursor"),
    "resources/list": _request("protocol", "cursor"),
    "resources/templates/list": _request("protocol", "cursor"),
    "logging/setLevel": _request("protocol", "level", legacy=True),
    "subscriptions/listen": _request("protocol", "notifications"),
    "tasks/get": _request("protocol", "taskId", named_by="taskId"),
    "tasks/result": _request("protocol", "taskId", named_by="taskId", legacy=True),
    "tasks/cancel": _request("protocol", "taskId", named_by="taskId"),
    "tasks/list": _request("protocol", "cursor", legacy=True),
    "notifications/initialized": _notification(),
    "notifications/cancelled": _notification("requestId", "reason"),
    "notifications/progress": _notification("progressToken", "progress", "total", "message"),
    "notifications/roots/list_changed": _notification(),
    "notifications/tasks/status": _notification(
        "taskId", "status", "statusMessage", "createdAt", "lastUpdatedAt", "ttl", "pollInterval"
    ),
}
"""Every method an agent may send."""

RESPONSE: Final = "response"
"""The name under which `target` files an answer to a server's question."""


def method(name: str, *, modern: bool = False) -> Method:
    """The entry of a method, in the `modern` era or in either.

    Raises:
        WireError: it is not on the list (UNKNOWN_METHOD, JSON-RPC code -32601).
    """
    if (known := METHODS.get(name)) is None or (modern and known.legacy):
        raise WireError("this method is not known", reason=Code.UNKNOWN_METHOD, rpc_code=METHOD_NOT_FOUND)
    return known


def target(message: Message) -> Target:
    """What a message acts upon.

    A tool call made as a task is a tool call. The arguments of a resource are its URI as it was spelled:
    the canonical name finds its tags, yet an approval holds for that very spelling only.

    Raises:
        WireError: unknown method (UNKNOWN_METHOD) or a URI with two readings (AMBIGUOUS).
    """
    if isinstance(message, Response):
        return Target("protocol", RESPONSE, {})
    kind, params = method(message.method).kind, message.params
    if kind == "protocol":
        return Target(kind, message.method, params)
    if message.method == "tasks/update":
        return Target(kind, message.method, {key: params[key] for key in params if key != "_meta"})
    if message.method == "completion/complete":
        return _completed(params)
    if kind == "resource":
        uri = _text(params, "uri")
        return Target(kind, canonical_uri(uri), {"uri": uri})
    return Target(kind, _text(params, "name"), _object(params, "arguments"))


def resumes(message: Message) -> bool:
    """Whether a request brings answers or state of an earlier round beside what `target` says it does.

    Such a request may do more than an approval of its arguments covers. The answers of `tasks/update` are
    its arguments, so it never does.
    """
    return (
        isinstance(message, Request)
        and message.method != "tasks/update"
        and any(member in message.params for member in _RESUMING)
    )


def _completed(params: Mapping[str, Json]) -> Target:
    """The prompt or resource template whose argument is to be completed (`ref/prompt`, `ref/resource`)."""
    reference, arguments = (
        _object(params, "ref"),
        {key: params[key] for key in ("argument", "context") if key in params},
    )
    match reference.get("type"):
        case "ref/prompt":
            return Target("prompt", _text(reference, "name"), arguments)
        case "ref/resource":
            uri = _text(reference, "uri")
            return Target("resource", canonical_uri(uri), {"uri": uri, **arguments})
        case _:
            raise WireError("params.ref.type must be ref/prompt or ref/resource", rpc_code=INVALID_PARAMS)


def _text(holder: Mapping[str, Json], member: str) -> str:
    if isinstance(value := holder.get(member), str) and value:
        return value
    raise WireError(f"{member} must be a string that is not empty", rpc_code=INVALID_PARAMS)


def _object(holder: Mapping[str, Json], member: str) -> Mapping[str, Json]:
    value = holder.get(member, {})
    if isinstance(value, dict):
        return value
    raise WireError(f"{member} must be an object", rpc_code=INVALID_PARAMS)

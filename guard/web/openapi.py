"""The OpenAPI 3.1 document of the API, as data: what `/v1/openapi.json` answers and the reference page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from guard import __version__
from guard.model import Json, Sensitivity, State
from guard.reasons import Code

_Schema = dict[str, Json]


def _text(pattern: str = "", **more: Json) -> _Schema:
    return {"type": "string", **({"pattern": pattern} if pattern else {}), **more}


def _object(members: Mapping[str, Json], *, optional: Sequence[str] = (), closed: bool = True) -> _Schema:
    required: list[Json] = [name for name in members if name not in optional]
    return {
        "type": "object",
        "properties": dict(members),
        "required": required,
        **({"additionalProperties": False} if closed else {}),
    }


def _list(items: Json) -> _Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_NUMBER: Final[_Schema] = {"type": "number"}
_MAYBE: Final[_Schema] = {"type": ["number", "null"]}
_NEXT: Final[_Schema] = {"type": ["integer", "null"], "description": "where the next page begins, if there is one"}
_STATES: Final[_Schema] = _text(enum=[state.value for state in State])
_BASE64: Final = r"^[A-Za-z0-9_-]*$"
_ID: Final = "^c_[0-9A-Za-z]{16,64}$"

_PROOF: Final = _object({"class": _text(), "kind": _text(), "subject": _text(), "at": _NUMBER})
_CHALLENGE: Final = _object(
    {
        "id": _text(_ID),
        "state": _STATES,
        "version": {"type": "integer"},
        "principal": _text(description="the agent that asks"),
        "server": _text(),
        "kind": _text(enum=["tool", "resource", "prompt", "protocol"]),
        "tool": _text(),
        "digest": _text("^[0-9a-f]{64}$"),
        "short_digest": _text("^[0-9a-f]{6}$", description="what page, chat, terminal and agent text all show"),
        "sensitivity": _text(enum=[one.label for one in Sensitivity]),
        "requirement": _text(),
        "missing": _text(description="what is still to be proven, in words"),
        "reasons": _list(_text(enum=[code.value for code in Code])),
        "proofs": _list(_PROOF),
        "opened": _NUMBER,
        "expires": _NUMBER,
        "ended_by": _text(),
        "ended_because": _text(),
        "document": {"type": "object", "description": "what a signer signs, while the challenge is open"},
    },
    optional=["document"],
)
_SESSION: Final = _object(
    {
        "name": _text(),
        "groups": _list(_text()),
        "csrf": _text(description="the header `guard-csrf` of every request that changes something"),
        "expires": _NUMBER,
    }
)
_ASKED: Final = _object(
    {"once": _text(description="goes back with the answer; used once"), "publicKey": {"type": "object"}}
)
_ASSERTION: Final[Mapping[str, Json]] = {
    "once": _text(),
    "credential": _text(_BASE64),
    "client_data": _text(_BASE64),
    "authenticator_data": _text(_BASE64),
    "signature": _text(_BASE64),
}
_ALSO: Final[Mapping[str, Json]] = {
    "also_uses": _text("^[1-9][0-9]{0,5}$", description="how many further calls of the tool you allow, too"),
    "also_minutes": _text("^[1-9][0-9]{0,5}$", description="for how many minutes"),
    "also_when": _text(description="condition in CEL over args; without it, exactly the same arguments"),
}
_VOTE: Final = _object(
    {
        "kind": _text(description="`approval`"),
        "method": _text(enum=["totp", "webauthn"], description="how you show that it is you; `totp` unless told"),
        "view_digest": _text(description="of the view you were shown"),
        "code": _text(),
        **_ASSERTION,
        "as": _text(description="your own name, if given"),
        "note": _text(description="your words, for the record"),
        "because": _text(description="your words, for the agent, when you refuse"),
        **_ALSO,
    },
    optional=["method", "view_digest", "code", *_ASSERTION, "as", "note", "because", *_ALSO],
    closed=False,
)

SCHEMAS: Final[Mapping[str, Json]] = {
    "Challenge": _CHALLENGE,
    "Refusal": _object({"reason": _text(enum=[code.value for code in Code]), "message": _text()}),
    "Session": _SESSION,
    "Asked": _ASKED,
    "Vote": _VOTE,
}

_REFUSALS: Final = {
    400: "the request is malformed",
    401: "nobody is logged in, or under another name",
    403: "an agent's key, another site, a missing token, or a proof that does not count",
    404: "there is none, or it is none of your groups'",
    405: "not with this method",
    409: "it has ended or was used already",
    410: "too old, or used",
    421: "the Host is none of this listener's names",
    429: "the factor is locked",
    503: "something the guard needs is away, or too many ask at once",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method on one path: what it does, what it takes and what it answers."""

    method: str
    path: str
    summary: str
    answer: Json
    status: int = 200
    body: Json = None
    query: Mapping[str, Json] | None = None
    refusals: tuple[int, ...] = ()
    login: bool = True
    media: str = "application/json"


def _page(name: str, items: Json, **more: Json) -> _Schema:
    return _object({**more, name: _list(items), "next": _NEXT})


_FROM: Final[_Schema] = {"type": "integer", "minimum": 0, "maximum": 2**53, "description": "`next` of the page before"}
_ONE: Final = "/v1/challenges/{id}"
_VOTING: Final = (400, 404, 409, 410, 429)
_CALL: Final = _object(
    {
        "id": _text(),
        "digest": _text(),
        "arguments": _text(description="RFC 8785 text"),
        "definition": _text(description="digest of the tool's definition"),
        "view": _text(description="what an approver is shown"),
        "view_digest": _text(),
    }
)
_GRANT: Final = _object(
    {
        **{name: _text() for name in ("id", "challenge", "digest", "short_digest", "principal", "server", "tool")},
        "expires": _NUMBER,
    }
)
_KEY: Final = _object({"thumbprint": _text(), "created": _NUMBER, "expires": _MAYBE, "revoked": _MAYBE})
_AGENT: Final = _object({"name": _text(), "owner": _text(), "created": _NUMBER, "revoked": _MAYBE, "keys": _list(_KEY)})

_INTENT: Final = _object(
    {
        "id": _text(),
        "agent": _text(),
        "server": _text(),
        "tool": _text(),
        "state": _text(enum=["live", "not yet", "over", "used up", "revoked", "broken"]),
        "published": _NUMBER,
        "begins": _NUMBER,
        "ends": _NUMBER,
        "uses": {"type": "integer"},
        "used": {"type": "integer"},
        "signer": _text(),
        "key": _text(),
        "ticket": _text(),
        "reason": _text(),
    },
    optional=("begins", "uses", "signer", "key", "ticket", "reason"),
)

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    Endpoint(
        "get",
        "/v1/challenges",
        "Challenges of your groups, oldest first; waits for a change with `wait` and `after`",
        _page("challenges", _ref("Challenge"), cursor=_text()),
        query={
            "state": _text(
                f"^({'|'.join(State)})(,({'|'.join(State)}))*$",
                description="states, separated by commas; all if absent",
            ),
            "principal": _text(description="only those of one agent"),
            "q": _text(description="text in agent, server or tool, or the start of an id or digest"),
            "from": _FROM,
            "limit": {"type": "integer", "minimum": 1, "maximum": 200},
            "after": _text(description="`cursor` of an earlier answer"),
            "wait": {
                "type": "number",
                "minimum": 0,
                "maximum": 30,
                "description": "seconds to wait until the listing differs from `after`",
            },
            "document": _text(enum=["0", "1"], description="1 adds the document a signer signs"),
        },
        refusals=(400, 503),
    ),
    Endpoint("get", _ONE, "One challenge", _ref("Challenge"), refusals=(404,)),
    Endpoint("get", f"{_ONE}/canonical", "The whole call and what approvers are shown", _CALL, refusals=(404, 409)),
    Endpoint(
        "post",
        f"{_ONE}/assertion",
        "What your passkey is asked to sign for a decision",
        _ref("Asked"),
        body=_object({"decision": _text(enum=["approve", "deny"]), "view_digest": _text(), **_ALSO}, optional=[*_ALSO]),
        refusals=(400, 404, 503),
    ),
    Endpoint("post", f"{_ONE}/proofs", "Approve", _ref("Challenge"), body=_ref("Vote"), refusals=(*_VOTING, 503)),
    Endpoint("post", f"{_ONE}/deny", "Refuse for good", _ref("Challenge"), body=_ref("Vote"), refusals=(*_VOTING, 503)),
    Endpoint(
        "post",
        f"{_ONE}/cancel",
        "Close undecided; the agent may ask again at once",
        _ref("Challenge"),
        body=_object({"because": _text()}, optional=["because"]),
        refusals=(400, 404, 409),
    ),
    Endpoint(
        "get",
        "/v1/grants",
        "Unspent grants of your groups",
        _page("grants", _GRANT),
        query={"from": _FROM},
        refusals=(400,),
    ),
    Endpoint("post", "/v1/grants/{id}/revoke", "Withdraw an unspent grant", _ref("Challenge"), refusals=(404, 409)),
    Endpoint("get", "/v1/agents", "Every agent, with the thumbprints of its keys", _object({"agents": _list(_AGENT)})),
    Endpoint(
        "get",
        "/v1/events",
        'Server-sent events `change` with `{"waiting": n}`, now and whenever a challenge of yours changed',
        _text(),
        refusals=(503,),
        media="text/event-stream",
    ),
    Endpoint("get", "/v1/session", "Who is logged in", _ref("Session")),
    Endpoint(
        "post",
        "/v1/session",
        "Log in, to look: with name and one-time code, or with a passkey's assertion",
        _ref("Session"),
        status=201,
        body={"anyOf": [_object({"as": _text(), "code": _text()}), _object(_ASSERTION)]},
        refusals=(400, 409, 410, 429, 503),
        login=False,
    ),
    Endpoint("delete", "/v1/session", "Log out", None, status=204),
    Endpoint(
        "post",
        "/v1/session/assertion",
        "What a passkey is asked to sign to log its person in",
        _ref("Asked"),
        login=False,
    ),
    Endpoint(
        "post",
        "/v1/enrolment",
        "What the browser is asked to create, for the secret of an invitation",
        _ref("Asked"),
        body=_object({"invitation": _text()}),
        refusals=(400, 410, 503),
        login=False,
    ),
    Endpoint(
        "post",
        "/v1/enrolment/passkey",
        "Enrol the passkey the browser made; uses the invitation up",
        _object({"factor": _text(), "subject": _text()}),
        status=201,
        body=_object(
            {
                "invitation": _text(),
                "once": _text(),
                "client_data": _text(_BASE64),
                "attestation": _text(_BASE64),
            }
        ),
        refusals=(400, 409, 410, 503),
        login=False,
    ),
    Endpoint(
        "get",
        "/v1/intents",
        "The newest intents, signed or given while approving, without the arguments they name",
        _object({"intents": _list(_INTENT)}),
        query={"agent": _text(), "server": _text(), "tool": _text()},
        refusals=(400,),
    ),
    Endpoint(
        "post",
        "/v1/intents",
        "Publish a signed intent (a DSSE envelope); its signature is the credential; 200 when it was there",
        _INTENT,
        status=201,
        body=_object(
            {
                "payloadType": _text(),
                "payload": _text(),
                "signatures": _list(_object({"keyid": _text(), "sig": _text()}, optional=("keyid",))),
            }
        ),
        refusals=(400, 409, 410, 429, 503),
        login=False,
    ),
    Endpoint(
        "post",
        "/v1/intents/{id}/revoke",
        "Take back what you, or one of your group, allowed further while approving",
        _INTENT,
        refusals=(404,),
    ),
)
"""Every endpoint below /v1, in the order of the reference page."""


@cache
def document() -> dict[str, Json]:
    """The whole document."""
    paths = dict[str, dict[str, Json]]()
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "guard",
            "version": __version__,
            "description": "Challenges, grants and agents, for approvers. Agents' keys get 403.",
        },
        "paths": dict(paths),
        "components": {
            "schemas": dict(SCHEMAS),
            "securitySchemes": {
                "login": {"type": "apiKey", "in": "cookie", "name": "guard", "description": "set by POST /v1/session"},
                "csrf": {"type": "apiKey", "in": "header", "name": "guard-csrf"},
            },
        },
    }


def _operation(endpoint: Endpoint) -> _Schema:
    codes = sorted({*endpoint.refusals, 401, 403, 421})
    answered: _Schema = {"description": "done"}
    if endpoint.answer is not None:
        answered["content"] = {endpoint.media: {"schema": endpoint.answer}}
    refusal: Json = {"application/json": {"schema": _ref("Refusal")}}
    operation: _Schema = {
        "summary": endpoint.summary,
        "operationId": f"{endpoint.method}_{endpoint.path.strip('/').replace('/', '_').replace('{id}', 'one')}",
        "parameters": _parameters(endpoint),
        "responses": {
            str(endpoint.status): answered,
            **{str(code): {"description": _REFUSALS[code], "content": refusal} for code in codes},
        },
        "security": [{"login": [], "csrf": []} if endpoint.method != "get" else {"login": []}]
        if endpoint.login
        else [],
    }
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": endpoint.body}}}
    return operation


def _parameters(endpoint: Endpoint) -> list[Json]:
    named: list[Json] = []
    if "{id}" in endpoint.path:
        form = "^g_[0-9A-Za-z]{16,64}$" if endpoint.path.startswith("/v1/grants") else _ID
        named.append({"name": "id", "in": "path", "required": True, "schema": _text(form)})
    for name, schema in (endpoint.query or {}).items():
        named.append({"name": name, "in": "query", "required": False, "schema": schema})
    return named

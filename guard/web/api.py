"""The API of challenges: on the console's TCP listener for people, on a unix socket for the signer.

Errors are `{"reason": code, "message": sentence}`. No answer carries an argument of a call, and nothing here
decides: the ceremony does.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final

import anyio
import anyio.to_thread
import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from guard.config import Config
from guard.errors import (
    ChallengeClosedError,
    ChallengeError,
    GuardError,
    IdentityError,
    NotFoundError,
    ProofError,
    ProofExpiredError,
    ProofLockedError,
    ProofReplayedError,
    UnavailableError,
    WireError,
)
from guard.model import Challenge, Json, State
from guard.ports import Clock, Identifier, Store
from guard.reasons import Code
from guard.stepup.ceremony import Ceremony
from guard.web.body import read_body
from guard.web.gate import ConsoleGate, LocalGate, names, refusal
from guard.web.listing import current, cursor, describe, page, wanted

WAIT_SECONDS: Final = 30.0
WAITERS: Final = 256
LISTED: Final = 200
_POLL_SECONDS: Final = 0.05
_ID: Final = re.compile(r"c_[0-9A-Za-z]{16,64}", re.ASCII)
_STATUS: Final[tuple[tuple[type[GuardError], HTTPStatus], ...]] = (
    (IdentityError, HTTPStatus.UNAUTHORIZED),
    (NotFoundError, HTTPStatus.NOT_FOUND),
    (WireError, HTTPStatus.BAD_REQUEST),
    (ProofReplayedError, HTTPStatus.CONFLICT),
    (ProofExpiredError, HTTPStatus.GONE),
    (ProofLockedError, HTTPStatus.TOO_MANY_REQUESTS),
    (ProofError, HTTPStatus.FORBIDDEN),
    (ChallengeClosedError, HTTPStatus.CONFLICT),
    (ChallengeError, HTTPStatus.CONFLICT),
    (UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
)
_PAGE: Final = """\
<!doctype html><html lang="en"><meta charset="utf-8"><title>Challenge {short_digest}</title>
<h1>Challenge <code>{short_digest}</code>: {state}</h1>
<p>See the whole call, and compare the digest <code>{short_digest}</code> with what the agent shows:</p>
<pre>guard challenge show {id}</pre>
<p>Decide:</p>
<pre>guard challenge approve {id} --as NAME --code CODE
guard challenge deny {id} --as NAME --code CODE</pre>
"""

log = structlog.get_logger(__name__)


def api(
    *,
    config: Config,
    store: Store,
    ceremony: Ceremony,
    identifier: Identifier,
    clock: Clock,
    ready: Callable[[], bool],
    local: bool,
    more: Sequence[BaseRoute] = (),
) -> Starlette:
    """The application of one listener.

    `local` is for the unix socket of `state/run/`, which the caller makes 0600 in a 0700 directory; without it, the
    application is for the console's TCP listener, where an agent's key opens nothing. `more` are further
    routes.
    """
    endpoints = _Endpoints(config, store, ceremony, clock, ready)
    gate = (
        Middleware(LocalGate) if local else Middleware(ConsoleGate, hosts=names(config.console), identifier=identifier)
    )
    return Starlette(
        routes=[
            Route("/healthz", endpoints.health, methods=["GET"]),
            Route("/challenges/{id}", endpoints.page, methods=["GET"]),
            Route("/v1/challenges", endpoints.index, methods=["GET"]),
            Route("/v1/challenges/{id}", endpoints.show, methods=["GET"]),
            Route("/v1/challenges/{id}/proofs", endpoints.prove, methods=["POST"]),
            Route("/v1/challenges/{id}/deny", endpoints.deny, methods=["POST"]),
            *more,
        ],
        middleware=[gate],
        exception_handlers={GuardError: _translate},
    )


async def _translate(request: Request, error: Exception) -> Response:
    """The one place where the guard's errors become HTTP."""
    assert isinstance(error, GuardError)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    log.info("request refused", path=request.url.path, reason=error.reason.value, detail=error.detail)
    return refusal(status, error.reason, error.public)


class _Endpoints:
    """The handlers of one application, with what they need."""

    def __init__(
        self, config: Config, store: Store, ceremony: Ceremony, clock: Clock, ready: Callable[[], bool]
    ) -> None:
        self._audience, self._store, self._ceremony = config.deployment, store, ceremony
        self._clock, self._ready = clock, ready
        self._waiting = 0

    async def health(self, request: Request) -> Response:
        """200 when calls are taken."""
        del request
        ready = self._ready()
        return JSONResponse({"ready": ready}, status_code=HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    async def page(self, request: Request) -> Response:
        """How a challenge stands and how to decide it, for whoever follows the link."""
        shown = page(describe(await self._get(request), now=self._clock.now()))
        return HTMLResponse(_PAGE.format(**{name: html.escape(value) for name, value in shown.items()}))

    async def show(self, request: Request) -> Response:
        """One challenge with the document its signer signs."""
        return JSONResponse((await self._described([await self._get(request)], self._audience))[0])

    async def index(self, request: Request) -> Response:
        """Challenges by `state` (comma-separated) and `principal`, oldest first.

        With `after` (a cursor of an earlier answer) and `wait` (seconds, at most 30) the answer comes when the
        listing has changed since, or when the time is up. `document=1` adds the document a signer signs.
        """
        query = request.query_params
        try:
            states, wait = wanted(query.get("state", "")), min(float(query.get("wait", "0")), WAIT_SECONDS)
        except ValueError as error:
            raise WireError("state or wait is not valid") from error
        found = await self._listing(states, query.get("principal", ""))
        if wait > 0 and cursor(found) == query.get("after", ""):
            found = await self._news(states, query.get("principal", ""), query.get("after", ""), wait)
        audience = self._audience if query.get("document") == "1" else ""
        return JSONResponse({"cursor": cursor(found), "challenges": await self._described(found, audience)})

    async def prove(self, request: Request) -> Response:
        """Take one proof: `kind` and the evidence of that kind."""
        body = await _body(request)
        kind = body.pop("kind", "")
        body.pop("decision", None)  # the path decides what a person's code is spent on
        proven = await self._ceremony.prove(_identifier(request), _word(kind), body)
        return JSONResponse(describe(proven, now=self._clock.now()))

    async def deny(self, request: Request) -> Response:
        """Take a person's refusal: the evidence of an approval, and `because` for the agent to read."""
        body = await _body(request)
        kind, because = body.pop("kind", ""), body.pop("because", "")
        denied = await self._ceremony.deny(
            _identifier(request), _word(kind), {**body, "decision": "deny"}, _word(because)
        )
        return JSONResponse(describe(denied, now=self._clock.now()))

    async def _get(self, request: Request) -> Challenge:
        identifier = _identifier(request)
        found = await anyio.to_thread.run_sync(self._store.challenges.get, identifier)
        if found is None:
            raise NotFoundError(f"there is no challenge {identifier}")
        return found

    async def _described(self, found: Sequence[Challenge], audience: str) -> list[dict[str, Json]]:
        """In a worker thread: a document holds the digest of a view of arguments that an agent chose."""
        now = self._clock.now()
        return await anyio.to_thread.run_sync(lambda: [describe(one, now=now, audience=audience) for one in found])

    async def _listing(self, states: frozenset[State], principal: str) -> list[Challenge]:
        found = await anyio.to_thread.run_sync(lambda: self._store.challenges.find(states=states, principal=principal))
        return list(current(found, now=self._clock.now(), limit=LISTED))

    async def _news(self, states: frozenset[State], principal: str, after: str, wait: float) -> list[Challenge]:
        """The listing once it differs from `after`, or as it is when the time is up."""
        if self._waiting >= WAITERS:
            raise UnavailableError("too many requests wait already", reason=Code.OVERLOADED)
        self._waiting += 1
        try:
            until = self._clock.mono() + wait
            counter = await anyio.to_thread.run_sync(self._store.changed)
            found = await self._listing(states, principal)
            while cursor(found) == after and self._clock.mono() < until:
                await anyio.sleep(_POLL_SECONDS)
                moved = await anyio.to_thread.run_sync(self._store.changed)
                if moved != counter:
                    counter, found = moved, await self._listing(states, principal)
            return found
        finally:
            self._waiting -= 1


def _identifier(request: Request) -> str:
    identifier: str = request.path_params["id"]
    if not _ID.fullmatch(identifier):
        raise NotFoundError("there is no such challenge")
    return identifier


def _word(value: Json) -> str:
    if not isinstance(value, str):
        raise WireError("kind and because are texts")
    return value


async def _body(request: Request) -> dict[str, Json]:
    """The JSON object of a request: small, typed, and every member a text."""
    raw = await read_body(request)
    try:
        body: object = json.loads(raw, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise WireError("the body is not one JSON object", detail=str(error)) from error
    if not isinstance(body, dict) or not all(isinstance(value, str) for value in body.values()):
        raise WireError("the body is not a JSON object of texts")
    return body


def _once(pairs: list[tuple[str, Json]]) -> Mapping[str, Json]:
    """An object whose names are all different."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name occurs twice")
    return made

"""The API of challenges: on the console's TCP listener for people, on a unix socket for the signer.

Errors are `{"reason": code, "message": sentence}`. Only `/canonical` answers with the arguments of a call, and
nothing here decides: the ceremony does. What a person may not decide about does not exist for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

import anyio
import anyio.to_thread
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

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
from guard.people import Range
from guard.reasons import Code
from guard.stepup.given import FIELDS
from guard.stepup.given import wanted as wish
from guard.stepup.view import render
from guard.stepup.vote import Vote
from guard.web.bodies import challenge_id, json_body, word
from guard.web.gate import refusal
from guard.web.listing import cursor, describe, query, seconds, wanted, whole
from guard.web.services import Services
from guard.web.visits import by, groups, may_see, named, visitor

WAIT_SECONDS: Final = 30.0
WAITERS: Final = 256
LISTED: Final = 200
_POLL_SECONDS: Final = 0.05
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

log = structlog.get_logger(__name__)


def status_of(error: GuardError) -> HTTPStatus:
    """The one place where the guard's errors become HTTP."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


async def translate(request: Request, error: Exception) -> Response:
    """A refusal as JSON."""
    assert isinstance(error, GuardError)
    log.info("request refused", path=request.url.path, reason=error.reason.value, detail=error.detail)
    return refusal(status_of(error), error.reason, error.public)


async def translate_routing(request: Request, error: Exception) -> Response:
    """No such path, or not with this method, as JSON."""
    del request
    assert isinstance(error, HTTPException)
    missing = error.status_code == HTTPStatus.NOT_FOUND
    answer = refusal(error.status_code, Code.NOT_FOUND if missing else Code.UNKNOWN_METHOD)
    answer.headers.update(error.headers or {})
    return answer


async def seen(services: Services, request: Request) -> Challenge:
    """The challenge a path names, for somebody who may see it.

    Raises:
        NotFoundError: there is none, or it is none of their groups'; nobody learns which.
        IdentityError: nobody is logged in.
    """
    identifier = challenge_id(request)
    groups(request)  # nobody learns anything without a login
    found = await anyio.to_thread.run_sync(services.store.challenges.get, identifier)
    if found is None or not may_see(request, found):
        raise NotFoundError(f"there is no challenge {identifier}")
    return found


class Challenges:
    """The handlers below `/v1/challenges`."""

    def __init__(self, services: Services) -> None:
        self._services, self._store, self._clock = services, services.store, services.clock
        self._audience, self._ceremony = services.config.deployment, services.ceremony
        self._waiting = 0

    def routes(self) -> Sequence[BaseRoute]:
        """Where they are."""
        one = "/v1/challenges/{id}"
        return [
            Route("/v1/challenges", self.index, methods=["GET"]),
            Route(one, self.show, methods=["GET"]),
            Route(f"{one}/canonical", self.canonical, methods=["GET"]),
            Route(f"{one}/assertion", self.assertion, methods=["POST"]),
            Route(f"{one}/proofs", self.prove, methods=["POST"]),
            Route(f"{one}/deny", self.deny, methods=["POST"]),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
        ]

    async def index(self, request: Request) -> Response:
        """Challenges by `state` (comma-separated), `principal` and `q`, oldest first; `next` begins the next page.

        With `after` (a cursor of an earlier answer) and `wait` (seconds, at most 30) the answer comes when the
        listing has changed since, or when the time is up. `document=1` adds the document a signer signs.
        """
        asking = query(request, "state", "principal", "q", "from", "limit", "after", "wait", "document")
        asked = Range(
            states=wanted(asking.get("state")),
            principal=asking.get("principal", ""),
            groups=groups(request),
            named=named(request),
            text=asking.get("q", "").strip(),
            after=whole(asking.get("from", "0"), "from"),
            limit=whole(asking.get("limit", str(LISTED)), "limit", least=1, most=LISTED),
        )
        wait = seconds(asking.get("wait", "0"), "wait", most=WAIT_SECONDS)
        if (document := asking.get("document", "0")) not in {"0", "1"}:
            raise WireError("document is 0 or 1")
        found = await self._page(asked)
        if wait > 0 and _cursor(found) == asking.get("after", ""):
            found = await self._news(asked, asking.get("after", ""), wait)
        described = await self._described([one for _, one in found], document=document == "1")
        more = found[-1][0] if len(found) == asked.limit else None
        return JSONResponse({"cursor": _cursor(found), "next": more, "challenges": described})

    async def show(self, request: Request) -> Response:
        """One challenge with the document its signer signs."""
        challenge, now = await seen(self._services, request), self._clock.now()
        return JSONResponse(
            await anyio.to_thread.run_sync(lambda: describe(challenge, now=now, audience=self._audience))
        )

    async def canonical(self, request: Request) -> Response:
        """The whole call as it was inspected, and the view an approver is shown, with the digests of both."""
        challenge = await seen(self._services, request)
        if not challenge.state.open:
            raise ChallengeClosedError("the arguments were erased when the challenge ended")
        view = await anyio.to_thread.run_sync(render, challenge)
        return JSONResponse(
            {
                "id": challenge.id,
                "digest": challenge.digest,
                "arguments": challenge.arguments,
                "definition": challenge.definition,
                "view": view.text,
                "view_digest": view.digest,
            }
        )

    async def assertion(self, request: Request) -> Response:
        """What the visitor's passkey is asked to sign for a `decision` about this view (`view_digest`)."""
        challenge, person = await seen(self._services, request), visitor(request)
        if person is None:
            raise IdentityError(reason=Code.NO_CREDENTIAL)
        body = await json_body(request, "decision", "view_digest", *FIELDS)
        if body.get("decision") not in {"approve", "deny"}:
            raise WireError("decision is approve or deny")
        vote = Vote(
            challenge=challenge,
            approver=person.name,
            decision="deny" if body["decision"] == "deny" else "approve",
            view_digest=word(body.get("view_digest")),
            evidence={},
            also=also.label if (also := wish(body)) else "",
        )
        return JSONResponse(await anyio.to_thread.run_sync(self._services.passkeys.begin_vote, vote))

    async def prove(self, request: Request) -> Response:
        """Take one proof: `kind` and the evidence of that kind."""
        groups(request)  # nobody has their body read without a login
        try:
            body = await json_body(request)
            kind = word(body.pop("kind", ""))
        except WireError:
            await seen(self._services, request)  # that there is no such challenge is said first
            raise
        body.pop("decision", None)  # the path decides what a person's code is spent on
        challenge = await seen(self._services, request)  # after the body, which may take its time
        proven = await self._ceremony.prove(challenge.id, kind, self._own(request, body), known=challenge)
        return JSONResponse(describe(proven, now=self._clock.now()))

    async def deny(self, request: Request) -> Response:
        """Take a person's refusal: the evidence of an approval, and `because` for the agent to read."""
        challenge = await seen(self._services, request)
        body = await json_body(request)
        kind, because = word(body.pop("kind", "")), word(body.pop("because", ""))
        evidence = self._own(request, {**body, "decision": "deny"})
        denied = await self._ceremony.deny(challenge.id, kind, evidence, because)
        return JSONResponse(describe(denied, now=self._clock.now()))

    async def cancel(self, request: Request) -> Response:
        """Close a pending challenge undecided, with `because` for the record; it only closes, so it takes no proof."""
        challenge = await seen(self._services, request)
        because = word((await json_body(request, "because")).get("because", ""))
        closed = await self._ceremony.cancel(challenge.id, by=by(request), because=because)
        return JSONResponse(describe(closed, now=self._clock.now()))

    @staticmethod
    def _own(request: Request, evidence: Mapping[str, Json]) -> Mapping[str, Json]:
        """A visitor's evidence is their own: nobody votes under another name."""
        person = visitor(request)
        if person is None:
            return evidence
        if evidence.get("as", person.name) != person.name:
            raise IdentityError("you are logged in under another name")
        return {**evidence, "as": person.name}

    async def _described(self, found: Sequence[Challenge], *, document: bool) -> list[dict[str, Json]]:
        """In a worker thread: a document holds the digest of a view of arguments that an agent chose."""
        now = self._clock.now()

        def work() -> list[dict[str, Json]]:
            if not document:
                return [describe(one, now=now) for one in found]
            whole = (self._store.challenges.get(one.id) for one in found)
            return [describe(one, now=now, audience=self._audience) for one in whole if one is not None]

        return await anyio.to_thread.run_sync(work)

    async def _page(self, asked: Range) -> Sequence[tuple[int, Challenge]]:
        """One page of those that are not merely waiting to be swept away."""
        living = Range(
            states=asked.states,
            principal=asked.principal,
            groups=asked.groups,
            named=asked.named,
            living=self._clock.now(),
            text=asked.text,
            after=asked.after,
            limit=asked.limit,
        )
        return await anyio.to_thread.run_sync(self._store.challenges.page, living)

    async def _news(self, asked: Range, after: str, wait: float) -> Sequence[tuple[int, Challenge]]:
        """The listing once it differs from `after`, or as it is when the time is up."""
        if self._waiting >= WAITERS:
            raise UnavailableError("too many requests wait already", reason=Code.OVERLOADED)
        self._waiting += 1
        try:
            until = self._clock.mono() + wait
            counter = await anyio.to_thread.run_sync(self._store.changed)
            found = await self._page(asked)
            while _cursor(found) == after and self._clock.mono() < until:
                await anyio.sleep(_POLL_SECONDS)
                moved = await anyio.to_thread.run_sync(self._store.changed)
                if moved != counter:
                    counter, found = moved, await self._page(asked)
            return found
        finally:
            self._waiting -= 1


class Grants:
    """The handlers of grants and agents."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> Sequence[BaseRoute]:
        """Where they are."""
        return [
            Route("/v1/grants", self.index, methods=["GET"]),
            Route("/v1/grants/{id}/revoke", self.revoke, methods=["POST"]),
            Route("/v1/agents", self.agents, methods=["GET"]),
        ]

    async def index(self, request: Request) -> Response:
        """The unspent grants, oldest first; `next` begins the next page."""
        asked = Range(
            states=frozenset({State.SATISFIED}),
            groups=groups(request),
            named=named(request),
            living=self._services.clock.now(),
            after=whole(query(request, "from").get("from", "0"), "from"),
            limit=LISTED,
        )
        found = await anyio.to_thread.run_sync(self._services.store.challenges.page, asked)
        given: list[Json] = [
            {
                "id": grant.id,
                "challenge": one.id,
                "digest": one.digest,
                "short_digest": one.short_digest,
                "principal": one.principal.subject,
                "server": one.server,
                "tool": one.name,
                "expires": grant.expires,
            }
            for _, one in found
            if (grant := one.grant) is not None
        ]
        return JSONResponse({"grants": given, "next": found[-1][0] if len(found) == LISTED else None})

    async def revoke(self, request: Request) -> Response:
        """Withdraw an unspent grant (`g_…`)."""
        grant: str = request.path_params["id"]
        request.path_params["id"] = "c" + grant[1:] if grant.startswith("g_") else ""
        await seen(self._services, request)
        revoked = await self._services.ceremony.revoke(grant, by=by(request))
        return JSONResponse(describe(revoked, now=self._services.clock.now()))

    async def agents(self, request: Request) -> Response:
        """Every agent, with the thumbprints of its keys."""
        groups(request)
        return JSONResponse({"agents": await anyio.to_thread.run_sync(self._agents)})

    def _agents(self) -> list[Json]:
        store = self._services.store.agents
        return [
            {
                "name": agent.name,
                "owner": agent.owner,
                "created": agent.created,
                "revoked": agent.revoked or None,
                "keys": [
                    {
                        "thumbprint": key.thumbprint,
                        "created": key.created,
                        "expires": key.expires or None,
                        "revoked": key.revoked or None,
                    }
                    for key in store.credentials(agent.name)
                ],
            }
            for agent in store.all()
        ]


def _cursor(found: Sequence[tuple[int, Challenge]]) -> str:
    return cursor(one for _, one in found)

"""Logging in to look, and enrolling a passkey: what somebody without a login may do.

A person shows who they are with a passkey, or with their name and a one-time code. Either way it is spent on the
login: the code or assertion that logged somebody in is worth nothing for a vote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from guard.errors import IdentityError, ProofInvalidError
from guard.factors import totp, webauthn
from guard.model import Json
from guard.reasons import Code
from guard.web.bodies import json_body, word
from guard.web.services import Services
from guard.web.visits import Visitor, Visits, visitor

_LOGIN: Final = ("as", "code", "once", "credential", "client_data", "authenticator_data", "signature")


class Sessions:
    """The handlers of logins and enrolments."""

    def __init__(self, services: Services, visits: Visits) -> None:
        self._services, self._visits, self._passkeys = services, visits, services.passkeys

    def routes(self) -> Sequence[BaseRoute]:
        """Where they are."""
        return [
            Route("/v1/session", self.show, methods=["GET"]),
            Route("/v1/session", self.open, methods=["POST"]),
            Route("/v1/session", self.close, methods=["DELETE"]),
            Route("/v1/session/assertion", self.assertion, methods=["POST"]),
            Route("/v1/enrolment", self.enrol, methods=["POST"]),
            Route("/v1/enrolment/passkey", self.enrolled, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        """Who is logged in."""
        found = visitor(request)
        if found is None:
            raise IdentityError(reason=Code.NO_CREDENTIAL)
        return JSONResponse(_session(found))

    async def open(self, request: Request) -> Response:
        """Log in: `as` and `code`, or a passkey's assertion with its `once`."""
        return await self.log_in(await json_body(request, *_LOGIN), JSONResponse({}), describe=True)

    async def log_in(self, evidence: Mapping[str, Json], answer: Response, *, describe: bool = False) -> Response:
        """Check the evidence and put the cookie into an answer.

        Raises:
            ProofError: the evidence does not count.
        """
        secret, found = await anyio.to_thread.run_sync(self._open, evidence)
        if describe:
            answer = JSONResponse(_session(found), status_code=HTTPStatus.CREATED)
        self._visits.keep(answer, secret)
        return answer

    def _open(self, evidence: Mapping[str, Json]) -> tuple[str, Visitor]:
        services = self._services
        if "once" in evidence:
            name, method = self._passkeys.finish_login(evidence), webauthn.KIND
        else:
            name, method = word(evidence.get("as")), totp.KIND
            person = services.store.approvers.get(name)
            if person is None or person.removed:
                raise ProofInvalidError(detail=f"there is no approver {name!r}")
            services.codes.authenticate(name, word(evidence.get("code")), services.clock.now())
        services.ledger.append("login.accepted", {"approver": name, "kind": method})
        secret = self._visits.open(name, method)
        found = self._visits.find(secret)
        if found is None:
            raise ProofInvalidError(detail=f"{name} was removed a moment ago")
        return secret, found

    async def close(self, request: Request) -> Response:
        """Log out."""
        found = visitor(request)
        if found is None:
            raise IdentityError(reason=Code.NO_CREDENTIAL)
        await anyio.to_thread.run_sync(self._visits.close, found)
        answer = Response(status_code=HTTPStatus.NO_CONTENT)
        self._visits.keep(answer, "")
        return answer

    async def assertion(self, request: Request) -> Response:
        """What any passkey of this console is asked to sign to log its person in."""
        del request
        return JSONResponse(await anyio.to_thread.run_sync(self._passkeys.begin_login))

    async def enrol(self, request: Request) -> Response:
        """What the browser is asked to create, for the secret of an `invitation`."""
        body = await json_body(request, "invitation")
        return JSONResponse(
            await anyio.to_thread.run_sync(self._passkeys.begin_enrolment, word(body.get("invitation")))
        )

    async def enrolled(self, request: Request) -> Response:
        """Take the passkey the browser made; uses the invitation up."""
        named = ("invitation", "once", "client_data", "attestation")
        body = await json_body(request, *named)
        texts = [word(body.get(name)) for name in named]
        factor = await anyio.to_thread.run_sync(lambda: self._passkeys.finish_enrolment(*texts))
        return JSONResponse({"factor": factor.id, "subject": factor.subject}, status_code=HTTPStatus.CREATED)


def _session(found: Visitor) -> dict[str, Json]:
    return {
        "name": found.name,
        "groups": sorted(found.person.groups),
        "csrf": found.csrf,
        "expires": found.expires,
    }

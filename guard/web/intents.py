"""`/v1/intents`: CI publishes a signed intent here, from a machine that is not the guard's.

Publishing needs no credential beside the manifest's own signature, by a key that was enrolled for it; an agent's key
opens nothing here either. Listing is behind the gate like everything else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Final

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guard.errors import NotFoundError, ProofError, UnavailableError, WireError
from guard.intents import Intent, Intents, Publisher
from guard.model import Json
from guard.ports import Challenges, Clock, Ledger
from guard.reasons import Code
from guard.stepup.given import parse, stated
from guard.web.bodies import raw_body
from guard.web.listing import query
from guard.web.visits import by, groups, visitor
from guard.wire.strict import read

LISTED: Final = 200
_MINUTE: Final = 60.0
_ID: Final = re.compile(r"i_[0-9A-Za-z]{22,64}", re.ASCII)


class Rate:
    """How many envelopes are looked at in a minute: from one address, and from all of them together.

    Whoever holds an old envelope may send it again and again, and each time it is refused that is on record.
    """

    def __init__(self, *, each: int = 60, all_of_them: int = 600) -> None:
        self._each, self._all = each, all_of_them
        self._taken, self._until = Counter[str](), 0.0

    def take(self, source: str, now: float) -> None:
        """Count one at `now` (monotonic seconds).

        Raises:
            UnavailableError: there were too many in this minute.
        """
        if now >= self._until:
            self._taken.clear()
            self._until = now + _MINUTE
        if self._taken[source] >= self._each or self._taken.total() >= self._all:
            raise UnavailableError("too many intents within a minute; try again later", reason=Code.OVERLOADED)
        self._taken[source] += 1


class IntentEndpoints:
    """The handlers of every method."""

    def __init__(
        self, publisher: Publisher, intents: Intents, challenges: Challenges, ledger: Ledger, clock: Clock
    ) -> None:
        """Publish through `publisher`, list what is in `intents`; `challenges` say who may see what was given."""
        self._publisher, self._intents, self._clock = publisher, intents, clock
        self._challenges, self._ledger = challenges, ledger
        self._rate = Rate()

    def routes(self) -> list[Route]:
        """What the application of a listener adds."""
        return [
            Route("/v1/intents", self.publish, methods=["POST"]),
            Route("/v1/intents", self.index, methods=["GET"]),
            Route("/v1/intents/{id}/revoke", self.revoke, methods=["POST"]),
        ]

    async def publish(self, request: Request) -> Response:
        """Take one DSSE envelope with a manifest: 201, and 200 where it was published before."""
        self._rate.take(request.client.host if request.client else "", self._clock.mono())
        value = read(await raw_body(request))
        if not isinstance(value, Mapping):
            raise WireError("the body is not one JSON object")
        began = self._clock.now()
        intent = await anyio.to_thread.run_sync(self._publisher.publish, value)
        status = HTTPStatus.CREATED if intent.published >= began else HTTPStatus.OK
        return JSONResponse(describe(intent, now=self._clock.now()), status_code=status)

    async def index(self, request: Request) -> Response:
        """The newest intents, by `agent`, `server` and `tool`."""
        names = ("agent", "server", "tool")
        asked = query(request, *names)
        wanted = {name: asked.get(name, "") for name in names}
        found = await anyio.to_thread.run_sync(partial(self._intents.find, **wanted, limit=LISTED))
        now = self._clock.now()
        return JSONResponse({"intents": [describe(one, now=now) for one in found]})

    async def revoke(self, request: Request) -> Response:
        """Take back what somebody allowed while approving: they themselves, or whoever sees the challenge it was on."""
        identifier: str = request.path_params["id"]
        nothing = NotFoundError("there is no such intent that you may revoke")
        groups(request)
        found = await anyio.to_thread.run_sync(self._intents.get, identifier) if _ID.fullmatch(identifier) else None
        if found is None or not await anyio.to_thread.run_sync(self._may_revoke, request, found):
            raise nothing
        now, who = self._clock.now(), by(request)
        if not await anyio.to_thread.run_sync(self._intents.revoke, identifier, now):
            raise nothing
        self._ledger.append("intent.revoked", {"intent": identifier, "by": who})
        return JSONResponse(describe(replace(found, revoked=now), now=now))

    def _may_revoke(self, request: Request, intent: Intent) -> bool:
        person = visitor(request)
        if person is None:  # the owner of the local socket
            return True
        try:
            given = parse(intent.payload)
        except ProofError:
            return False  # what a key signed is for its owner to take back
        challenge = self._challenges.get(given.challenge)
        return given.manifest.signer == person.name or (challenge is not None and person.may_see(challenge))


def describe(intent: Intent, *, now: float) -> dict[str, Json]:
    """An intent as JSON, without the arguments it names."""
    described: dict[str, Json] = {
        "id": intent.id,
        "agent": intent.agent,
        "server": intent.server,
        "tool": intent.tool,
        "state": "broken",
        "published": intent.published,
        "ends": intent.ends,
        "used": intent.used,
    }
    try:
        manifest = stated(intent.payload)
    except ProofError:
        return described
    state = "live"
    if intent.revoked:
        state = "revoked"
    elif intent.used >= manifest.uses:
        state = "used up"
    elif now >= manifest.ends:
        state = "over"
    elif now < manifest.begins:
        state = "not yet"
    return described | {
        "state": state,
        "signer": manifest.signer,
        "key": manifest.key,
        "begins": manifest.begins,
        "uses": manifest.uses,
        "ticket": manifest.ticket,
        "reason": manifest.reason,
    }

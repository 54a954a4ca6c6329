"""`/v1/events`: tells a person's open pages that something they may see has changed (server-sent events).

An event says how many challenges wait, never about what: the page asks again for what it shows. One look at the
index answers for ten thousand challenges, and the login is looked at again with every event.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Final

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from guard.errors import StoreUnavailableError, UnavailableError
from guard.reasons import Code
from guard.web.services import Services
from guard.web.visits import Visitor, Visits, groups, named, visitor

STREAMS: Final = 256
BEAT_SECONDS: Final = 15.0
"""Between two signs of life; also how soon a challenge that merely ran out of time is noticed."""
_PAUSE_SECONDS: Final = 0.25


class Events:
    """The streams of one listener."""

    def __init__(self, services: Services, visits: Visits) -> None:
        self._services, self._visits = services, visits
        self._streams = 0

    def routes(self) -> list[Route]:
        """Where they are."""
        return [Route("/v1/events", self.open, methods=["GET"])]

    async def open(self, request: Request) -> Response:
        """Begin a stream.

        Raises:
            UnavailableError: too many are open.
        """
        groups(request)
        if self._streams >= STREAMS:
            raise UnavailableError("too many pages listen already", reason=Code.OVERLOADED)
        return StreamingResponse(self._stream(request), media_type="text/event-stream")

    async def _stream(self, request: Request) -> AsyncIterator[str]:
        visible_to, own, local = groups(request), named(request), visitor(request) is None
        seen, store, clock = "", self._services.store.challenges, self._services.clock
        count = -1
        self._streams += 1
        try:
            while True:
                if not local:
                    if (person := await self._allowed(request)) is None:
                        return
                    visible_to, own = person.sees, person.person.groups
                waiting, mark = await anyio.to_thread.run_sync(store.pulse, visible_to, clock.now(), own)
                if mark != seen or not seen:
                    seen = mark or "-"
                    yield f"event: change\ndata: {json.dumps({'waiting': waiting})}\n\n"
                else:
                    yield ": alive\n\n"
                with anyio.move_on_after(BEAT_SECONDS):
                    await anyio.sleep(_PAUSE_SECONDS)
                    count = await self._services.changed(count)
        except StoreUnavailableError:
            return  # the browser comes again by itself
        finally:
            self._streams -= 1

    async def _allowed(self, request: Request) -> Visitor | None:
        """The visitor as they are now; None once the login has ended."""
        return await anyio.to_thread.run_sync(self._visits.find, self._visits.secret(request.cookies))

"""Orders of channels: a refusal on the word of a user whom a channel vouches for. Its signature is its credential."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from guard.notify.denial import Denials
from guard.web.bodies import raw_body


class Orders:
    """The handler below `/channels`, which no login guards and which can only refuse."""

    def __init__(self, denials: Denials) -> None:
        self._denials = denials

    def routes(self) -> Sequence[BaseRoute]:
        """Where it is."""
        return [Route("/channels/{name}/deny", self.deny, methods=["POST"])]

    async def deny(self, request: Request) -> Response:
        """Deny a challenge on the word of a user whom the channel vouches for."""
        denied = await self._denials.deny(request.path_params["name"], request.headers, await raw_body(request))
        return JSONResponse({"id": denied.id, "state": denied.state.value})

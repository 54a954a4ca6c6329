"""The two applications: console and API on the TCP listener, the API alone on the unix socket."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from guard.errors import GuardError
from guard.web.api import Challenges, Grants, translate, translate_routing
from guard.web.events import Events
from guard.web.gate import ConsoleGate, LocalGate, names
from guard.web.intents import IntentEndpoints
from guard.web.openapi import document
from guard.web.orders import Orders
from guard.web.services import Services
from guard.web.sessions import Sessions
from guard.web.visits import Visits


def api(services: Services, *, local: bool) -> Starlette:
    """The application of one listener.

    `local` is for the unix socket of `state/run/`, which the caller makes 0600 in a 0700 directory; without it, the
    application is for the console's TCP listener, where an agent's key opens nothing.
    """
    config, store = services.config, services.store
    visits = Visits(
        config.console, store.people.logins, store.approvers, services.clock, escalate=config.approval.escalate
    )
    challenges, grants, events = Challenges(services), Grants(services), Events(services, visits)
    routes: list[BaseRoute] = [
        Route("/healthz", _health(services.ready), methods=["GET"]),
        *challenges.routes(),
        *grants.routes(),
        *events.routes(),
        *IntentEndpoints(services.intents, store.intents, store.challenges, services.ledger, services.clock).routes(),
    ]
    if local:
        return _application(routes, Middleware(LocalGate), translate)
    from guard.web.console import Console, onward  # noqa: PLC0415 - the templates' 3 MB; `guard run` has no console

    sessions = Sessions(services, visits)
    console = Console(services, visits, sessions)
    routes += [*sessions.routes(), Route("/v1/openapi.json", _openapi, methods=["GET"]), *console.routes()]
    if services.openid is not None:
        from guard.web.openid import OpenIdPages  # noqa: PLC0415 - JOSE, an extra

        pages = OpenIdPages(
            services.openid,
            visits,
            approvers=store.approvers,
            ledger=services.ledger,
            page=console.page,
            onward=onward,
        )
        routes += pages.routes()
    routes += Orders(services.denials).routes()
    gate = Middleware(ConsoleGate, hosts=names(config.console), identifier=services.identifier, visits=visits)

    async def refused(request: Request, error: Exception) -> Response:
        below = request.url.path.startswith("/v1")
        return await (translate if below else console.refused)(request, error)

    return _application(routes, gate, refused)


def _application(routes: list[BaseRoute], gate: Middleware, refused: Callable[..., object]) -> Starlette:
    handlers = {GuardError: refused, HTTPException: translate_routing}
    app = Starlette(routes=routes, middleware=[gate], exception_handlers=handlers)  # type: ignore[arg-type]
    app.router.redirect_slashes = False
    return app


def _health(ready: Callable[[], bool]) -> Callable[[Request], object]:
    async def health(request: Request) -> Response:
        """200 when calls are taken."""
        del request
        taken = ready()
        return JSONResponse({"ready": taken}, status_code=HTTPStatus.OK if taken else HTTPStatus.SERVICE_UNAVAILABLE)

    return health


async def _openapi(request: Request) -> Response:
    """What this API is, for programs."""
    del request
    return JSONResponse(document())

"""The two addresses of a login with an OpenID provider: where it begins, and where the provider sends people back.

The provider's answer comes with a navigation from another site, to which browsers add no strict cookie; so what begins
a login is in a cookie of its own, and the page that ends it leads on from here, where the login's cookie goes along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, Protocol

import anyio.to_thread
import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from guard.errors import IdentityError, WireError
from guard.model import Json
from guard.openid.flow import CALLBACK, LASTING, Flow
from guard.openid.token import NotLoggedInError, person
from guard.ports import Approvers, Ledger
from guard.reasons import Code
from guard.stepup.visible import bounded
from guard.web.visits import Visits, visitor

BEGIN: Final = "/login/oidc"
KIND: Final = "openid"
_ANSWER: Final = frozenset({"code", "state", "iss", "error"})
_LONGEST: Final = 4096

log = structlog.get_logger(__name__)


class Page(Protocol):
    """Renders one of the console's pages."""

    def __call__(self, request: Request, template: str, values: Mapping[str, object]) -> Response:
        """The page."""


class OpenIdPages:
    """The handlers of one console."""

    def __init__(
        self,
        flow: Flow,
        visits: Visits,
        *,
        approvers: Approvers,
        ledger: Ledger,
        page: Page,
        onward: Callable[[str], str],
    ) -> None:
        """`onward` makes one of the console's own paths of what was asked for."""
        self._flow, self._visits, self._approvers, self._ledger = flow, visits, approvers, ledger
        self._page, self._onward = page, onward

    def routes(self) -> list[BaseRoute]:
        """Where they are."""
        return [Route(BEGIN, self.begin, methods=["GET"]), Route(CALLBACK, self.end, methods=["GET"])]

    async def begin(self, request: Request) -> Response:
        """Send a browser to the provider."""
        going = self._onward(request.query_params.get("next", ""))
        if visitor(request) is not None:
            return RedirectResponse(going, HTTPStatus.SEE_OTHER)
        url, cookie = await self._flow.begin(going)
        answer = RedirectResponse(url, HTTPStatus.SEE_OTHER)
        self._visits.remember(answer, cookie, int(LASTING))
        return answer

    async def end(self, request: Request) -> Response:
        """Take the provider's answer; the person it names is logged in if they are an approver."""
        answer = _answer(request)
        begun = await anyio.to_thread.run_sync(self._flow.take, self._visits.remembered(request.cookies))
        try:
            said = await self._flow.end(begun, answer)
            secret = await anyio.to_thread.run_sync(self._open, said)
        except NotLoggedInError as error:  # anybody can have one of these: no record for everybody who wants one
            log.info("login refused", because=error.public, detail=error.detail)
            raise
        except IdentityError as error:
            self._refused(error)
            raise
        onward = self._page(request, "onward.html", {"onward": self._onward(begun.going)})
        self._visits.keep(onward, secret)
        self._visits.remember(onward, "", 0)
        return onward

    def _open(self, said: Mapping[str, Json]) -> str:
        """Log the person in whom the claims name; blocks."""
        name = person(said, self._flow.issuer)
        found = self._approvers.get(name) if name else None
        if found is None or found.removed:
            named = bounded(str(said.get(self._flow.issuer.claim)))
            message = f"you are known to the provider as {named}, which is no approver here"
            raise IdentityError(message, reason=Code.LOGIN_REFUSED)
        self._ledger.append("login.accepted", {"approver": name, "kind": KIND})
        return self._visits.open(name, KIND)

    def _refused(self, error: IdentityError) -> None:
        reason: Json = {"code": error.reason.value, "by": self._flow.issuer.issuer, "evidence": error.public}
        self._ledger.append("login.refused", {"kind": KIND, "reasons": [reason]})


def _answer(request: Request) -> dict[str, str]:
    """What the provider says, each once.

    Raises:
        WireError: something is said twice, or is too long.
    """
    found = [(name, value) for name, value in request.query_params.multi_items() if name in _ANSWER]
    if len({name for name, _ in found}) != len(found) or any(len(value) > _LONGEST for _, value in found):
        raise WireError("the provider's answer says something twice, or is too long")
    return dict(found)

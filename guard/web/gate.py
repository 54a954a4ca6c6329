"""What stands before every page and endpoint: host, origin, credential, and headers on every answer.

A listener on localhost is no trust boundary: any page in a browser can reach it under a name of its own
choice (DNS rebinding), and agents run on the same machine. So the Host must be one of the listener's names, a
request of another origin is refused, and an agent's key is refused although, and because, it is valid.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guard.config import Console
from guard.errors import GuardError, IdentityError
from guard.ports import Identifier
from guard.reasons import Code

SECURITY_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::[0-9]{1,5})?", re.ASCII)
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_API: Final = "/v1"
SIGNED: Final = frozenset({("POST", "/v1/intents")})
"""What needs no credential beside a signature in its body."""


def names(console: Console) -> frozenset[str]:
    """The host names, without ports, under which the console may be addressed."""
    host = f"[{console.host}]" if ":" in console.host else console.host
    found = {host, urlsplit(console.public_url).netloc, *console.allowed_hosts}
    plain = {match[1] for name in found if (match := _HOST.fullmatch(name.lower()))}
    return frozenset(plain | _LOOPBACK if console.loopback else plain)


def refusal(status: int, reason: Code, message: str = "") -> JSONResponse:
    """A refused request, said as JSON."""
    return JSONResponse({"reason": reason.value, "message": message or reason.meaning}, status_code=status)


class LocalGate:
    """For the unix socket: whoever can open it (0600, in a 0700 directory) is the guard's own user.

    A browser cannot reach a unix socket; no credential is asked for, because every proof brings its own.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with the security headers on the way back."""
        await self._app(scope, receive, _with_headers(send))


class ConsoleGate:
    """For the TCP listener: nobody but people may use the API, and only under the listener's own names."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], identifier: Identifier) -> None:
        self._app, self._hosts, self._identifier = app, frozenset(hosts), identifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what comes to the right place from nobody in particular; refuse the rest."""
        if scope["type"] == "http":
            send = _with_headers(send)
            refused = self._place(Headers(scope=scope)) or await self._person(scope)
            if refused is not None:
                await refused(scope, receive, send)
                return
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    def _place(self, headers: Headers) -> JSONResponse | None:
        """Refuse foreign hosts (421) and foreign origins (403)."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._own(hosts[0]):
            return refusal(421, Code.HOST)
        for origin in headers.getlist("origin"):
            scheme, separator, place = origin.partition("://")
            if not separator or scheme not in {"http", "https"} or not self._own(place):
                return refusal(403, Code.HOST)
        if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            return refusal(403, Code.HOST)
        return None

    def _own(self, host: str) -> bool:
        match = _HOST.fullmatch(host.lower())
        return match is not None and match[1] in self._hosts

    async def _person(self, scope: Scope) -> JSONResponse | None:
        """Refuse everything below /v1: agents because they are (403), others because they are nobody yet (401).

        What carries its own signature passes without a credential.
        """
        path: str = scope["path"]
        if path != _API and not path.startswith(f"{_API}/"):
            return None
        scheme, _, credential = Headers(scope=scope).get("authorization", "").partition(" ")
        if not scheme and (scope["method"], path) in SIGNED:
            return None
        if scheme.lower() != "bearer":
            return refusal(401, Code.NO_CREDENTIAL)
        try:
            await self._identifier.identify(credential.strip())
        except IdentityError as error:
            return refusal(401, error.reason)
        except GuardError as error:
            return refusal(503, error.reason)
        return refusal(403, Code.PROOF_WRONG_APPROVER, "an agent's key opens nothing here")


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
        await send(message)

    return sending

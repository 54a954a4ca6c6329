"""What stands before every page and endpoint: host, origin, credential, and headers on every answer.

A listener on localhost is no trust boundary: any page in a browser can reach it under a name of its own
choice (DNS rebinding), and agents run on the same machine. So the Host must be one of the listener's names, a
request that another site makes is refused (following a link is not one), and an agent's key is refused although,
and because, it is valid. Below `/v1` a person must be logged in, and what changes something carries their token.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guard.config import Console
from guard.errors import GuardError, IdentityError
from guard.ports import Identifier
from guard.reasons import Code
from guard.web.visits import SCOPE, Visits

API_POLICY: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types guard"
)
"""For pages: only the console's own script and style, nothing inline, nothing from elsewhere, no frame around it."""

SECURITY_HEADERS: Final = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "publickey-credentials-get=(self), publickey-credentials-create=(self), camera=(), "
    "microphone=(), geolocation=()",
    "referrer-policy": "same-origin",  # no-referrer would make browsers hide the Origin of the console's own forms
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_DEFAULTS: Final = {"cache-control": "no-store", "content-security-policy": API_POLICY}
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::[0-9]{1,5})?", re.ASCII)
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_API: Final = "/v1"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN: Final = frozenset(
    {
        ("POST", "/v1/session"),
        ("POST", "/v1/session/assertion"),
        ("POST", "/v1/enrolment"),
        ("POST", "/v1/enrolment/passkey"),
        ("GET", "/v1/openapi.json"),
    }
)
"""What somebody without a login may ask of the API: to get one."""
CSRF: Final = "guard-csrf"
"""The header that carries a login's token."""
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

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], identifier: Identifier, visits: Visits) -> None:
        self._app, self._hosts, self._identifier, self._visits = app, frozenset(hosts), identifier, visits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what comes to the right place, with its visitor in the scope; refuse the rest."""
        if scope["type"] == "http":
            send, headers = _with_headers(send), Headers(scope=scope)
            refused = self._place(scope, headers)
            try:
                refused = refused or await self._person(scope, headers)
            except GuardError as error:
                refused = refusal(503, error.reason)
            if refused is not None:
                await refused(scope, receive, send)
                return
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    def _place(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        """Refuse foreign hosts (421) and what another site sends (403); a followed link is no such thing."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._own(hosts[0]):
            return refusal(421, Code.HOST)
        for origin in headers.getlist("origin"):
            scheme, separator, place = origin.partition("://")
            if not separator or scheme not in {"http", "https"} or not self._own(place):
                return refusal(403, Code.HOST)
        if headers.get("sec-fetch-site", "same-origin") in {"same-origin", "none"}:
            return None
        followed = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if followed and headers.get("sec-fetch-dest") == "document" and not _below_api(scope["path"]):
            return None
        return refusal(403, Code.CROSS_SITE)

    def _own(self, host: str) -> bool:
        match = _HOST.fullmatch(host.lower())
        return match is not None and match[1] in self._hosts

    async def _person(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        """Note who asks. Below /v1: refuse agents because they are (403), and those who are nobody yet (401).

        What carries its own signature passes without a login.
        """
        path: str = scope["path"]
        if "authorization" in headers and _below_api(path):
            return await self._bearer(headers["authorization"])
        secret = self._visits.secret(cookie_parser(headers.get("cookie", "")))
        visitor = await anyio.to_thread.run_sync(self._visits.find, secret) if secret else None
        scope[SCOPE] = visitor
        if not _below_api(path):
            return None
        if (scope["method"], path) in OPEN | SIGNED:
            return None
        if visitor is None:
            return refusal(401, Code.NO_CREDENTIAL)
        if scope["method"] not in _SAFE and not visitor.vouches(headers.get(CSRF, "")):
            return refusal(403, Code.CROSS_SITE)
        return None

    async def _bearer(self, authorization: str) -> JSONResponse:
        """The API takes no keys; whose it is decides only about the words."""
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return refusal(401, Code.NO_CREDENTIAL)
        try:
            await self._identifier.identify(credential.strip())
        except IdentityError as error:
            return refusal(401, error.reason)
        return refusal(403, Code.PROOF_WRONG_APPROVER, "an agent's key opens nothing here")


def _below_api(path: str) -> bool:
    return path == _API or path.startswith(f"{_API}/")


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            for name, value in _DEFAULTS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending

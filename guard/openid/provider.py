"""Asks an OpenID provider: where its endpoints are, which keys it signs with, and for the token of a code.

Every answer is bounded in time and size, redirects are not followed, and what is not as documented is an unavailable
provider: nobody logs in that way then, and nothing else changes.
"""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote_plus

import anyio
import anyio.to_thread
import httpx2
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, RSAKey

from guard.errors import IdentityError, UnavailableError, WireError
from guard.issuers import Issuer, secure
from guard.model import Json
from guard.openid.token import Expected, NotLoggedInError, UnknownKeyError, claims
from guard.ports import Clock
from guard.reasons import Code
from guard.wire.strict import read

DISCOVERY: Final = "/.well-known/openid-configuration"
BELIEVED: Final = 3600.0
"""Seconds endpoints and keys are believed without asking again."""
AGAIN: Final = 10.0
"""Seconds between two looks for a key that is not known yet."""
AT_ONCE: Final = 8
"""Requests to the provider at a time; whoever wants more tries again."""
_ANSWER_BYTES: Final = 256 * 1024
_KEYS: Final = 64
_LEAST_RSA: Final = 2048

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What the provider says about itself (OpenID Connect Discovery 1.0)."""

    authorization: str
    token: str
    keys: str
    says_issuer: bool
    posts_secret: bool


class Provider:
    """One provider, for one event loop."""

    def __init__(self, issuer: Issuer, secret: str, clock: Clock) -> None:
        """Take its settings and the client's secret.

        Raises:
            OSError: the certificates cannot be read.
        """
        self.issuer, self._secret, self._clock = issuer, secret, clock
        self._trust = ssl.create_default_context(cafile=issuer.ca_file)
        self._known: tuple[Endpoints, float] | None = None
        self._keys: tuple[KeySet, float] | None = None
        self._threads = anyio.CapacityLimiter(AT_ONCE)

    async def endpoints(self) -> Endpoints:
        """Where to send people and codes.

        Raises:
            UnavailableError: the provider cannot be asked, or is another one than it should be.
        """
        if self._known is None or not 0 <= self._clock.mono() - self._known[1] < BELIEVED:
            said = await self._ask("GET", self.issuer.issuer.rstrip("/") + DISCOVERY)
            self._known = self._endpoints(said), self._clock.mono()
        return self._known[0]

    def _endpoints(self, said: Mapping[str, Json]) -> Endpoints:
        if said.get("issuer") != self.issuer.issuer:
            raise self._unavailable("it says that it is another issuer")
        names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        authorization, token, keys = (self._place(said.get(name)) for name in names)
        ways, methods = said.get("token_endpoint_auth_methods_supported"), said.get("code_challenge_methods_supported")
        if methods is not None and (not isinstance(methods, list) or "S256" not in methods):
            raise self._unavailable("it does not take PKCE with S256")
        basic = not isinstance(ways, list) or "client_secret_basic" in ways
        says_issuer = said.get("authorization_response_iss_parameter_supported") is True
        return Endpoints(authorization, token, keys, says_issuer=says_issuer, posts_secret=not basic)

    def _place(self, said: Json) -> str:
        if not isinstance(said, str) or not secure(said):
            raise self._unavailable("it does not name its three endpoints, over https")
        return said

    async def login(self, code: str, verifier: str, redirect: str, nonce: str) -> Mapping[str, Json]:
        """Exchange a code and check the token that comes for it; the claims.

        Raises:
            IdentityError: the code or the token does not count (`login_refused`).
            UnavailableError: the provider cannot be asked.
        """
        token, expected = await self._exchange(code, verifier, redirect), Expected(self.issuer, nonce)
        fresh = False
        while True:
            try:
                return claims(token, await self._key_set(fresh=fresh), expected, self._clock.now())
            except UnknownKeyError as error:
                looked = self._clock.mono() - self._keys[1] if self._keys else AGAIN
                if fresh or 0 <= looked < AGAIN:
                    message = "the provider's login does not count: its token is signed with a key it does not publish"
                    raise IdentityError(message, reason=Code.LOGIN_REFUSED) from error
                fresh = True

    async def _exchange(self, code: str, verifier: str, redirect: str) -> str:
        """The ID token for a code."""
        endpoints = await self.endpoints()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect,
            "code_verifier": verifier,
        }
        headers = dict[str, str]()
        if endpoints.posts_secret:
            form |= {"client_id": self.issuer.client_id, "client_secret": self._secret}
        else:
            pair = f"{quote_plus(self.issuer.client_id)}:{quote_plus(self._secret)}"  # RFC 6749, section 2.3.1
            headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
        said = await self._ask("POST", endpoints.token, form=form, headers=headers)
        token = said.get("id_token")
        if not isinstance(token, str):
            raise self._unavailable("it answers a code without an ID token")
        return token

    async def _key_set(self, *, fresh: bool) -> KeySet:
        if fresh or self._keys is None or not 0 <= self._clock.mono() - self._keys[1] < BELIEVED:
            said = await self._ask("GET", (await self.endpoints()).keys)
            self._keys = self._usable(said.get("keys")), self._clock.mono()
        return self._keys[0]

    def _usable(self, published: Json) -> KeySet:
        """The public keys for signatures; a symmetric key, an encryption key or a short one is none."""
        found = list[RSAKey | ECKey]()
        for one in published[:_KEYS] if isinstance(published, list) else []:
            if not isinstance(one, dict) or one.get("use", "sig") != "sig":
                continue
            try:
                if one.get("kty") == "RSA" and _bits(one.get("n")) >= _LEAST_RSA:
                    found.append(RSAKey.import_key(one))
                elif one.get("kty") == "EC":
                    found.append(ECKey.import_key(one))
            except (JoseError, ValueError, TypeError) as error:
                log.warning("key of the provider not usable", kid=str(one.get("kid"))[:64], because=str(error))
        if not found:
            raise self._unavailable("it publishes no key for signatures")
        return KeySet(list(found))

    async def _ask(
        self, method: str, url: str, *, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> Mapping[str, Json]:
        """One JSON object by one request."""
        if self._threads.borrowed_tokens >= AT_ONCE:
            raise UnavailableError("too many people log in at once; try again", reason=Code.OVERLOADED)
        try:
            status, raw = await anyio.to_thread.run_sync(
                lambda: self._fetch(method, url, form, headers or {}), limiter=self._threads
            )
            if status in {400, 401} and form is not None:
                message = "the provider's login does not count: it does not take the code, or this console's secret"
                raise NotLoggedInError(message, reason=Code.LOGIN_REFUSED, detail=_text(raw))
            if status != httpx2.codes.OK:
                raise self._unavailable(f"it answers with HTTP {status}")
            found = read(raw)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise self._unavailable(type(error).__name__) from error
        except WireError as error:
            raise self._unavailable(f"its answer is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise self._unavailable("its answer is no JSON object")
        return found

    def _fetch(
        self, method: str, url: str, form: Mapping[str, str] | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Status and body; blocks."""
        until = time.monotonic() + 2 * self.issuer.timeout
        with (
            httpx2.Client(
                timeout=self.issuer.timeout, follow_redirects=False, trust_env=False, verify=self._trust
            ) as client,
            client.stream(method, url, data=form, headers={"accept": "application/json", **headers}) as answer,
        ):
            raw = b""
            for piece in answer.iter_bytes():
                raw += piece
                if len(raw) > _ANSWER_BYTES or time.monotonic() > until:
                    raise self._unavailable("its answer is too large, or takes too long")
            return answer.status_code, raw

    def _unavailable(self, why: str) -> UnavailableError:
        return UnavailableError(
            "the login provider cannot be asked now; use a passkey or a one-time code",
            reason=Code.ISSUER_UNAVAILABLE,
            detail=f"{self.issuer.issuer}: {why}",
        )


def _bits(modulus: Json) -> int:
    """The length of an RSA key.

    Raises:
        ValueError: its modulus is no base64url.
    """
    if not isinstance(modulus, str):
        raise ValueError("an RSA key without a modulus")  # noqa: TRY004 - not ours
    return int.from_bytes(base64.urlsafe_b64decode(modulus + "=" * (-len(modulus) % 4)), "big").bit_length()


def _text(raw: bytes) -> str:
    """The beginning of an answer, for the log."""
    return raw[:256].decode("utf-8", "backslashreplace")

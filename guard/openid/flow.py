"""One login from its link to its answer, bound to the browser that began it.

What must come back (state, nonce, the PKCE verifier) leaves in a sealed cookie of that browser, so that an answer that
was made in another browser, or for another login, is worth nothing; each cookie is good for one answer.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from urllib.parse import urlencode

from guard.errors import StoreUnavailableError
from guard.issuers import Issuer
from guard.model import Json
from guard.openid.provider import Provider
from guard.openid.token import SKEW, NotLoggedInError
from guard.people import Ticket, Tickets
from guard.ports import Clock, Seal
from guard.reasons import Code

LASTING: Final = 600.0
"""Seconds a person has to log in at the provider."""
CALLBACK: Final = "/login/oidc/callback"
_AAD: Final = b"guard.openid"
_MOST: Final = 65536
_BYTES: Final = 32
_LONGEST: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A login under way: what must come back, and where its person wanted to go."""

    state: str
    nonce: str
    verifier: str
    going: str
    at: float


class Flow:
    """Begins and ends logins with one provider."""

    def __init__(self, provider: Provider, *, seal: Seal, tickets: Tickets, clock: Clock, public_url: str) -> None:
        """`public_url` is where browsers find the console; the provider sends them back below it."""
        self._provider, self._seal, self._tickets, self._clock = provider, seal, tickets, clock
        self._redirect = public_url + CALLBACK

    @property
    def issuer(self) -> Issuer:
        """The provider's settings."""
        return self._provider.issuer

    async def begin(self, going: str) -> tuple[str, str]:
        """Where to send the browser, and the cookie it must bring back.

        Raises:
            UnavailableError: the provider cannot be asked.
        """
        issuer, endpoints = self.issuer, await self._provider.endpoints()
        state, nonce, verifier = (secrets.token_urlsafe(_BYTES) for _ in range(3))
        begun: dict[str, Json] = {
            "state": state,
            "nonce": nonce,
            "verifier": verifier,
            "going": going,
            "at": self._clock.now(),
        }
        asked = {
            "response_type": "code",
            "client_id": issuer.client_id,
            "redirect_uri": self._redirect,
            "scope": " ".join(issuer.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": _base64(sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
            "max_age": str(int(issuer.max_age)),
        }
        if issuer.acr:
            asked["acr_values"] = " ".join(issuer.acr)
        separator = "&" if "?" in endpoints.authorization else "?"
        cookie = _base64(self._seal.seal(json.dumps(begun).encode(), _AAD))
        return endpoints.authorization + separator + urlencode(asked), cookie

    def take(self, cookie: str) -> Begun:
        """The login a cookie stands for, which is used up; blocks.

        Raises:
            IdentityError: there is none, it took too long, or it was used (`login_refused`).
        """
        now = self._clock.now()
        try:
            raw = base64.urlsafe_b64decode(cookie[:_LONGEST] + "=" * (-len(cookie) % 4))
            begun = Begun(**json.loads(self._seal.unseal(raw, _AAD)))
        except (StoreUnavailableError, ValueError, TypeError) as error:
            raise _again("it was not begun in this browser") from error
        if not -SKEW <= now - begun.at < LASTING:
            raise _again("it took too long")
        digest = sha256(begun.state.encode()).hexdigest()  # one cookie has many spellings in base64
        used = Ticket(
            digest=digest, purpose="openid", subject="", bound="", created=now, expires=begun.at + 2 * LASTING
        )
        if not self._tickets.issue(used, most=_MOST):
            raise _again("its answer was used already")
        return begun

    async def end(self, begun: Begun, answer: Mapping[str, str]) -> Mapping[str, Json]:
        """The claims of whoever logged in, for the provider's answer to this login.

        Raises:
            IdentityError: the answer does not count (`login_refused`).
            UnavailableError: the provider cannot be asked.
        """
        if not hmac.compare_digest(answer.get("state", "").encode(), begun.state.encode()):
            raise _again("the answer belongs to another one (state)")
        issuer, says_issuer = self.issuer.issuer, (await self._provider.endpoints()).says_issuer
        if answer.get("iss", "" if says_issuer else issuer) != issuer:  # RFC 9207
            raise _again("another provider answered")
        if "error" in answer or not answer.get("code"):
            raise NotLoggedInError(
                "the provider did not log you in", reason=Code.LOGIN_REFUSED, detail=answer.get("error", "")[:64]
            )
        return await self._provider.login(answer["code"], begun.verifier, self._redirect, begun.nonce)


def _again(why: str) -> NotLoggedInError:
    return NotLoggedInError(f"this login does not count: {why}; begin again", reason=Code.LOGIN_REFUSED)


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")

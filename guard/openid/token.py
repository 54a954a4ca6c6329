"""What an ID token must be before anybody is believed to have logged in (OpenID Connect Core 1.0, section 3.1.3.7).

The accepted algorithms are asymmetric and fixed: `none` and the client's secret as a key are no way in. Pure.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Never

from joserfc import jws
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from guard.errors import IdentityError, WireError
from guard.issuers import Issuer
from guard.model import Json
from guard.reasons import Code
from guard.wire.strict import read

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
SKEW: Final = 60.0
"""Seconds the provider's clock may differ from ours."""
_OLDEST: Final = 600.0
"""Seconds since a token was issued: it comes straight from the provider."""


class UnknownKeyError(Exception):
    """The token names a key that is not in the set: the provider may have a new one."""


class NotLoggedInError(IdentityError):
    """What anybody can send without having logged in at the provider."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the token of one login must say: for whom, and which nonce."""

    issuer: Issuer
    nonce: str


def refuse(why: str) -> Never:
    """Say why a login does not count.

    Raises:
        IdentityError: always.
    """
    raise IdentityError(f"the provider's login does not count: {why}", reason=Code.LOGIN_REFUSED)


def claims(token: str, keys: KeySet, expected: Expected, now: float) -> Mapping[str, Json]:
    """The claims of an ID token that is signed by the provider, of now, and for this very login.

    Raises:
        IdentityError: it is not (`login_refused`).
        UnknownKeyError: it is signed with a key that is not in `keys`.
    """
    said = _signed(token, keys)
    _for_us(said, expected)
    _of_now(said, expected.issuer, now)
    if expected.issuer.acr and said.get("acr") not in expected.issuer.acr:
        refuse("the person was not authenticated in one of the ways that are required here (acr)")
    return said


def _signed(token: str, keys: KeySet) -> Mapping[str, Json]:
    try:
        payload = jws.deserialize_compact(token, keys, algorithms=ALGORITHMS).payload
        said = read(payload)
    except InvalidKeyIdError as error:
        raise UnknownKeyError from error
    except (JoseError, WireError, ValueError) as error:
        raise IdentityError(
            "the provider's login does not count: its token is not signed by the provider",
            reason=Code.LOGIN_REFUSED,
            detail=f"{type(error).__name__}: {error}",
        ) from error
    if not isinstance(said, dict):
        refuse("its token holds no claims")
    return said


def _for_us(said: Mapping[str, Json], expected: Expected) -> None:
    issuer, client = expected.issuer.issuer, expected.issuer.client_id
    if said.get("iss") != issuer:
        refuse("another provider issued its token")
    audience = said.get("aud")
    meant = audience if isinstance(audience, list) else [audience]
    if client not in meant or ((len(meant) > 1 or "azp" in said) and said.get("azp") != client):
        refuse("its token is for another client")
    nonce = said.get("nonce")
    if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), expected.nonce.encode()):
        refuse("its token was made for another login (nonce)")
    subject = said.get("sub")
    if not isinstance(subject, str) or not subject:
        refuse("its token names nobody")


def _of_now(said: Mapping[str, Json], issuer: Issuer, now: float) -> None:
    issued, expires, authenticated = (_time(said, name) for name in ("iat", "exp", "auth_time"))
    if not now < expires + SKEW:
        refuse("its token has expired")
    if not -SKEW <= now - issued <= _OLDEST + SKEW:
        refuse("its token is not of now")
    if not -SKEW <= now - authenticated <= issuer.max_age + SKEW:
        refuse("the person showed who they are too long ago (auth_time)")


def _time(said: Mapping[str, Json], name: str) -> float:
    value = said.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(f"its token does not say {name}")
    return float(value)


def person(said: Mapping[str, Json], issuer: Issuer) -> str:
    """The approver the claims name, whether or not there is one; "" where they name none.

    Raises:
        IdentityError: the claim is not there, or not verified (`login_refused`).
    """
    value = said.get(issuer.claim)
    if not isinstance(value, str) or not value:
        refuse(f"its token has no claim {issuer.claim}")
    if issuer.claim == "email" and said.get("email_verified") is not True:
        refuse("the provider has not verified the address")
    return issuer.people.get(value, "") if issuer.people else value

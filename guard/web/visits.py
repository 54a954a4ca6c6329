"""Who is looking: a person with a login in a cookie. A login lets them see, and never decides anything.

The cookie holds a random secret; the store knows its SHA-256. Whether the person may still approve is looked up
on every request, so that a removed approver is out at once. `csrf` is derived from the secret: a page of another
site can make the browser send the cookie, but cannot know it.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from guard.config import Console
from guard.errors import IdentityError
from guard.model import Challenge
from guard.people import Login, Logins
from guard.ports import Approver, Approvers, Clock
from guard.reasons import Code

_SECRET_BYTES: Final = 32
SCOPE: Final = "guard.visitor"


@dataclass(frozen=True, slots=True)
class Visitor:
    """A logged-in approver: the person, the digest of their login, the token their forms must carry.

    `sees` are the groups whose challenges they may look at: their own, and those that may escalate to one of them.
    """

    person: Approver
    sees: frozenset[str]
    login: str
    csrf: str
    expires: float

    @property
    def name(self) -> str:
        """The person's name."""
        return self.person.name

    def may_see(self, challenge: Challenge) -> bool:
        """Whether a group of theirs is, or may yet be, asked about this challenge."""
        requirement = challenge.requirement
        return requirement.approvers in self.sees or not self.person.groups.isdisjoint(requirement.groups)

    def vouches(self, token: str) -> bool:
        """Whether this is the token of this very login."""
        return hmac.compare_digest(token.encode(), self.csrf.encode())


class Visits:
    """Opens, recognises and ends logins; every method but the cookie's blocks on the store."""

    def __init__(
        self,
        console: Console,
        logins: Logins,
        approvers: Approvers,
        clock: Clock,
        *,
        escalate: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._escalate = dict(escalate)
        self._logins, self._approvers, self._clock, self._lasting = logins, approvers, clock, console.login
        # Cookies do not know ports: without a name of its own each guard on localhost would end the others' logins.
        self._secure = urlsplit(console.public_url).scheme == "https"
        self._cookie = "__Host-guard" if self._secure else f"guard-{console.port}"
        self._begun = "__Host-guard-oidc" if self._secure else f"guard-oidc-{console.port}"

    def open(self, name: str, method: str) -> str:
        """Log a person in, under a new secret whatever the browser had before; the secret for the cookie."""
        secret, now = secrets.token_urlsafe(_SECRET_BYTES), self._clock.now()
        self._logins.open(
            Login(digest=_digest(secret), subject=name, method=method, created=now, expires=now + self._lasting)
        )
        return secret

    def find(self, secret: str) -> Visitor | None:
        """Who holds this secret, if the login lives and they may still approve.

        Raises:
            StoreUnavailableError: it cannot be looked up.
        """
        if not secret:
            return None
        login = self._logins.get(_digest(secret), self._clock.now())
        person = self._approvers.get(login.subject) if login else None
        if login is None or person is None or person.removed or person.created > login.created:
            return None
        csrf = sha256(b"guard.csrf/1\0" + secret.encode()).hexdigest()
        following = {first for first, then in self._escalate.items() if then in person.groups}
        return Visitor(person, person.groups | following, login.digest, csrf, login.expires)

    def close(self, visitor: Visitor) -> None:
        """Log out."""
        self._logins.close(visitor.login)

    def secret(self, cookies: dict[str, str]) -> str:
        """What the browser brought."""
        return cookies.get(self._cookie, "")

    def keep(self, response: Response, secret: str) -> None:
        """Give the browser its cookie; an empty secret takes it away."""
        response.set_cookie(
            self._cookie,
            secret,
            max_age=int(self._lasting) if secret else 0,
            path="/",
            secure=self._secure,
            httponly=True,
            samesite="strict",
        )

    def remembered(self, cookies: dict[str, str]) -> str:
        """What the browser brought of the login it began with an OpenID provider."""
        return cookies.get(self._begun, "")

    def remember(self, response: Response, begun: str, seconds: int) -> None:
        """Have the browser keep that; lax, for the provider's answer comes from another site. Empty takes it away."""
        response.set_cookie(
            self._begun, begun, max_age=seconds, path="/", secure=self._secure, httponly=True, samesite="lax"
        )


def visitor(request: Request) -> Visitor | None:
    """Who asks; None on the local socket, and on pages for everybody."""
    found: Visitor | None = request.scope.get(SCOPE)
    return found


def groups(request: Request) -> frozenset[str] | None:
    """The approver groups whose challenges may be seen; None, which is all, for the owner of the local socket.

    Raises:
        IdentityError: nobody is logged in.
    """
    if SCOPE not in request.scope:
        return None
    found = visitor(request)
    if found is None:
        raise IdentityError(reason=Code.NO_CREDENTIAL)
    return found.sees


def named(request: Request) -> frozenset[str] | None:
    """The groups a quorum may ask for whoever asks here to see it: their own; None, which is all, on the local socket.

    Raises:
        IdentityError: nobody is logged in.
    """
    if groups(request) is None:
        return None
    found = visitor(request)
    return found.person.groups if found else frozenset()


def may_see(request: Request, challenge: Challenge) -> bool:
    """Whether whoever asks may see this challenge; the owner of the local socket sees all.

    Raises:
        IdentityError: nobody is logged in.
    """
    if groups(request) is None:
        return True
    found = visitor(request)
    return found is not None and found.may_see(challenge)


def by(request: Request) -> str:
    """Who does something, for records."""
    found = visitor(request)
    return found.name if found else "local socket"


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()

"""What the store keeps so that people can be recognised and shown something at the console.

A **ticket** is a one-time permission to do one thing soon (enrol a passkey, answer with one); a **login** lets a
person look, and never decides anything; a **precedent** is the last approved call of a tool, kept sealed so that
the next approver sees what differs. Secrets of tickets and logins are kept as SHA-256 only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

from guard.model import Challenge, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """One use of one thing. `digest` is the hex SHA-256 of its secret, `purpose` what it is for, `subject` for whom.

    `bound` says what it was issued about, in the words of its purpose.
    """

    digest: str
    purpose: str
    subject: str
    bound: str
    created: float
    expires: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A person who showed who they are. `digest` is the hex SHA-256 of the cookie's secret, `method` how they did."""

    digest: str
    subject: str
    method: str
    created: float
    expires: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Precedent:
    """The last approved call of a tool: its canonical `arguments`, who asked, and which group approved it."""

    server: str
    kind: str
    name: str
    approvers: str
    principal: str
    challenge: str
    digest: str
    arguments: str
    approved: float
    expires: float

    @classmethod
    def of(cls, approved: Challenge, remember: float) -> Self:
        """What is kept of a challenge that was approved, for `remember` seconds."""
        return cls(
            server=approved.server,
            kind=approved.kind,
            name=approved.name,
            approvers=approved.requirement.approvers,
            principal=approved.principal.subject,
            challenge=approved.id,
            digest=approved.digest,
            arguments=approved.arguments,
            approved=approved.decided,
            expires=approved.decided + remember,
        )


class Tickets(Protocol):
    """One-time permissions."""

    def issue(self, ticket: Ticket, *, most: int) -> bool:
        """Insert, unless it exists, or `most` live ones of this purpose do; then False."""

    def peek(self, digest: str, purpose: str, now: float) -> Ticket | None:
        """The live ticket of this purpose, left in place."""

    def take(self, digest: str, purpose: str, now: float) -> Ticket | None:
        """Remove a live ticket of this purpose and return it; of many who try, one gets it. Durable."""

    def drop(self, purpose: str, subject: str) -> None:
        """Withdraw every ticket of this purpose for a subject."""


class Logins(Protocol):
    """Who is logged in."""

    def open(self, login: Login) -> None:
        """Insert."""

    def get(self, digest: str, now: float) -> Login | None:
        """The login with this digest, if its time is not up."""

    def close(self, digest: str) -> None:
        """End one login."""

    def close_all(self, subject: str) -> int:
        """End every login of a person; how many there were."""


class Precedents(Protocol):
    """The last approved call of each tool."""

    def put(self, precedent: Precedent) -> None:
        """Insert or replace the one of this tool."""

    def get(self, server: str, kind: str, name: str, now: float) -> Precedent | None:
        """That of a tool, if its time is not up."""


class People(Protocol):
    """All three, and one broom for what has run out of time."""

    @property
    def tickets(self) -> Tickets:
        """One-time permissions."""

    @property
    def logins(self) -> Logins:
        """Who is logged in."""

    @property
    def precedents(self) -> Precedents:
        """Last approved calls."""

    def sweep(self, now: float) -> int:
        """Erase every ticket, login and precedent whose time is up; how many there were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Which challenges a page shows. Empty sets and texts mean all; `groups` None means whomever they ask.

    With `groups`, those whose approvers are one of them, and those of which a quorum asks one of `named` (None: one of
    `groups`).
    `after` is the place behind which the page begins (0: at the start); with `newest_first` pages go backwards.
    `living` leaves out open challenges whose time is up at that moment (Unix seconds). `text` is looked for, without
    case, in agent, server and tool, and at the start of id and digest.
    """

    states: frozenset[State] = frozenset()
    principal: str = ""
    groups: frozenset[str] | None = None
    named: frozenset[str] | None = None
    living: float | None = None
    text: str = ""
    after: int = 0
    newest_first: bool = False
    limit: int = 50

"""Asks a change system about one change, bounded in time and size, and remembers a yes for a moment.

A system is what turns a number into one GET and its answer into a `Change`. Anything that is not clearly a yes is a no:
an error, an answer of another shape, a redirect, a change without a window.
"""

from __future__ import annotations

import base64
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import httpx2
import structlog

from guard.errors import ProofError, WireError
from guard.model import Json
from guard.reasons import Code
from guard.wire.strict import read

REMEMBERED: Final = 15.0
"""Seconds a yes is remembered: a grant that is spent at once asks once."""
_ANSWER_BYTES: Final = 256 * 1024
_OK: Final = 200

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a change system says: its own number, state and approval in its own words, and the window (aware times)."""

    number: str
    state: str
    begins: datetime | None
    ends: datetime | None
    approval: str = ""
    on_hold: bool = False


class System(Protocol):
    """One kind of change system."""

    def request(self, ticket: str) -> tuple[str, Mapping[str, str]]:
        """Path and query of the GET that asks for a change."""

    def change(self, answer: Json) -> Change:
        """The change in the answer.

        Raises:
            ValueError: the answer is not one that the system documents, or holds no such change.
        """


class Changes:
    """A `guard.ports.Tickets` over HTTP."""

    def __init__(
        self,
        system: System,
        *,
        url: str,
        user: str,
        secret_file: Path,
        states: frozenset[str],
        approvals: frozenset[str],
        timeout: float,
    ) -> None:
        """Take a system at `url`; basic authentication with a `user`, a bearer token without one."""
        self._system, self._url, self._user, self._secret_file = system, url, user, secret_file
        self._states, self._approvals, self._timeout = states, approvals, timeout
        self._yes: dict[str, float] = {}

    def check(self, ticket: str, now: float) -> None:
        """Return if the change is in an accepted state, approved, not on hold, and its window is open at `now`.

        Raises:
            ProofError: it is not (`ticket_refused`), or nobody can tell (`ticket_unavailable`).
        """
        if 0 <= now - self._yes.get(ticket, -REMEMBERED) < REMEMBERED:
            return
        change = self._ask(ticket)
        if why := self._flaw(change, ticket, now):
            raise ProofError(f"ticket {ticket} {why}", reason=Code.TICKET_REFUSED)
        self._yes = {one: at for one, at in self._yes.items() if 0 <= now - at < REMEMBERED} | {ticket: now}

    def _flaw(self, change: Change, ticket: str, now: float) -> str:
        """Why the change does not count, in words that continue "ticket X ..."; empty when it does."""
        begins, ends, approvals = change.begins, change.ends, self._approvals
        flaws = {
            "has another number at the change system": change.number != ticket,
            f"is in state {change.state[:40]!r}": change.state not in self._states,
            f"has the approval {change.approval[:40]!r}": bool(approvals) and change.approval not in approvals,
            "is on hold": change.on_hold,
            "has no window": begins is None or ends is None,
            "has another window": not (begins and ends and begins.timestamp() <= now < ends.timestamp()),
        }
        return next((words for words, flawed in flaws.items() if flawed), "")

    def _ask(self, ticket: str) -> Change:
        (path, query), until = self._system.request(ticket), time.monotonic() + 2 * self._timeout
        try:
            with (
                httpx2.Client(timeout=self._timeout, follow_redirects=False, trust_env=False) as client,
                client.stream("GET", self._url + path, params=query, headers=self._headers()) as answer,
            ):
                raw = b""
                for piece in answer.iter_bytes():
                    raw += piece
                    if len(raw) > _ANSWER_BYTES or time.monotonic() > until:
                        raise self._unavailable(ticket, "the answer is too large or takes too long")
            if answer.status_code != _OK:
                raise self._unavailable(ticket, f"HTTP {answer.status_code}")
            return self._system.change(read(raw))
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise self._unavailable(ticket, type(error).__name__) from error
        except (ValueError, WireError) as error:
            raise self._unavailable(ticket, str(error)) from error

    def _unavailable(self, ticket: str, why: str) -> ProofError:
        log.warning("ticket not checked", ticket=ticket, because=why)
        return ProofError(f"ticket {ticket} cannot be checked: {why}", reason=Code.TICKET_UNAVAILABLE)

    def _headers(self) -> dict[str, str]:
        """Read the secret anew, so that it can be rotated.

        Raises:
            OSError: it cannot be read, or others can read it.
        """
        if self._secret_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise PermissionError(f"others can read {self._secret_file}; chmod 600 it")
        secret = self._secret_file.read_text(encoding="utf-8").strip()
        plain = base64.b64encode(f"{self._user}:{secret}".encode()).decode("ascii")
        return {"accept": "application/json", "authorization": f"Basic {plain}" if self._user else f"Bearer {secret}"}


def word(value: Json) -> str:
    """A text of an answer.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise ValueError("the answer has another form than the change system documents")  # noqa: TRY004 - not ours
    return value


def mapping(value: Json) -> Mapping[str, Json]:
    """An object of an answer.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, Mapping):
        raise ValueError("the answer has another form than the change system documents")  # noqa: TRY004 - not ours
    return value

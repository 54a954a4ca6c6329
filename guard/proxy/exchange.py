"""What a front hands to the pipeline: a decoded message, and the means to carry it out exactly once.

A front (HTTP or stdio) reads bytes, authenticates, decodes strictly, and gives the pipeline an
`Arrival` and an `Exchange`. The pipeline decides; then it either calls `forward` once, or `answer` once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from guard.model import Json, Principal, Source
from guard.wire.era import Era
from guard.wire.message import Message, Request, Response


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One decoded message and who sent it from where.

    `capabilities` are what the client declared when the session began ({} in the modern era, where every
    request says it by itself); `proof` is the value of the `Guard-Proof` header.
    """

    message: Message
    era: Era
    principal: Principal
    source: Source
    server: str
    capabilities: Mapping[str, Json] = field(default_factory=dict)
    proof: str = ""


class Ending(StrEnum):
    """How a forward ended."""

    OK = "ok"
    TOOL_ERROR = "tool_error"
    UPSTREAM_ERROR = "upstream_error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came back after a forward; `result_bytes` counts the body, `status` is HTTP's (0 on stdio).

    `state` is the `requestState` of a tool server that wants more input before it runs the call; `body` is the
    answer as far as it was kept, and `cut` says that there was more. Of a result that was `withheld`, `body` is the
    JSON-RPC response, or empty when it was too long to be kept.
    """

    ending: Ending
    result_bytes: int = 0
    status: int = 0
    state: str = ""
    body: bytes = field(default=b"", compare=False, repr=False)
    cut: bool = field(default=False, compare=False)
    withheld: bool = False


KEPT_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of an answer that can be held back whole; a longer one that may have to be is never delivered."""


class Gauge(Protocol):
    """Measures a result before the caller has any of it, and counts the one that may go on."""

    def fits(self, size: int) -> bool:
        """Whether an answer that will have so many bytes may go on as it comes, whatever they are."""

    def passes(self, answer: bytes, size: int) -> bool:
        """Whether this JSON-RPC response may go on; empty when it was too long to be kept. `size` is its whole size."""


class Exchange(Protocol):
    """The one pending request/answer pair a front holds open for its caller."""

    @property
    def gone(self) -> bool:
        """Whether the caller has left (closed stream, cancelled notification, ended input)."""

    async def wait_gone(self) -> None:
        """Return when the caller has left; the pipeline cancels this wait."""

    async def forward(self, gauge: Gauge | None = None) -> Outcome:
        """Send exactly the inspected bytes upstream, once, and relay the answer to the caller.

        With a `gauge` the response is read whole first, and relayed only if it passes; else the outcome says that it
        is `withheld` and the caller has no answer yet. What the tool server says before its response goes on at once.

        Never called after `gone`; never called twice. The caller leaving while the answer streams ends
        the relay with `Ending.UNKNOWN`, or OK when the answer was complete.

        Raises:
            UpstreamError: `sent=False` when nothing can have reached the tool server; `sent=True` when
                it may have, and then the front has not answered the caller: the pipeline does.
        """

    def rewrite(self, message: Request) -> None:
        """Send this message instead of the one that came: the same call without what was meant for the guard."""

    async def ask(self, question: str, params: Mapping[str, Json]) -> Response | None:
        """Ask the caller `elicitation/create` beside its request (legacy era) and wait for what it says.

        None when the caller left. Cancelling the wait withdraws the question.
        """

    async def answer(self, body: bytes, *, status: int = 200) -> None:
        """Answer the caller in the tool server's stead with one JSON-RPC message (no trailing newline)."""


class Handler(Protocol):
    """What a front calls for every decoded message: the pipeline."""

    async def handle(self, arrival: Arrival, exchange: Exchange) -> None:
        """Carry one message through the eight steps. Never raises but on cancellation."""

    def refused(self, *, server: str, source: Source, principal: Principal | None, error: Exception) -> None:
        """Record a message that never became an `Arrival` (malformed, unauthenticated, wrong headers)."""

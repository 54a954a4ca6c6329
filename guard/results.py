"""What is kept of a call that ran and whose result waits for consent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

KIND = "result"
"""`Challenge.kind` of a challenge that asks whether a result may be delivered, not whether a call may run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The withheld result of one call.

    `digest` is what a proof is bound to: this run of this call, and these bytes. `call_digest` is that of the call,
    which the same call again has as well, and `call_id` that of the run. `limits` name what it went beyond; `band` is
    that of the finding about its size (0: none), whose `evidence` is told. `rows` is -1 where nobody can tell.
    """

    digest: str
    call_digest: str
    call_id: str
    principal: str
    server: str
    name: str
    size: int
    rows: int
    limits: tuple[str, ...]
    band: int
    evidence: str
    at: float
    expires: float


class Results(Protocol):
    """Withheld results; their bytes are sealed at rest."""

    def keep(self, kept: Kept, answer: bytes, *, each: int, most: int) -> bool:
        """Insert, durably; False when the principal has `each` already, or all together would have `most` bytes.

        Those whose bytes are erased do not count.
        """

    def digests(self) -> frozenset[str]:
        """The call digests of everything that is kept."""

    def oldest(self, call_digest: str) -> Kept | None:
        """The first that is kept for a call."""

    def answer(self, digest: str) -> bytes | None:
        """The bytes of one, or None when they are no longer kept."""

    def erase(self, digest: str) -> bool:
        """Erase the bytes of one, durably, and keep that it was there; False when somebody else was first."""

    def drop(self, digest: str) -> bool:
        """Forget one altogether, durably; False when somebody else was first."""

    def due(self, now: float) -> Sequence[Kept]:
        """Those whose bytes are still kept although their time is up at `now`, or somebody refused."""

    def bury(self, before: float) -> int:
        """Forget those whose time was up before this; how many there were."""

"""What people are told about a challenge, and the memory of who was told what."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from guard.model import Challenge
from guard.reasons import Reason


class Stage(StrEnum):
    """What people are told about a challenge."""

    OPENED = "opened"
    ESCALATED = "escalated"
    BREAK_GLASS = "break_glass"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What a channel may say about a challenge: no argument, no link but that of the challenge's page.

    `agent`, `server` and `tool` are made harmless (`guard.notify.words`); `groups` are asked to decide;
    `at` and `expires` are Unix seconds; `words` are those of the person who broke glass; `ran`: it is about what a call
    brought back, and not about running it.
    """

    stage: Stage
    challenge: str
    link: str
    digest: str
    agent: str
    server: str
    tool: str
    sensitivity: str
    wanting: str
    reasons: tuple[Reason, ...]
    groups: tuple[str, ...]
    at: float
    expires: float
    words: str = ""
    ran: bool = False


class Notices(Protocol):
    """Who was told what, so that each thing is told once whichever process tells it."""

    def due(
        self, stage: Stage, now: float, *, after: float, limit: int, without: Collection[str] = (), since: float = 0.0
    ) -> Sequence[Challenge]:
        """Challenges about which people are still to be told at `now` (Unix seconds), oldest first.

        OPENED: waiting for people for `after` seconds; ESCALATED: waiting, with half of their time gone;
        BREAK_GLASS: every one that was satisfied so. What was claimed a short while ago is left out, and
        so are the principals in `without`, and what opened before `since`.
        """

    def claim(self, challenge_id: str, stage: Stage, now: float) -> bool:
        """Take on telling people; False when it was done, or when somebody else is at it."""

    def told(self, challenge_id: str, stage: Stage, now: float) -> None:
        """Nothing more is to be told."""

"""The system's clocks and random source behind `guard.ports.Clock`."""

from __future__ import annotations

import secrets
import time
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTH: Final = 22  # 62**22 > 2**130
_EVEN: Final = 256 - 256 % len(_ALPHABET)
_LETTERS: Final = (_ALPHABET * 5)[:256].encode()
"""The letter of each byte; those from `_EVEN` on are dropped, so that every letter is as likely as any other."""
_DROPPED: Final = bytes(range(_EVEN, 256))
_POOL: Final = 4096
"""Random bytes drawn at once: a system call for each id would cost as much as deciding about a call."""


class SystemClock:
    """Wall time, monotonic time and unpredictable ids of this machine. Ids are never handed out twice.

    A forked child would repeat its parent's ids; this program spawns and never forks.
    """

    def __init__(self) -> None:
        self._letters: list[str] = []

    now = staticmethod(time.time)
    """Unix seconds, UTC."""
    mono = staticmethod(time.monotonic)
    """Monotonic seconds."""

    def token(self, prefix: str) -> str:
        """`prefix` + "_" + 22 base62 characters from the operating system's random source (131 bits)."""
        try:
            letters = self._letters.pop()
        except IndexError:  # also between two threads that took the last one
            drawn = secrets.token_bytes(_POOL).translate(_LETTERS, _DROPPED).decode("ascii")
            letters, *rest = (drawn[at : at + _LENGTH] for at in range(0, len(drawn) - _LENGTH + 1, _LENGTH))
            self._letters.extend(rest)
        return f"{prefix}_{letters}"

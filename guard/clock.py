"""The system's clocks and random source behind `guard.ports.Clock`."""

from __future__ import annotations

import secrets
import time
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTH: Final = 22  # 62**22 > 2**130
_DRAWN: Final = 32
_EVEN: Final = 256 - 256 % len(_ALPHABET)
_LETTERS: Final = (_ALPHABET * 5)[:256].encode()
"""The letter of each byte; those from `_EVEN` on are dropped, so that every letter is as likely as any other."""
_DROPPED: Final = bytes(range(_EVEN, 256))


class SystemClock:
    """Wall time, monotonic time and unpredictable ids of this machine."""

    def now(self) -> float:
        """Unix seconds, UTC."""
        return time.time()

    def mono(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def token(self, prefix: str) -> str:
        """`prefix` + "_" + 22 base62 characters from the operating system's random source (131 bits)."""
        while True:
            letters = secrets.token_bytes(_DRAWN).translate(_LETTERS, _DROPPED)
            if len(letters) >= _LENGTH:
                return f"{prefix}_{letters[:_LENGTH].decode('ascii')}"

"""The system's clocks and random source behind `guard.ports.Clock`."""

from __future__ import annotations

import secrets
import time
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTH: Final = 22  # 62**22 > 2**130


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
        number, letters = int.from_bytes(secrets.token_bytes(17)), []
        for _ in range(_LENGTH):
            number, digit = divmod(number, 62)
            letters.append(_ALPHABET[digit])
        return f"{prefix}_{''.join(letters)}"

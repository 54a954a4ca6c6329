"""Named fault points: `GUARD_FAULT=<point>:<kind>[@n]`, refused unless `GUARD_TESTING=1`.

Kinds: `kill` (SIGKILL to this process), `error` (OSError EIO), `enospc` (OSError ENOSPC), `hang`
(block for an hour). `@n` fires at the n-th passage only (counting from 1); without it, at every one.
With `GUARD_FAULT_FILE` set, the fault is armed only while that file exists, so that recovery can be
shown without a restart.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections import Counter
from typing import Final

from guard.errors import ConfigError

POINTS: Final = frozenset(
    {
        "call.received",
        "drift.score",
        "decision.made",
        "challenge.opened",
        "proof.accepted",
        "intent.recorded",
        "grant.consumed",
        "call.forwarded",
        "call.answered",
        "call.concluded",
        "ledger.append",
        "ledger.fsync",
        "store.read",
        "store.write",
    }
)
KINDS: Final = frozenset({"kill", "error", "enospc", "hang"})


def _parse(text: str) -> tuple[str, str, int]:
    found = re.fullmatch(r"([a-z.]+):([a-z]+)(?:@([1-9][0-9]*))?", text)
    if not found or found[1] not in POINTS or found[2] not in KINDS:
        message = f"GUARD_FAULT={text!r} is not POINT:KIND[@N]; points {sorted(POINTS)}, kinds {sorted(KINDS)}"
        raise ConfigError(message)
    if os.environ.get("GUARD_TESTING") != "1":
        message = "GUARD_FAULT is for tests; set GUARD_TESTING=1 too, or unset it"
        raise ConfigError(message)
    return found[1], found[2], int(found[3] or 0)


_armed: tuple[str, str, int] | None = None
_file = ""
_passed: Counter[str] = Counter()


def arm() -> None:
    """Read the environment once, at start.

    Raises:
        ConfigError: `GUARD_FAULT` is malformed, or set outside a test.
    """
    global _armed, _file
    text = os.environ.get("GUARD_FAULT", "")
    _armed, _file = (_parse(text) if text else None), os.environ.get("GUARD_FAULT_FILE", "")


def point(name: str) -> None:
    """Pass a named point; does nothing unless this very point is armed."""
    if _armed is None or _armed[0] != name or (_file and not os.path.exists(_file)):  # noqa: PTH110
        return
    _passed[name] += 1
    _, kind, at = _armed
    if at and _passed[name] != at:
        return
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "hang":
        time.sleep(3600)
    raise OSError(errno.ENOSPC if kind == "enospc" else errno.EIO, f"injected at {name}")

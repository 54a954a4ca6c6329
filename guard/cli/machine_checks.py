"""The checks of `guard doctor` about the machine: who may change what the guard believes, and is its clock right."""

from __future__ import annotations

import ctypes
import os
import stat
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from guard.app import Desk
from guard.cli.checks import Check

_SYNCHRONIZED: Final = Path("/run/systemd/timesync/synchronized")
_UNSYNCHRONIZED: Final = 5  # TIME_ERROR of adjtimex(2): no program keeps this clock right
_TIMEX: Final = 512  # bytes, more than struct timex has anywhere
_TAIL: Final = 32 * 1024
_SLACK: Final = 60.0
_SHOWN: Final = 5


def machine_checks(services: Desk) -> Iterator[Check]:
    """Every check."""
    yield from _writable(services)
    yield from _owner(services)
    yield from _clock(services)
    yield from _watched(services)


def _writable(services: Desk) -> Iterator[Check]:
    """Files that say what is guarded and how, which others may change, and folders in which they may exchange them."""
    config = services.config
    names = sorted(config.policies.glob("*.yaml")) if config.policies.is_dir() else []
    believed = [config.file.absolute(), config.policies, *names]
    folders = {path.parent for path in (config.file.absolute(), config.policies.absolute(), config.state)}
    loose = [path for path in believed if _others_write(path)] + [path for path in sorted(folders) if _exchange(path)]
    for path in loose[:_SHOWN]:
        yield Check("problem", f"{path} can be written by others", f"chmod go-w {path}")
    if not loose:
        yield Check("ok", "settings and policies can be written by their owner only")


def _owner(services: Desk) -> Iterator[Check]:
    """What belongs to somebody who is neither the one who runs this nor root."""
    config = services.config
    for path in (config.file, config.policies, config.state):
        found = _stat(path)
        if found is not None and found.st_uid not in {os.getuid(), 0}:
            yield Check(
                "problem",
                f"{path} belongs to user {found.st_uid}, who can change it at will",
                f"chown it to the guard's own user ({os.getuid()})",
            )


def _others_write(path: Path) -> bool:
    found = _stat(path)
    return found is not None and bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _exchange(folder: Path) -> bool:
    """Whether others may put another file in the place of one; in a sticky folder they may not."""
    found = _stat(folder)
    return (
        found is not None and bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)) and not found.st_mode & stat.S_ISVTX
    )


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


# ------------------------------------------------------------------ the clock


def _clock(services: Desk) -> Iterator[Check]:
    """Whether the clock is behind what was written already, and whether anything keeps it right."""
    now, remedy = time.time(), "set the clock; codes (30 s), windows and expiries depend on it"
    if now < services.config.file.stat().st_mtime - _SLACK:
        yield Check("problem", "the clock is behind the configuration file", remedy)
    last = _last_record(services.config.state)
    if now < last - _SLACK:
        yield Check("problem", f"the clock is {last - now:.0f} s behind the last record of the ledger", remedy)
    match _synchronized():
        case True:
            yield Check("ok", "the system says that its clock is synchronized")
        case False:
            yield Check(
                "warning",
                "the system says that nothing keeps its clock right",
                "turn on time synchronization, such as: timedatectl set-ntp true",
            )
        case None:
            pass  # it does not say; nobody is asked over the network


def _last_record(state: Path) -> float:
    """Unix seconds of the newest record of any lane; 0 if there is none."""
    last = 0.0
    for file in (state / "ledger").glob("*/*.jsonl"):
        with file.open("rb") as opened:
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - _TAIL))
            for line in opened.read().splitlines()[-2:]:
                last = max(last, _time(line))
    return last


def _time(line: bytes) -> float:
    """When a record was written; 0 if that cannot be told."""
    _, found, rest = line.partition(b'"time":"')
    try:
        return datetime.fromisoformat(rest[:27].decode("ascii")).timestamp() if found else 0.0
    except ValueError:
        return 0.0


def _synchronized() -> bool | None:
    """What the system knows of its clock: kept right, not kept right, or it does not say.

    systemd-timesyncd leaves a file; Linux itself knows from whichever program last adjusted it (adjtimex(2)).
    """
    if _SYNCHRONIZED.exists():
        return True
    if sys.platform != "linux":
        return None
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX))
    return None if state < 0 else state != _UNSYNCHRONIZED


# ------------------------------------------------------------------ watching


def _watched(services: Desk) -> Iterator[Check]:
    """Servers whose calls are not held."""
    if names := sorted(services.config.watched):
        yield Check(
            "warning",
            f"{', '.join(names)}: calls are only watched; nothing is held or refused",
            "take enforce = false out of guard.toml",
        )

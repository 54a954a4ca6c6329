"""Guards of the simulator, forked from a process that has imported the guard already.

Imports are a second of CPU for each process, and most of what a test with real processes would cost. What runs is the
`main` of the console script, on the same command line, in a process of its own that can be killed, stopped and waited
for. The console script itself is what examples, clients and tests of the command line start.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path

_PARENT = multiprocessing.get_context("forkserver")
_PARENT.set_forkserver_preload(["guard.cli", "guard.cli.serve", "guard.runtime", "guard.web.console"])


class Launched:
    """A guard under way, with what tests need of `subprocess.Popen`."""

    def __init__(self, words: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path) -> None:
        """Start `guard WORDS` in `folder` with this environment alone; stderr goes to `log`."""
        theirs, ours = _PARENT.Pipe(duplex=False)
        heard, said = _PARENT.Pipe(duplex=False)
        self._words, self._looking = words, threading.Lock()
        self._process = _PARENT.Process(
            target=_become, args=(words, folder, dict(environment), log, theirs, said), daemon=True
        )
        self._process.start()
        self.stdin, self.stdout = os.fdopen(os.dup(ours.fileno()), "wb"), os.fdopen(os.dup(heard.fileno()), "rb")
        for end in (theirs, ours, heard, said):
            end.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code (a signal's number below zero), or None while it runs."""
        with self._looking:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not, after so many seconds.
        """
        connection.wait([self._process.sentinel], timeout)  # without the lock: another thread may end it meanwhile
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(list(self._words), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it without warning."""
        self.send_signal(signal.SIGKILL)


def _become(  # noqa: PLR0917 - what a process is started with
    words: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path, stdin: Connection, stdout: Connection
) -> None:
    """Take over the pipes, the folder and the environment, and run the command line."""
    with log.open("wb") as stderr:
        for place, end in enumerate((stdin, stdout, stderr)):
            os.dup2(end.fileno(), place)
    stdin.close()
    stdout.close()
    for number in [int(found.name) for found in Path("/proc/self/fd").iterdir() if int(found.name) > 2]:
        with suppress(OSError):  # the folder's own is gone
            os.set_inheritable(number, False)  # what the forking process was started with is not a guard's to pass on
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["guard", *words]
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as an interpreter does at start
    from guard.cli import main  # noqa: PLC0415 - what the process that forks has imported

    main()

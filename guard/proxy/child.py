"""One tool server as a supervised child process, which never outlives the guard.

The child leads a session of its own, so ending it ends everything it started. When the guard is killed
and can end nothing, two things remain: the child reads the end of its input, and a *keeper* (a waiting
`/bin/sh`, started first) reads the end of a pipe that only the guard holds open and kills the child's
group. That needs no code between fork and exec and does not hang on the life of a thread, as Linux's
parent-death signal does. A grandchild that makes a session of its own is beyond both.

`max_memory` is the limit on data (RLIMIT_DATA) of the child and everything it starts. A shell sets it on
itself and then becomes the tool server, so no moment passes without it. The limit on address space would be
coarser: runtimes like Node reserve far more of that than they ever use.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL
from typing import Final, Self

import anyio
import structlog
from anyio.abc import Process

from guard.config import Server
from guard.errors import ConfigError, UpstreamError
from guard.oplog import printable
from guard.proxy.pipes import Lines, PipeReader, PipeWriter

MAX_ANSWER: Final = 32 * 1024 * 1024
"""Bytes one line of a tool server may hold."""

_INHERITED: Final = frozenset({"PATH", "HOME", "LANG", "TZ", "TMPDIR"})
_MAX_ERROR_LINE: Final = 8_192
_GRACE_INPUT_ENDED: Final = 0.4
_GRACE_TERMINATED: Final = 0.2
_SHELL: Final = "/bin/sh"
_KEEPER: Final = 'read -r group && { read -r released || kill -s KILL -- "-$group"; }'
_LIMITED: Final = 'ulimit -d "$1" && shift && exec "$@"'
_KILOBYTES: Final = 1_024

log = structlog.get_logger()


def environment(settings: Server, inherited: Mapping[str, str]) -> dict[str, str]:
    """The variables of the child: a short list of harmless ones, what the config adds, and never the guard's own."""
    names = _INHERITED | set(settings.pass_env)
    passed = {name: value for name, value in inherited.items() if name in names or name.startswith("LC_")}
    return {name: value for name, value in (passed | settings.env).items() if not name.startswith("GUARD_")}


def launched(name: str, settings: Server, cwd: Path | None, env: Mapping[str, str]) -> Sequence[str]:
    """What to execute so that the tool server runs, within its limit on memory if it has one.

    Raises:
        ConfigError: it has one, and there is no such program; the shell could say so only in its own log.
    """
    command = settings.command or ()
    if settings.max_memory is None:
        return command
    program = command[0] if os.sep not in command[0] else str((cwd or Path()) / command[0])
    if shutil.which(program, path=env.get("PATH", os.defpath)) is None:
        message = f"server {name}: {command[0]} cannot be started: there is no such program, or it may not be run"
        raise ConfigError(message)
    return (_SHELL, "-c", _LIMITED, _SHELL, str(settings.max_memory * _KILOBYTES), *command)


class Child:
    """A running tool server. `turn` is held by whoever writes to it, first come first served."""

    def __init__(
        self,
        name: str,
        process: Process,
        stdin: PipeWriter,
        stdout: PipeReader,
        stderr: PipeReader,
        *,
        patience: float,
    ) -> None:
        """Wrap a started process and our ends of its pipes; it has `patience` seconds to take a line."""
        self.name, self._patience = name, patience
        self.turn = anyio.Lock(fast_acquire=True)
        self.lines = Lines(stdout, MAX_ANSWER)
        self._process, self._stdin, self._stdout, self._stderr = process, stdin, stdout, stderr
        self._broken = False
        self._ended = False

    @classmethod
    @asynccontextmanager
    async def start(cls, name: str, settings: Server, *, base: Path) -> AsyncIterator[Self]:
        """Start the tool server `name`; its relative working directory is meant from `base`. Leaving ends it.

        Raises:
            ConfigError: there is no such program or directory, or it may not be run.
        """
        lifeline = await _keeper()
        try:
            child = await cls._spawn(name, settings, base)
            if lifeline:
                lifeline.name(child.pid)
            try:
                yield child
            finally:
                await child.end()
        finally:
            if lifeline:
                with anyio.CancelScope(shield=True):
                    await lifeline.release()

    @classmethod
    async def _spawn(cls, name: str, settings: Server, base: Path) -> Self:
        cwd, env = base / settings.cwd if settings.cwd else None, environment(settings, os.environ)
        command = launched(name, settings, cwd, env)
        ours: list[int] = []
        theirs: list[int] = []
        try:
            for reads in (True, False, False):
                read, write = os.pipe()
                theirs.append(read if reads else write)
                ours.append(write if reads else read)
            process = await anyio.open_process(
                command,
                stdin=theirs[0],
                stdout=theirs[1],
                stderr=theirs[2],
                cwd=cwd,
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            for fd in ours:
                os.close(fd)
            message = f"server {name}: {command[0]} cannot be started: {error.strerror or error}"
            raise ConfigError(message) from error
        finally:
            for fd in theirs:
                os.close(fd)
        pipes = PipeWriter(ours[0]), PipeReader(ours[1]), PipeReader(ours[2])
        return cls(name, process, *pipes, patience=settings.answer_timeout)

    @property
    def pid(self) -> int:
        """Process id, and id of the group it leads."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._process.returncode

    async def write(self, message: bytes) -> None:
        """Write one line. The caller holds `turn`.

        A child that does not take it in time is killed: it has half a line, and whoever starts it can start another.

        Raises:
            UpstreamError: with `sent` telling whether any byte may have been read.
        """
        if self._broken:
            raise UpstreamError(sent=False)
        before = self._stdin.written
        self._broken = True  # stays so unless the line is written whole: nothing may ever follow half a line
        try:
            if rest := self._stdin.offer(message + b"\n"):
                with anyio.fail_after(self._patience):
                    await self._stdin.send(rest)
        except TimeoutError:
            said = "it does not read, and is killed"
            log.error("child.deaf", server=self.name, pid=self.pid, meaning=said)  # noqa: TRY400 - no trace
            self._signal(signal.SIGKILL)
            raise UpstreamError("the tool server does not read what it is sent", sent=True) from None
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise UpstreamError(sent=self._stdin.written > before) from error
        self._broken = False

    async def relay_errors(self, clean: Callable[[str], str] = str) -> None:
        """Log what the child writes to its stderr, line by line and made `clean`, until it closes it."""
        lines = Lines(self._stderr, _MAX_ERROR_LINE)
        while (line := await lines.next()) is not None:
            said = printable(line.raw.rstrip(b"\r").decode("utf-8", "backslashreplace"))
            log.info("child.said", server=self.name, line=clean(said), cut=line.flaw is not None)

    async def wait(self) -> int:
        """Wait until the child has exited; end what it left running in its group. Its exit code."""
        code = await self._process.wait()
        self._broken = True
        self._signal(signal.SIGKILL)
        return code

    async def end(self) -> None:
        """Let the child go: end its input, then ask, then kill, all within a second. Ends its whole group."""
        if self._ended:
            return
        with anyio.CancelScope(shield=True):
            self._broken = True
            await self._stdin.aclose()
            if not await self._exits_within(_GRACE_INPUT_ENDED):
                self._signal(signal.SIGTERM)
                await self._exits_within(_GRACE_TERMINATED)
            self._signal(signal.SIGKILL)
            if not await self._exits_within(_GRACE_TERMINATED):
                log.error("child.unkillable", server=self.name, pid=self.pid)
            self._ended = True
            await self._stdout.aclose()
            await self._stderr.aclose()

    async def _exits_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._process.wait()
        return self._process.returncode is not None

    def _signal(self, number: int) -> None:
        """Signal every process of the child's group that is left."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


class _Lifeline:
    """The keeper, and our end of the pipe it waits on."""

    def __init__(self, fd: int, keeper: Process) -> None:
        self._fd, self._keeper = fd, keeper
        self._named = False

    def name(self, group: int) -> None:
        """Name the process group to kill when this process is gone."""
        self._named = self._tell(f"{group}\n")

    async def release(self) -> None:
        """Tell the keeper that the group has ended, and see it off."""
        if self._named:
            self._tell("released\n")
        os.close(self._fd)
        await self._keeper.wait()

    def _tell(self, text: str) -> bool:
        try:
            os.write(self._fd, text.encode())
        except BrokenPipeError:
            log.warning("keeper.gone", meaning="only the end of its input stops an abandoned child")
            return False
        return True


async def _keeper() -> _Lifeline | None:
    """Start the process that kills the named group when this one dies; None where there is no shell."""
    try:
        read, write = os.pipe()
    except OSError as error:  # no descriptors are left; the child will not start either
        log.warning("keeper.missing", detail=str(error), meaning="only the end of its input stops an abandoned child")
        return None
    try:
        keeper = await anyio.open_process(
            [_SHELL, "-c", _KEEPER], stdin=read, stdout=DEVNULL, stderr=DEVNULL, cwd="/", env={}, start_new_session=True
        )
    except OSError as error:
        os.close(write)
        log.warning("keeper.missing", detail=str(error), meaning="only the end of its input stops an abandoned child")
        return None
    finally:
        os.close(read)
    return _Lifeline(write, keeper)

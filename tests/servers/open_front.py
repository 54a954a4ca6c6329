"""A stdio front that permits everything, as a process of its own: open_front.py GUARD_TOML SERVER."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import anyio
import structlog

from guard.config import load
from guard.model import Principal, Source
from guard.proxy.exchange import Arrival, Exchange
from guard.proxy.pipes import standard_streams
from guard.proxy.stdio import StdioFront


class Open:
    """Forwards everything."""

    async def handle(self, _arrival: Arrival, exchange: Exchange) -> None:
        """Forward."""
        await exchange.forward()

    def refused(self, *, server: str, source: Source, principal: Principal | None, error: Exception) -> None:
        """Say so on stderr."""
        sys.stderr.write(f"{server} {source.transport} {principal and principal.subject} {error}\n")


async def main(file: str, server: str) -> int:
    """Serve until the input ends or SIGTERM comes."""
    front = StdioFront(load(Path(file)), server, Principal(subject="robot", credential="0" * 16), Open())
    with standard_streams() as (stdin, stdout):
        print("a stray print")  # noqa: T201  # must not reach the agent
        async with anyio.create_task_group() as group:
            group.start_soon(stop_on_signal, front)
            code = await front.run(stdin, stdout)
            group.cancel_scope.cancel()
    return code


async def stop_on_signal(front: StdioFront) -> None:
    """Stop at SIGTERM."""
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            front.stop()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(file=sys.stderr))
    sys.exit(anyio.run(main, *sys.argv[1:]))

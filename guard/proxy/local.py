"""The local socket of a running guard, `state/run/<pid>.sock`: only processes of the guard's own user get in."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import closing
from pathlib import Path

import structlog
from starlette.types import ASGIApp

from guard.errors import ConfigError
from guard.listeners import Listener
from guard.proxy.ingress import StrictProtocol
from guard.proxy.listener import Listening, server

log = structlog.get_logger()


class LocalProtocol(StrictProtocol):
    """Hangs up on any peer of another user; the file mode says the same, and is not the only lock."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Look at the peer's user id before the first byte."""
        super().connection_made(transport)
        uid = _peer_uid(transport.get_extra_info("socket"))
        if uid not in {os.getuid(), 0}:
            log.warning("local.refused", uid=uid)
            self.caller.hang_up()


def _peer_uid(sock: socket.socket) -> int:
    """User id of the other end of a unix socket (Linux `SO_PEERCRED`; elsewhere the file mode decides)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return os.getuid()
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)


def bind_local(state: Path) -> tuple[socket.socket, Path]:
    """Open this process's socket (0600 in a 0700 directory) and clear away those of processes that are gone.

    Raises:
        ConfigError: the path is too long for a unix socket, or cannot be written.
    """
    folder = state / "run"
    path = folder / f"{os.getpid()}.sock"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in folder.glob("*.sock"):
            if _dead(old):
                old.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
    except OSError as error:
        message = f"cannot open the socket {path}: {error}; unix socket paths hold about 100 characters"
        raise ConfigError(message) from error
    sock.setblocking(False)
    return sock, path


def local_server(app: ASGIApp) -> Listening:
    """A server for the local socket."""
    return server(Listener.model_validate({"listen": "127.0.0.1:0"}), app, protocol=LocalProtocol)


def _dead(path: Path) -> bool:
    """Whether nobody listens on the socket any more."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:
            return False
    return False

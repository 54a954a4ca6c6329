"""The sockets of a listener, and the server that runs them: uvicorn as the shell, our own protocol inside.

uvicorn opens, hands out and closes connections in order; `guard.proxy.ingress` says what may come over one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from guard.errors import ConfigError
from guard.listeners import Listener
from guard.proxy.crowd import Crowd, room
from guard.proxy.ingress import StrictProtocol

BACKLOG: Final = 4096
"""Connections the system queues before they are accepted."""
GRACE: Final = 1
"""Seconds unanswered requests get after the stop; with uvicorn's own ticks the exit stays within two."""


class Listening(uvicorn.Server):
    """A uvicorn server whose signals belong to the process that composes it: end it by `stop`."""

    def __init__(self, config: uvicorn.Config) -> None:
        """Take the settings `server` made."""
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self, *, force: bool = False) -> None:
        """Take no more requests and end once those under way are answered, or at once; call it in the event loop."""
        self.should_exit, self.force_exit = True, force
        self._stopping.set()

    async def main_loop(self) -> None:
        """Wait for the stop. uvicorn would look ten times a second, for its Date header and request limit."""
        await self._stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signal."""
        yield


def bind(listener: Listener) -> socket.socket:
    """Open the listening socket; with port 0 the system's choice is in `getsockname()`. Connections queue at once.

    Raises:
        ConfigError: the address cannot be bound.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(listener.host, listener.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, proto)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        message = f"cannot listen on {listener.listen}: {error.strerror or error}"
        raise ConfigError(message) from error
    listening.setblocking(False)
    return listening


def server(listener: Listener, app: ASGIApp, *, protocol: type[StrictProtocol] = StrictProtocol) -> Listening:
    """A server for one listener. Run `await it.serve(sockets=[bind(listener)])`; it exits within two seconds.

    Raises:
        ConfigError: certificate and key cannot be loaded.
    """
    crowd = Crowd(room(listener.max_connections))
    settings = uvicorn.Config(
        app,
        http=partial(protocol, crowd=crowd),  # type: ignore[arg-type]  # it is only called
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=GRACE,
        backlog=BACKLOG,
        ssl_certfile=listener.tls_cert,
        ssl_keyfile=listener.tls_key,
    )
    try:
        settings.load()
    except OSError as error:
        message = f"tls_cert {listener.tls_cert} and tls_key {listener.tls_key} cannot be loaded: {error}"
        raise ConfigError(message) from error
    return Listening(settings)

"""Real receivers of notices: an HTTP server that remembers what it was sent, and a mail server."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session


@dataclass
class Hook:
    """What an HTTP receiver was sent; it answers with these statuses in turn, the last one for good."""

    url: str = ""
    statuses: list[int] = field(default_factory=lambda: [204])
    requests: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    hang: threading.Event = field(default_factory=threading.Event)
    hanging: bool = False
    arrived: threading.Event = field(default_factory=threading.Event)

    def wait(self, count: int, within: float = 10.0) -> None:
        """Wait until so many requests have come."""
        deadline = time.monotonic() + within
        while len(self.requests) < count:
            self.arrived.clear()
            if len(self.requests) < count:
                assert self.arrived.wait(max(deadline - time.monotonic(), 0)), f"{len(self.requests)} of {count} came"


@contextmanager
def http_receiver() -> Iterator[Hook]:
    """An HTTP server on loopback."""
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
            hook.arrived.set()
            if hook.hanging:
                hook.hang.wait(20)
            status = hook.statuses.pop(0) if len(hook.statuses) > 1 else hook.statuses[0]
            self.send_response(status)
            if status in {301, 302}:
                self.send_header("Location", hook.url + "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hook.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        hook.hang.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Mailbox:
    """Mails that a server took."""

    port: int = 0
    mails: list[Envelope] = field(default_factory=list)
    tls: list[bool] = field(default_factory=list)
    answer: str = "250 OK"

    async def handle_DATA(self, _server: object, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.mails.append(envelope)
        self.tls.append(session.ssl is not None)
        return self.answer


class _Server(Controller):
    def _trigger_server(self) -> None:
        """Knock at the port it was given; the library's own look would go to port 0."""
        socket.create_connection(self.server.sockets[0].getsockname()).close()


@contextmanager
def mail_server(
    *, tls: ssl.SSLContext | None = None, starttls: bool = False, password: str = "", answer: str = "250 OK"
) -> Iterator[Mailbox]:
    """A mail server on loopback."""
    box = Mailbox(answer=answer)

    def login(_server: object, _session: object, _envelope: object, _how: str, given: LoginPassword) -> AuthResult:
        right = (given.login, given.password) == (b"guard", password.encode())
        return AuthResult(success=right, handled=right)

    controller = _Server(
        box,
        hostname="127.0.0.1",
        port=0,
        ssl_context=None if starttls else tls,
        tls_context=tls if starttls else None,
        require_starttls=starttls,
        auth_required=bool(password),
        authenticator=login if password else None,
        auth_require_tls=starttls,
        ready_timeout=30,
    )
    controller.start()
    try:
        box.port = controller.server.sockets[0].getsockname()[1]
        yield box
    finally:
        controller.stop()

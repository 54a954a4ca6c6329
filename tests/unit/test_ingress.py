"""What one connection of a caller carries: how requests come in, and how answers leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio
import pytest
import uvicorn
from structlog.testing import capture_logs
from uvicorn.server import ServerState

from guard.proxy.crowd import Crowd
from guard.proxy.ingress import HEADS_BYTES, HEADS_LIMIT, StrictProtocol

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Recording(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.closed = self.aborted = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Connection:
    """A protocol on such a transport, with the tasks it started."""

    def __init__(self, app: App) -> None:
        self.state = ServerState()
        config = uvicorn.Config(app, http=StrictProtocol, ws="none", lifespan="off", log_config=None)
        config.load()
        self.protocol = StrictProtocol(config, self.state, crowd=Crowd(8))
        self.transport = Recording()
        self.protocol.connection_made(self.transport)

    async def says(self, *pieces: bytes) -> bytes:
        """Everything that is answered once the application is done."""
        for piece in pieces:
            self.protocol.data_received(piece)
            await asyncio.sleep(0)
        while self.state.tasks:
            await asyncio.wait(self.state.tasks)
            await asyncio.sleep(0)
        return b"".join(self.transport.sent)


def get(*lines: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} /a%20b?q=1 HTTP/1.1", "Host: here", *lines, "", "")).encode()


def answering(*pieces: bytes, headers: tuple[tuple[bytes, bytes], ...] = (), status: int = 200) -> App:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for piece in pieces[:-1]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": pieces[-1]})

    return app


async def test_an_answer_of_known_length_leaves_in_one_write() -> None:
    connection = Connection(answering(b"body", headers=((b"content-length", b"4"),)))
    assert await connection.says(get()) == b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody"
    assert len(connection.transport.sent) == 1


async def test_a_head_does_not_wait_for_a_body_that_takes_its_time() -> None:
    go_on = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"event"})

    connection = Connection(app)
    connection.protocol.data_received(get())
    await anyio.wait_all_tasks_blocked()
    go_on.set()
    await connection.says()
    assert connection.transport.sent == [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", b"event"]


async def test_an_answer_of_unknown_length_is_chunked_and_its_end_is_told() -> None:
    answer = await Connection(answering(b"one", b"", b"two")).says(get())
    assert answer.endswith(b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_an_answer_shorter_than_it_says_breaks_the_connection() -> None:
    connection = Connection(answering(b"ab", headers=((b"content-length", b"3"),)))
    with capture_logs() as logs:
        await connection.says(get())
    assert connection.transport.aborted
    assert [entry["event"] for entry in logs] == ["request.failed"]


async def test_a_defect_of_the_application_is_a_500_and_the_end_of_the_connection() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ZeroDivisionError

    connection = Connection(app)
    with capture_logs() as logs:
        assert (await connection.says(get())).startswith(b"HTTP/1.1 500 ")
    assert connection.transport.closed
    assert logs[0]["event"] == "request.failed"


async def test_head_and_bodiless_answers_have_no_body() -> None:
    assert (await Connection(answering(b"body")).says(get(method="HEAD"))).endswith(b"\r\n\r\n")
    assert await Connection(answering(b"", status=204)).says(get()) == b"HTTP/1.1 204 No Content\r\n\r\n"


async def test_a_caller_who_asks_for_it_is_disconnected_after_the_answer() -> None:
    connection = Connection(answering(b"", headers=((b"content-length", b"0"),)))
    assert b"connection: close\r\n" in await connection.says(get("Connection: close"))
    assert connection.transport.closed


async def test_a_connection_serves_one_request_after_another() -> None:
    connection = Connection(answering(b"", headers=((b"content-length", b"0"),)))
    await connection.says(get())
    assert (await connection.says(get())).count(b"HTTP/1.1 200 OK") == 2
    assert not connection.transport.closed


async def test_an_application_that_ends_late_leaves_the_next_request_alone() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await go_on.wait()
        await answering(b"", headers=((b"content-length", b"0"),))(scope, receive, send)
        if scope["method"] == "GET":
            await go_on.wait()

    connection = Connection(app)
    connection.protocol.data_received(get())
    await anyio.wait_all_tasks_blocked()
    connection.protocol.data_received(get("Content-Length: 0", method="POST"))
    go_on.set()
    assert (await connection.says()).count(b"HTTP/1.1 200 OK") == 2
    assert not connection.transport.is_closing()


def post(body: bytes, *lines: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return get("Content-Type: text/plain", *lines, f"Content-Length: {size}", method="POST") + body


def repeating(heard: list[tuple[object, bytes]]) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["more_body"]:
            body += message["body"]
        head = scope["guard.head"]
        heard.append((head, body + message["body"]))
        known = head.meaning = head.meaning or dict(scope["headers"]).get(b"x-name", b"")
        await answering(known, headers=((b"content-length", b"%d" % len(known)),))(scope, receive, send)

    return app


async def test_a_head_that_is_repeated_is_known_again_and_each_body_keeps_its_own_length() -> None:
    heard: list[tuple[object, bytes]] = []
    connection = Connection(repeating(heard))
    bodies = [b"one", b"three", b"", b"four"]
    for body in bodies:
        await connection.says(post(body))
    assert [body for _, body in heard] == bodies
    first, second, third, _ = [head for head, _ in heard]
    assert first is not second
    assert second is third


async def test_another_head_is_never_taken_for_one_that_is_known() -> None:
    heard: list[tuple[object, bytes]] = []
    connection = Connection(repeating(heard))
    names = ["ann", "bob", "ann", "Ann", "bob"]
    for name in names:
        await connection.says(post(b"x", f"X-Name: {name}"))
    answers = b"".join(connection.transport.sent).split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert [answer.rpartition(b"\r\n\r\n")[2].decode() for answer in answers] == names


async def test_a_known_head_in_pieces_or_with_more_behind_it_is_framed_by_the_parser() -> None:
    heard: list[tuple[object, bytes]] = []
    connection = Connection(repeating(heard))
    for _ in range(2):
        await connection.says(post(b"abc"))
    whole = post(b"abc")
    for cut in range(1, len(whole), 7):
        await connection.says(whole[:cut], whole[cut:])
    assert {body for _, body in heard} == {b"abc"}
    heard.clear()
    await connection.says(post(b"abc") + post(b"def"))
    assert b"HTTP/1.1 400" in connection.transport.sent[-1]  # a second request before the answer to the first


async def test_what_is_kept_of_heads_is_bounded_before_anybody_is_known() -> None:
    heard: list[tuple[object, bytes]] = []
    connection = Connection(repeating(heard))
    for number in range(40):
        await connection.says(post(b"x", f"X-Name: {number}", f"X-Long: {'a' * 3000}"))
    assert sum(map(len, connection.protocol._heads)) <= HEADS_BYTES
    for number in range(40):
        await connection.says(post(b"x", f"X-Name: {number}"))
    assert len(connection.protocol._heads) == HEADS_LIMIT
    for _ in range(2):
        await connection.says(post(b"x", f"X-Long: {'a' * HEADS_BYTES}"))
    assert heard[-1][0] is not heard[-2][0]
    await connection.says(post(b"x", "X-Name: 39"))
    await connection.says(post(b"x", "X-Name: 39"))
    assert heard[-1][0] is heard[-2][0], "the newest ones are known"


@pytest.mark.parametrize("line", ["Connection: close", "Expect: 100-continue", "Transfer-Encoding: chunked"])
async def test_a_head_that_says_how_to_frame_is_always_parsed(line: str) -> None:
    heard: list[tuple[object, bytes]] = []
    for _ in range(2):
        connection = Connection(repeating(heard))
        for _ in range(2):
            if not connection.transport.is_closing():
                await connection.says(post(b"abc", line))
    heads = [head for head, _ in heard]
    assert len({id(head) for head in heads}) == len(heads)


async def test_a_body_is_handed_on_as_it_comes_and_its_sender_is_told_to_continue() -> None:
    heard: list[MutableMapping[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append(scope)
        while (message := await receive())["more_body"]:
            heard.append(message)
        heard.append(message)
        await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        heard.append(await receive())

    connection = Connection(app)
    head = get("Content-Length: 6", "Expect: 100-continue", method="POST")
    answer = await connection.says(head, b"abc", b"def")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\n")
    scope, *messages, end = heard
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b?q=1", b"q=1")
    assert b"".join(message["body"] for message in messages) == b"abcdef"
    assert end == {"type": "http.disconnect"}


async def test_a_body_nobody_reads_is_not_read_from_the_caller_either() -> None:
    go_on = asyncio.Event()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        while (await receive())["more_body"]:
            pass
        await answering(b"")(_scope, receive, send)

    connection = Connection(app)
    body = b"x" * 200_000
    connection.protocol.data_received(get("Content-Length: 400000", method="POST") + body)
    assert not connection.transport.reading
    go_on.set()
    await anyio.wait_all_tasks_blocked()
    assert connection.transport.reading
    assert (await connection.says(body)).startswith(b"HTTP/1.1 200 OK")


async def test_an_application_waits_while_the_caller_does_not_read() -> None:
    connection = Connection(answering(b"one", b"two"))
    connection.protocol.pause_writing()
    connection.protocol.data_received(get())
    for _ in range(5):
        await asyncio.sleep(0)
    assert b"two" not in b"".join(connection.transport.sent)
    connection.protocol.resume_writing()
    assert (await connection.says()).endswith(b"two\r\n0\r\n\r\n")


async def test_the_end_of_the_connection_reaches_the_application() -> None:
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["guard.caller"].on_gone(lambda: heard.append("gone"))
        await receive()
        heard.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    connection = Connection(app)
    connection.protocol.data_received(get())
    await asyncio.sleep(0)
    connection.protocol.connection_lost(None)
    assert await connection.says() == b""
    assert heard == ["gone", "http.disconnect"]


async def test_a_graceful_stop_closes_idle_connections_at_once_and_others_after_their_answer() -> None:
    idle, busy = Connection(answering(b"")), Connection(answering(b""))
    busy.protocol.data_received(get())
    for connection in (idle, busy):
        connection.protocol.shutdown()
    assert (idle.transport.closed, busy.transport.closed) == (True, False)
    assert b"connection: close\r\n" in await busy.says()
    assert busy.transport.closed

"""The HTTP client of tool servers, against a real socket that answers byte by byte as told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.config import Server
from guard.errors import ConfigError, UpstreamError
from guard.proxy.connection import HEAD_LIMIT
from guard.proxy.documents import documents, ending
from guard.proxy.exchange import Ending
from guard.proxy.headers import crosses, is_json, outgoing
from guard.proxy.upstream import Upstreams

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def anyio_backend() -> str:
    """The client is asyncio."""
    return "asyncio"


class Scripted:
    """Answers the n-th request with the n-th script, then closes when there is none left."""

    def __init__(self, scripts: list[bytes], *, close: bool = False) -> None:
        self.scripts = scripts
        self.close = close
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.scripts:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self.scripts.pop(0))
                await writer.drain()
                if self.close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    *scripts: bytes, close: bool = False, **settings: object
) -> AsyncIterator[tuple[Scripted, Upstreams]]:
    scripted = Scripted(list(scripts), close=close)
    listening = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.port = listening.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{scripted.port}/mcp"
    upstreams = Upstreams({"s": Server.model_validate({"url": url, "answer_timeout": 2, **settings})})
    try:
        yield scripted, upstreams
    finally:
        upstreams.close()
        listening.close()


async def fetch(upstreams: Upstreams, subject: str = "a") -> tuple[int, bytes]:
    async with await upstreams.send(server="s", subject=subject, method="POST", lines=b"", body=b"") as answer:
        pieces = []
        while piece := await answer.chunk():
            pieces.append(piece)
        return answer.status, b"".join(pieces)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("script", "body"),
    [
        (OK, b"{}"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\nT: dropped\r\n\r\n",
            b"{}",
        ),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
async def test_every_framing_of_an_answer_is_read_and_the_connection_used_again(script: bytes, body: bytes) -> None:
    async with serving(script, OK) as (scripted, upstreams):
        assert (await fetch(upstreams))[1] == body
        assert await fetch(upstreams) == (200, b"{}")
        assert scripted.connections == 1


@pytest.mark.anyio
async def test_an_answer_may_end_with_its_connection() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", close=True) as (_, upstreams):
        assert await fetch(upstreams) == (200, b"until the end")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "script",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 999 Unheard Of\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * HEAD_LIMIT + b"\r\n\r\n",
    ],
)
async def test_a_cut_or_ambiguous_answer_is_an_unknown_outcome_and_nothing_is_sent_again(
    script: bytes,
) -> None:
    async with serving(script, close=True) as (scripted, upstreams):
        with pytest.raises(UpstreamError) as caught:
            await fetch(upstreams)
        assert caught.value.sent
        assert len(scripted.requests) == 1


@pytest.mark.anyio
async def test_bytes_after_an_answer_are_never_taken_for_the_answer_to_the_next_request() -> None:
    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    async with serving(OK + forged, OK) as (scripted, upstreams):
        assert await fetch(upstreams) == (200, b"{}")
        assert await fetch(upstreams) == (200, b"{}")
        assert scripted.connections == 2


@pytest.mark.anyio
async def test_a_kept_connection_the_server_has_closed_costs_no_call() -> None:
    accepting = socket.create_server(("127.0.0.1", 0))
    with accepting:
        url = f"http://127.0.0.1:{accepting.getsockname()[1]}/mcp"
        upstreams = Upstreams({"s": Server(url=url)})
        loop = asyncio.get_running_loop()

        def answer_once(*, then_wait: bool) -> None:
            peer, _ = accepting.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(OK)
                if then_wait:
                    peer.recv(65536)

        for last in (False, True):
            served = loop.run_in_executor(None, lambda wait=last: answer_once(then_wait=wait))
            assert await fetch(upstreams) == (200, b"{}")
            if not last:
                await served
        upstreams.close()
        await served


@pytest.mark.anyio
async def test_no_listener_means_nothing_was_sent() -> None:
    async with serving() as (scripted, upstreams):
        pass
    with pytest.raises(UpstreamError) as caught:
        await fetch(upstreams)
    assert not caught.value.sent
    assert scripted.requests == []


@pytest.mark.anyio
async def test_a_server_that_does_not_begin_to_answer_in_time_is_an_unknown_outcome() -> None:
    async with serving(b"", OK, answer_timeout=0.1) as (_, upstreams):
        with pytest.raises(UpstreamError) as caught:
            await fetch(upstreams)
    assert caught.value.sent


@pytest.mark.anyio
async def test_principals_do_not_share_connections() -> None:
    async with serving(OK, OK, OK) as (scripted, upstreams):
        for subject in ("a", "b", "a"):
            await fetch(upstreams, subject)
        assert scripted.connections == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "http://u:p@h/mcp"}, "credential"),
        ({"url": "http://h/a b"}, "percent-encode"),
        ({"url": "http://h/", "headers": {"X": "a\r\nY: b"}}, "not a header"),
        ({"url": "http://h/", "headers": {"Transfer-Encoding": "chunked"}}, "belongs to the connection"),
    ],
)
def test_a_setting_that_http_cannot_carry_is_refused_at_start(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Upstreams({"s": Server.model_validate(settings)})


NAMES = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz-_0123456789"), min_size=1).map(str.encode)


@given(NAMES)
def test_no_underscore_and_no_identity_claim_ever_crosses(name: bytes) -> None:
    assert not (crosses(name) and b"_" in name)
    assert not crosses(b"x-forwarded-" + name)
    assert not crosses(b"guard-" + name)
    assert not crosses(b"x-guard-" + name)


@given(st.lists(st.tuples(NAMES, st.just(b"v"))), NAMES)
def test_what_connection_names_does_not_cross(headers: list[tuple[bytes, bytes]], named: bytes) -> None:
    lines = outgoing([*headers, (b"connection", b"close, " + named.upper())], frozenset())
    assert not any(line.startswith(named + b": ") for line in lines.split(b"\r\n"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"application/json", True),
        (b'Application/JSON; charset="UTF-8"', True),
        (b"application/json;charset=utf-16", False),
        (b"application/json-rpc", False),
        (b"application/json; charset=utf-8; charset=utf-7", False),
        (b"", False),
    ],
)
def test_json_in_utf8_is_the_only_media_type(value: bytes, expected: bool) -> None:
    assert is_json(value) is expected


@given(st.binary())
def test_whatever_a_tool_server_answers_its_ending_is_told(body: bytes) -> None:
    assert ending(body) in Ending
    assert ending(b'{"error":' + body) in Ending


def test_an_event_stream_gives_the_data_of_each_event() -> None:
    spelled: Callable[[bytes], list[bytes]] = lambda end: list(  # noqa: E731
        documents(b": comment" + end * 2 + b"event: message" + end + b"data: {" + end + b"data: }" + end * 2)
    )
    assert [spelled(end) for end in (b"\n", b"\r\n", b"\r")] == [[b"{\n}"]] * 3

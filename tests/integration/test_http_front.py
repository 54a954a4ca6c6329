"""The HTTP front, served for real over sockets, in front of a real little tool server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from guard.config import Config, Proxy, Server
from guard.errors import IdentityError, UpstreamError
from guard.model import Principal, Source
from guard.proxy import ingress
from guard.proxy.exchange import Arrival, Ending, Exchange, Handler, Outcome
from guard.proxy.http import BODY_LIMIT, IN_FLIGHT_BYTES, McpFront
from guard.proxy.listener import bind, server
from guard.proxy.upstream import Upstreams
from guard.reasons import Code
from guard.wire import reply
from guard.wire.decode import CAPABILITIES_KEY, VERSION_KEY
from guard.wire.message import Request
from tests.guards import PROMPT

pytestmark = pytest.mark.anyio

CALL = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": "hi"}}}
RESULT = b'{"jsonrpc":"2.0","id":7,"result":{"content":[],"isError":false}}'

Respond = Callable[["Upstream", bytes, bytes, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> str:
    """uvicorn is asyncio."""
    return "asyncio"


def plain(
    body: bytes = RESULT, status: str = "200 OK", headers: bytes = b"", kind: bytes = b"application/json"
) -> Respond:
    async def respond(upstream: Upstream, head: bytes, received: bytes, writer: asyncio.StreamWriter) -> None:
        lines = b"Content-Type: %b\r\nContent-Length: %d\r\n%b\r\n" % (kind, len(body), headers)
        writer.write(b"HTTP/1.1 " + status.encode() + b"\r\n" + lines + body)

    return respond


@dataclass
class Upstream:
    """A tool server that journals what it got and answers as the test says."""

    respond: Respond = field(default_factory=plain)
    journal: list[tuple[bytes, bytes]] = field(default_factory=list)
    connections: int = 0
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                self.journal.append((head, body))
                await self.respond(self, head, body, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost.set()
        finally:
            writer.close()


class Keys:
    """Identifier of the tests: KEY-<name> proves <name> until it is revoked."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()

    async def identify(self, credential: str) -> Principal:
        if not credential.startswith("KEY-") or credential in self.revoked:
            raise IdentityError
        return Principal(subject=credential.removeprefix("KEY-"), credential="0" * 16)


class Permissive:
    """Handler that forwards everything, and remembers."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.outcomes: list[Outcome | UpstreamError] = []
        self.refusals: list[tuple[str, Source, Principal | None, Exception]] = []
        self.done = asyncio.Event()

    async def handle(self, arrival: Arrival, exchange: Exchange) -> None:
        self.arrivals.append(arrival)
        try:
            self.outcomes.append(await exchange.forward())
        except UpstreamError as error:
            self.outcomes.append(error)
            identity = arrival.message.id if isinstance(arrival.message, Request) else None
            await exchange.answer(reply.error(identity, reply.REFUSED, error.public))
        self.done.set()

    def refused(self, *, server: str, source: Source, principal: Principal | None, error: Exception) -> None:
        self.refusals.append((server, source, principal, error))


class Holding(Permissive):
    """Handler that holds every call until it is approved, and forwards only if the caller is still there."""

    def __init__(self) -> None:
        super().__init__()
        self.held = asyncio.Event()

    async def handle(self, arrival: Arrival, exchange: Exchange) -> None:
        self.arrivals.append(arrival)
        self.held.set()
        await exchange.wait_gone()
        assert exchange.gone
        self.done.set()


class Bindings:
    """Sessions port over a dictionary."""

    def __init__(self) -> None:
        self.owners: dict[tuple[str, str], str] = {}
        self.bound = 0.0

    def bind(self, server: str, session: str, subject: str, at: float) -> None:
        self.owners[server, session] = subject
        self.bound = at

    def owner(self, server: str, session: str) -> str | None:
        return self.owners.get((server, session))

    def drop(self, server: str, session: str) -> None:
        self.owners.pop((server, session), None)


class FixedClock:
    def now(self) -> float:
        return 1.0

    def mono(self) -> float:
        return 1.0

    def token(self, prefix: str) -> str:
        return f"{prefix}_0"


@dataclass
class Stage:
    """The guard between the tests' clients and the tool server."""

    port: int
    upstream: Upstream
    front: McpFront
    sessions: Bindings
    observed: list[tuple[str, bytes]]
    recorded: list[str]
    serving: asyncio.Task[None]
    stop: Callable[[], None]
    keys: Keys

    def request(
        self, body: bytes = b"", *more: str, method: str = "POST", target: str = "/mcp/pay", key: str = "KEY-a"
    ) -> bytes:
        lines = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{self.port}"]
        if key:
            lines.append(f"Authorization: Bearer {key}")
        if method == "POST":
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        named = {line.partition(":")[0].lower() for line in more if not line.startswith("+")}
        lines = [line for line in lines if line.partition(":")[0].lower() not in named]
        lines += [line.removeprefix("+") for line in more if not line.endswith(":-")]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    async def send(self, raw: bytes) -> tuple[int, bytes, bytes]:
        """One request on a connection of its own: status, head, body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw)
        try:
            return await answer(reader)
        finally:
            writer.close()

    async def call(self, message: object = CALL, *more: str, key: str = "KEY-a") -> tuple[int, bytes, bytes]:
        return await self.send(self.request(json.dumps(message).encode(), *more, key=key))


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = b""
    if length := re.search(rb"content-length: (\d+)", head):
        body = await reader.readexactly(int(length[1]))
    elif b"chunked" in head:
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
    return int(head.split()[1]), head, body


@asynccontextmanager
async def stage(handler: Handler, upstream: Upstream | None = None, **settings: object) -> AsyncIterator[Stage]:
    upstream = upstream or Upstream()
    listening = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = listening.sockets[0].getsockname()[1]
    config = Config(
        proxy=Proxy(listen="127.0.0.1:0"),
        servers={
            "pay": Server.model_validate({"url": f"http://127.0.0.1:{upstream.port}/up?x=1", **settings}),
            "local": Server(command=("true",)),
        },
    )
    observed: list[tuple[str, bytes]] = []
    upstreams = Upstreams(config.servers, observe=lambda name, body: observed.append((name, body)))
    sessions = Bindings()
    recorded: list[str] = []
    keys = Keys()
    front = McpFront(
        config,
        identifier=keys,
        handler=handler,
        upstreams=upstreams,
        sessions=sessions,
        clock=FixedClock(),
        record=lambda event, _: recorded.append(event),
    )
    uvicorn_server = server(config.proxy, front)
    sock = bind(config.proxy)
    serving = asyncio.create_task(uvicorn_server.serve(sockets=[sock]))

    def stop() -> None:
        uvicorn_server.stop()

    try:
        yield Stage(sock.getsockname()[1], upstream, front, sessions, observed, recorded, serving, stop, keys)
    finally:
        stop()
        front.stop()
        await serving
        upstreams.close()
        listening.close()


async def test_the_inspected_bytes_are_forwarded_unchanged_and_the_answer_comes_back_byte_exact() -> None:
    handler = Permissive()
    raw = b'{ "jsonrpc" : "2.0", "id":7, "method":"tools\\/call","params":{"name":"echo","arguments":{"a":1.50}}}'
    upstream = Upstream(
        plain(headers=b"X-Vendor: Kept  as is\r\nX-Accel-Buffering: no\r\nConnection: x-hop\r\nX-Hop: 1\r\n")
    )
    async with stage(handler, upstream) as guard:
        status, head, body = await guard.send(guard.request(raw))
    assert (status, body) == (200, RESULT)
    assert b"x-vendor: kept  as is\r\n" in head
    assert b"x-accel-buffering: no\r\n" in head
    assert b"x-hop" not in head
    assert b"server:" not in head
    [(sent, received)] = upstream.journal
    assert received == raw
    assert sent.startswith(b"POST /up?x=1 HTTP/1.1\r\nhost: 127.0.0.1:")
    [outcome] = handler.outcomes
    assert outcome == Outcome(ending=Ending.OK, result_bytes=len(RESULT), status=200)
    [arrival] = handler.arrivals
    assert (arrival.server, arrival.principal.subject, arrival.source.address) == ("pay", "a", "127.0.0.1")


async def test_one_principal_reuses_its_connection_and_never_anothers() -> None:
    async with stage(Permissive()) as guard:
        for key in ("KEY-a", "KEY-a", "KEY-b", "KEY-a"):
            assert (await guard.call(key=key))[0] == 200
        assert guard.upstream.connections == 2


async def test_identity_claims_credentials_and_hop_by_hop_headers_do_not_cross() -> None:
    dropped = (
        "Cookie: session=1", "X-Forwarded-For: 10.0.0.5", "Forwarded: for=10.0.0.5", "X-Real-IP: 10.0.0.5",
        "X-Remote-User: root", "X-Agent-Id: admin", "X-Guard-Identity: admin", "Guard-Proof: x", "Mcp_Name: evil",
        "True-Client-IP: 10.0.0.5", "CF-Connecting-IP: 10.0.0.5", "Connection: keep-alive, X-Hop", "X-Hop: 1",
        "TE: trailers", "Accept-Encoding: gzip", "X-Api-Key: the caller's",
    )  # fmt: skip
    async with stage(Permissive(), headers={"Authorization": "Bearer upstream", "X-Api-Key": "ours"}) as guard:
        await guard.call(CALL, *dropped, "Mcp-Param-Region: eu", "Last-Event-ID: 4", "Accept: text/event-stream")
        [(sent, _)] = guard.upstream.journal
    names = [line.partition(b":")[0] for line in sent.split(b"\r\n")[1:] if line]
    assert sorted(names) == sorted(
        [b"host", b"authorization", b"x-api-key", b"accept-encoding", b"content-type", b"content-length",
         b"mcp-param-region", b"last-event-id", b"accept"]
    )  # fmt: skip
    assert b"authorization: Bearer upstream\r\n" in sent
    assert b"x-api-key: ours\r\n" in sent
    assert b"accept-encoding: identity\r\n" in sent


async def test_without_a_credential_nothing_of_the_body_is_read() -> None:
    handler = Permissive()
    async with stage(handler) as guard:
        head = guard.request(b"", "Content-Length: 1000000", key="")
        status, answered, _ = await guard.send(head)  # the body never comes
        assert status == 401
        assert b"www-authenticate: bearer" in answered
        status, answered, _ = await guard.send(guard.request(b"{}", key="invalid.invalid"))
        assert status == 401
        assert b'error="invalid_token"' in answered
        twice = guard.request(b"{}", "+Authorization: Bearer KEY-b")
        assert (await guard.send(twice))[0] == 400
    assert guard.upstream.journal == []
    assert [error.reason for _, _, _, error in handler.refusals if isinstance(error, IdentityError)] == [
        Code.NO_CREDENTIAL,
        Code.BAD_CREDENTIAL,
    ]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("Host: evil.example", 421),
        ("Host: 127.0.0.1:1/healthz?", 421),
        ("Host: 127.0.0.1@evil.example", 421),
        ("Host: 10.0.0.1", 421),
        ("Origin: http://evil.example", 403),
        ("Origin: null", 403),
        ("Origin: http://localhost:6274", 200),
        ("Host: localhost", 200),
    ],
)
async def test_a_rebound_name_and_a_foreign_page_are_refused(line: str, status: int) -> None:
    async with stage(Permissive()) as guard:
        assert (await guard.call(CALL, line))[0] == status
        assert len(guard.upstream.journal) == (status == 200)


async def test_only_the_exact_endpoint_of_an_http_server_leads_anywhere() -> None:
    targets = [
        "//mcp/pay", "/mcp/pay/", "/MCP/pay", "/%6dcp/pay", "/mcp/../mcp/pay", "/mcp/pay;x=1", "/mcp/pay%00",
        "/mcp/pay?", "/mcp/pay?grant=1", "/mcp/pay#x", "http://127.0.0.1/mcp/pay", "/mcp/local", "/mcp/none", "/",
    ]  # fmt: skip
    async with stage(Permissive()) as guard:
        for target in targets:
            assert (await guard.send(guard.request(b"{}", target=target)))[0] in {400, 404}, target
        for method in ("PUT", "PATCH", "TRACE", "OPTIONS"):
            assert (await guard.send(guard.request(method=method)))[0] == 405, method
    assert guard.upstream.journal == []


SMUGGLED = {
    "both framings": "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": "Transfer-Encoding: xchunked\r\n\r\n",
    "stacked codings": "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding twice": "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before colon": "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "two lengths": "Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
    "length with sign": "Content-Length: +2\r\n\r\n{}",
    "length list": "Content-Length: 2, 2\r\n\r\n{}",
    "folded line": "Mcp-Name: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    "bare CR": "Mcp-Name: a\rb\r\nContent-Length: 2\r\n\r\n{}",
    "bare LF": "Mcp-Name: a\nContent-Length: 2\r\n\r\n{}",
    "trailer": "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nMcp-Name: evil\r\n\r\n",
    "upgrade": "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
    "many headers": "".join(f"X-{n}: a\r\n" for n in range(10_000)) + "\r\n",
    "huge header": "X-A: " + "a" * 80_000 + "\r\n\r\n",
    "endless header": "X-A: " + "a" * 80_000,
}


async def test_a_request_that_two_parsers_could_frame_differently_is_refused_and_its_connection_closed() -> None:
    async with stage(Permissive()) as guard:
        start = f"POST /mcp/pay HTTP/1.1\r\nHost: 127.0.0.1:{guard.port}\r\nAuthorization: Bearer KEY-a\r\n"
        for name, rest in SMUGGLED.items():
            reader, writer = await asyncio.open_connection("127.0.0.1", guard.port)
            writer.write((start + rest).encode())
            status, _, _ = await answer(reader)
            assert status in {400, 431, 501}, name
            assert await reader.read() == b"", name
            writer.close()
        for version in ("HTTP/1.0", "HTTP/2.0"):
            assert (await guard.send(guard.request(b"{}").replace(b"HTTP/1.1", version.encode())))[0] in {400, 505}
        assert (await guard.call())[0] == 200
    assert len(guard.upstream.journal) == 1


async def test_a_second_request_before_the_answer_ends_the_connection() -> None:
    handler = Holding()
    async with stage(handler) as guard:
        body = json.dumps(CALL).encode()
        assert (await guard.send(guard.request(body) + guard.request(body)))[0] == 400
        reader, writer = await asyncio.open_connection("127.0.0.1", guard.port)
        writer.write(guard.request(body))
        await asyncio.wait_for(handler.held.wait(), 15)
        writer.write(guard.request(body))
        assert (await answer(reader))[0] == 400
        writer.close()
        await asyncio.wait_for(handler.done.wait(), 15)
    assert guard.upstream.journal == []


@pytest.mark.parametrize(
    "line",
    [
        "Content-Type: text/plain",
        "Content-Type: application/json; charset=utf-7",
        "Content-Type: application/jsonx",
        "Content-Encoding: gzip",
        "Content-Encoding: identity",
    ],
)
async def test_only_plain_utf8_json_is_read(line: str) -> None:
    async with stage(Permissive()) as guard:
        status, _, body = await guard.call(CALL, line)
        assert status == 415
        assert "error" in json.loads(body)
        assert guard.upstream.journal == []


async def test_a_body_over_the_limit_is_refused_whether_or_not_it_says_its_size() -> None:
    async with stage(Permissive()) as guard:
        assert (await guard.send(guard.request(b"", f"Content-Length: {BODY_LIMIT + 1}")))[0] == 413
        reader, writer = await asyncio.open_connection("127.0.0.1", guard.port)
        writer.write(guard.request(b"", "Content-Length:-", "Transfer-Encoding: chunked"))
        chunk = b"10000\r\n" + b"A" * 65536 + b"\r\n"
        for _ in range(BODY_LIMIT // 65536 + 1):
            writer.write(chunk)
        assert (await answer(reader))[0] == 413
        writer.close()
    assert guard.upstream.journal == []


async def test_one_principal_cannot_fill_the_memory_and_another_is_served_meanwhile() -> None:
    async with stage(Permissive()) as guard:
        writers = []
        for _ in range(IN_FLIGHT_BYTES // BODY_LIMIT):
            _, writer = await asyncio.open_connection("127.0.0.1", guard.port)
            writer.write(guard.request(b"", f"Content-Length: {BODY_LIMIT}") + b" " * (BODY_LIMIT - 1))
            await writer.drain()
            writers.append(writer)
        reader, writer = await asyncio.open_connection("127.0.0.1", guard.port)
        writer.write(guard.request(b"", f"Content-Length: {BODY_LIMIT}") + b" " * (BODY_LIMIT - 1))
        assert (await answer(reader))[0] == 429
        assert (await guard.call(key="KEY-b"))[0] == 200
        for one in (*writers, writer):
            one.close()
            await one.wait_closed()


async def test_a_share_of_memory_is_given_back_with_every_answer() -> None:
    async with stage(Permissive()) as guard:
        message = json.dumps({**CALL, "params": {"name": "pay", "arguments": {"x": "y" * (BODY_LIMIT - 1000)}}})
        for _ in range(IN_FLIGHT_BYTES // BODY_LIMIT + 2):
            assert (await guard.send(guard.request(message.encode())))[0] == 200


async def test_a_body_that_does_not_arrive_is_ended_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "ARRIVAL_LIMIT", 0.2)
    async with stage(Permissive()) as guard:
        reader, writer = await asyncio.open_connection("127.0.0.1", guard.port)
        writer.write(guard.request(b"", "Content-Length: 1000") + b"{")
        assert (await guard.call())[0] == 200
        assert (await answer(reader))[0] == 408
        assert await reader.read() == b""
        writer.close()
    assert len(guard.upstream.journal) == 1


async def test_a_malformed_message_and_a_lying_header_are_refused_and_recorded() -> None:
    handler = Permissive()
    async with stage(handler) as guard:
        status, _, body = await guard.send(guard.request(b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}'))
        assert (status, "error" in json.loads(body)) == (400, True)
        status, _, body = await guard.call(CALL, "Mcp-Method: tools/list")
        assert (status, json.loads(body)["id"], json.loads(body)["error"]["code"]) == (400, 7, -32020)
    assert guard.upstream.journal == []
    assert {source.address for _, source, _, _ in handler.refusals} == {"127.0.0.1"}
    assert [(server, principal and principal.subject) for server, _, principal, _ in handler.refusals] == [
        ("pay", "a")
    ] * 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((), 400),
        (("MCP-Protocol-Version: 2025-11-25",), 400),
        (("MCP-Protocol-Version: 2026-07-28",), 404),
        (("MCP-Protocol-Version: 2025-11-25", "Mcp-Session-Id: s1"), 200),
    ],
)
async def test_an_unknown_method_is_refused_as_its_era_expects(headers: tuple[str, ...], status: int) -> None:
    async with stage(Permissive()) as guard:
        said, _, body = await guard.call({"jsonrpc": "2.0", "id": 7, "method": "tools/callBatch"}, *headers)
    assert (said, json.loads(body)["error"]["code"], json.loads(body)["id"]) == (status, -32601, 7)
    assert guard.upstream.journal == []


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (("MCP-Protocol-Version: 2026-07-28",), -32020),
        (("MCP-Protocol-Version: v999", "+MCP-Protocol-Version: v999"), -32020),
        (("MCP-Protocol-Version: v999",), -32022),
    ],
)
async def test_two_versions_in_one_request_are_a_mismatch_before_either_is_judged(
    headers: tuple[str, ...], code: int
) -> None:
    envelope = {VERSION_KEY: "v999", CAPABILITIES_KEY: {}}
    message = {"jsonrpc": "2.0", "id": 7, "method": "server/discover", "params": {"_meta": envelope}}
    async with stage(Permissive()) as guard:
        status, _, body = await guard.call(message, *headers)
    assert (status, json.loads(body)["error"]["code"], json.loads(body)["id"]) == (400, code, 7)


async def test_a_caller_who_leaves_while_held_is_noticed_and_nothing_is_forwarded() -> None:
    handler = Holding()
    async with stage(handler) as guard:
        _, writer = await asyncio.open_connection("127.0.0.1", guard.port)
        writer.write(guard.request(json.dumps(CALL).encode()))
        await asyncio.wait_for(handler.held.wait(), 15)
        writer.close()
        await asyncio.wait_for(handler.done.wait(), 15)
    assert guard.upstream.connections == 0


async def stream(upstream: Upstream, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
    """Two events, the second only when the test says so."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(b"9\r\n: alive\n\n\r\n")
    await writer.drain()
    await upstream.go_on.wait()
    event = b"data: " + RESULT + b"\n\n"
    writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event))


async def test_events_and_comments_are_relayed_as_they_come() -> None:
    handler = Permissive()
    async with stage(handler, Upstream(stream)) as guard:
        reader, writer = await asyncio.open_connection("127.0.0.1", guard.port)
        writer.write(guard.request(json.dumps(CALL).encode()))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"text/event-stream" in head
        assert await reader.readexactly(14) == b"9\r\n: alive\n\n\r\n"
        guard.upstream.go_on.set()
        rest = await reader.readuntil(b"0\r\n\r\n")
        assert RESULT in rest
        writer.close()
        await asyncio.wait_for(handler.done.wait(), 15)
    [outcome] = handler.outcomes
    assert isinstance(outcome, Outcome)
    assert outcome.ending is Ending.OK


async def test_a_caller_who_leaves_while_the_answer_streams_ends_the_call_upstream() -> None:
    handler = Permissive()
    async with stage(handler, Upstream(stream)) as guard:
        reader, writer = await asyncio.open_connection("127.0.0.1", guard.port)
        writer.write(guard.request(json.dumps(CALL).encode()))
        await reader.readuntil(b": alive")
        writer.close()
        await asyncio.wait_for(handler.done.wait(), 15)
        guard.upstream.go_on.set()
        await asyncio.wait_for(guard.upstream.lost.wait(), 15)
    [outcome] = handler.outcomes
    assert isinstance(outcome, Outcome)
    assert outcome.ending is Ending.UNKNOWN


async def broken(upstream: Upstream, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await writer.drain()
    writer.close()


async def test_a_half_answer_is_never_taken_for_a_whole_one() -> None:
    handler = Permissive()
    async with stage(handler, Upstream(broken)) as guard:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await guard.call()
    [outcome] = handler.outcomes
    assert outcome == Outcome(ending=Ending.UNKNOWN, result_bytes=4, status=200)


async def test_a_tool_servers_redirect_does_not_lead_past_the_guard() -> None:
    handler = Permissive()
    upstream = Upstream(plain(b"", "307 Temporary Redirect", b"Location: http://evil.example/\r\n"))
    async with stage(handler, upstream) as guard:
        status, head, _ = await guard.call()
    assert status == 200
    assert b"location" not in head
    [error] = handler.outcomes
    assert isinstance(error, UpstreamError)
    assert error.sent


@pytest.mark.parametrize(
    ("body", "ending"),
    [
        (b'{"jsonrpc":"2.0","id":7,"result":{"content":[],"isError": true}}', Ending.TOOL_ERROR),
        (b'{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"x"}}', Ending.UPSTREAM_ERROR),
        (b'{"jsonrpc":"2.0","id":7,"result":{"structuredContent":{"isError":true},"content":[]}}', Ending.OK),
    ],
)
async def test_the_outcome_is_what_the_tool_itself_reports(body: bytes, ending: Ending) -> None:
    handler = Permissive()
    async with stage(handler, Upstream(plain(body))) as guard:
        await guard.call()
    [outcome] = handler.outcomes
    assert isinstance(outcome, Outcome)
    assert outcome.ending is ending


async def test_a_listing_is_observed_in_json_and_in_events() -> None:
    listing = b'{"jsonrpc":"2.0","id":7,"result":{"tools":[]}}'
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}
    upstream = Upstream(plain(listing))
    async with stage(Permissive(), upstream) as guard:
        await guard.call(message)
        upstream.respond = plain(b"event: message\r\ndata: " + listing + b"\r\n\r\n", kind=b"text/event-stream")
        await guard.call(message)
        upstream.respond = plain(listing)
        await guard.call()  # a JSON answer to something else is no list, though an event of any stream may be one
        assert guard.observed == [("pay", listing)] * 2


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel", "tasks/list"])
async def test_the_tasks_of_others_are_out_of_reach(method: str) -> None:
    params = {} if method == "tasks/list" else {"taskId": "786512e2"}
    async with stage(Permissive()) as guard:
        status, _, body = await guard.call({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
        assert (status, json.loads(body)["error"]["code"], json.loads(body)["id"]) == (200, -32602, 7)
    assert guard.upstream.journal == []


async def test_a_session_belongs_to_the_principal_that_opened_it() -> None:
    handler = Permissive()
    async with stage(handler, Upstream(plain(headers=b"Mcp-Session-Id: s1\r\n"))) as guard:
        _, head, _ = await guard.call(INITIALIZE)
        assert b"mcp-session-id: s1" in head
        assert (await guard.call(CALL, "Mcp-Session-Id: s1"))[0] == 200
        served = len(guard.upstream.journal)
        assert (await guard.call(CALL, "Mcp-Session-Id: s1", key="KEY-b"))[0] == 404
        assert (await guard.call(CALL, "Mcp-Session-Id: s2"))[0] == 404
        for method in ("GET", "DELETE"):
            foreign = guard.request(b"", "Mcp-Session-Id: s1", method=method, key="KEY-b")
            assert (await guard.send(foreign))[0] == 404
        assert len(guard.upstream.journal) == served
        assert (await guard.send(guard.request(b"", "Mcp-Session-Id: s1", method="DELETE")))[0] == 200
        assert guard.sessions.owners == {}
        assert (await guard.call(CALL, "Mcp-Session-Id: s1"))[0] == 404


async def test_a_session_id_that_is_somebody_elses_is_not_handed_out_again() -> None:
    async with stage(Permissive(), Upstream(plain(headers=b"Mcp-Session-Id: s1\r\n"))) as guard:
        assert b"mcp-session-id" in (await guard.call(INITIALIZE))[1]
        assert b"mcp-session-id" not in (await guard.call(INITIALIZE, key="KEY-b"))[1]
        assert guard.sessions.owners == {("pay", "s1"): "a"}


async def test_the_event_stream_of_a_session_is_relayed_and_ends_with_the_guard() -> None:
    upstream = Upstream(stream)
    async with stage(Permissive(), upstream) as guard:
        guard.sessions.bind("pay", "s1", "a", 0.0)
        reader, writer = await asyncio.open_connection("127.0.0.1", guard.port)
        writer.write(guard.request(b"", "Mcp-Session-Id: s1", "Last-Event-ID: 9", method="GET"))
        await reader.readuntil(b": alive")
        assert b"last-event-id: 9" in upstream.journal[0][0]
        guard.front.stop()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"0\r\n\r\n")
        writer.close()
        upstream.go_on.set()
        assert (await guard.call())[0] == 503


async def test_a_stopped_server_exits_at_once_although_a_call_is_held() -> None:
    handler = Holding()
    async with stage(handler) as guard:
        _, writer = await asyncio.open_connection("127.0.0.1", guard.port)
        writer.write(guard.request(json.dumps(CALL).encode()))
        await asyncio.wait_for(handler.held.wait(), 15)
        guard.stop()
        await asyncio.wait_for(guard.serving, PROMPT)
        writer.close()
    assert guard.upstream.connections == 0


async def test_an_unanswered_message_gets_an_error_and_never_silence() -> None:
    class Silent(Permissive):
        async def handle(self, arrival: Arrival, exchange: Exchange) -> None:
            """Return without a word."""

    async with stage(Silent()) as guard:
        status, _, body = await guard.call()
        assert (status, "error" in json.loads(body)) == (500, True)


LISTEN = {
    "jsonrpc": "2.0",
    "id": 8,
    "method": "subscriptions/listen",
    "params": {"_meta": {VERSION_KEY: "2026-07-28", CAPABILITIES_KEY: {}}, "notifications": {}},
}


@pytest.mark.parametrize("how", ["GET", "subscriptions/listen"])
async def test_an_event_stream_ends_with_the_key_it_was_opened_with_and_no_other_does(how: str) -> None:
    async def respond(upstream: Upstream, _head: bytes, _body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"9\r\n: alive\n\n\r\n")
        await upstream.go_on.wait()

    upstream = Upstream(respond)
    async with stage(Permissive(), upstream) as guard:
        streams = {}
        for name in ("a", "b"):
            reader, writer = await asyncio.open_connection("127.0.0.1", guard.port)
            if how == "GET":
                writer.write(guard.request(b"", method="GET", key=f"KEY-{name}"))
            else:
                headers = ("MCP-Protocol-Version: 2026-07-28", "Mcp-Method: subscriptions/listen")
                writer.write(guard.request(json.dumps(LISTEN).encode(), *headers, key=f"KEY-{name}"))
            await reader.readuntil(b": alive\n\n\r\n")
            streams[name] = reader, writer
        await guard.front.recheck()
        guard.keys.revoked.add("KEY-a")
        await guard.front.recheck()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await streams["a"][0].readexactly(1)
        assert not streams["b"][0].at_eof()
        upstream.go_on.set()
        for _, writer in streams.values():
            writer.close()

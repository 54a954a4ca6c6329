"""One tool server's trouble stays its own; certificates are verified; the guard describes itself, not the server."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from guard.config import Proxy, Server, load
from guard.errors import ConfigError, UpstreamError
from guard.proxy.metadata import Metadata
from guard.proxy.upstream import Upstreams
from guard.reasons import Code
from guard.wire import reply
from tests.guards import PROMPT, Serving
from tests.integration.test_http_front import CALL, INITIALIZE, Permissive, Upstream, plain, stage
from tests.integration.test_tls import certificate
from tests.world import World, free_port, until

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
POISON = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "an endless head": b"HTTP/1.1 200 OK\r\n" + b"X-Y: " + b"a" * 200_000,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
    "not JSON": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\xff\xfe{[",
    "deep JSON": b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"[" * 20_000,
}


@pytest.fixture
def anyio_backend() -> str:
    """uvicorn is asyncio."""
    return "asyncio"


@asynccontextmanager
async def answering(answer: bytes, tls: ssl.SSLContext | None = None, *, more: bool = False) -> AsyncIterator[int]:
    """A port where every request gets these bytes; the connection then ends, or with `more` stays open."""
    stop = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if more:
                await stop.wait()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        stop.set()
        listening.close()


async def fetch(upstreams: Upstreams, server: str) -> bytes:
    async with await upstreams.send(server=server, subject="a", method="POST", lines=b"", body=b"{}") as answer:
        return await answer.chunk()


# ------------------------------------------------------------------ certificates


def server_side(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(folder))
    return context


async def test_a_certificate_nobody_vouches_for_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async with answering(OK, server_side(tmp_path)) as port:
        upstreams = Upstreams({"s": Server(url=f"https://127.0.0.1:{port}/mcp")})
        with pytest.raises(UpstreamError) as caught:
            await fetch(upstreams, "s")
        assert not caught.value.sent
        assert "certificate verify failed" in caught.value.detail.lower()


async def test_ca_file_vouches_for_its_own_certificates_by_the_right_name_only(tmp_path: Path) -> None:
    context = server_side(tmp_path)
    ca = tmp_path / "cert.pem"
    async with answering(OK, context) as port:
        upstreams = Upstreams(
            {
                "right": Server(url=f"https://127.0.0.1:{port}/mcp", ca_file=ca),
                "wrong": Server(url=f"https://localhost:{port}/mcp", ca_file=ca),
                "other": Server(url=f"https://127.0.0.1:{port}/mcp"),
            }
        )
        assert await fetch(upstreams, "right") == b"{}"
        for refused in ("wrong", "other"):
            with pytest.raises(UpstreamError) as caught:
                await fetch(upstreams, refused)
            assert not caught.value.sent
        upstreams.close()


async def test_a_ca_file_that_holds_no_certificate_stops_the_start(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    for text in (None, "", "no certificate"):
        if text is not None:
            empty.write_text(text)
        with pytest.raises(ConfigError, match=r"servers\.s\.ca_file"):
            Upstreams({"s": Server(url="https://h/mcp", ca_file=empty)})
    with pytest.raises(ValueError, match="https"):
        Server(url="http://h/mcp", ca_file=empty)


# ------------------------------------------------------------------ one server's trouble


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
async def test_what_one_server_answers_never_harms_the_next_call_or_another_server(poison: bytes) -> None:
    async def respond(upstream: Upstream, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        if json.loads(body)["id"] == "bad":
            writer.write(poison)
            await writer.drain()
            writer.close()
        else:
            await plain()(upstream, head, body, writer)

    handler = Permissive()
    async with stage(handler, Upstream(respond)) as guard:
        with suppress(asyncio.IncompleteReadError, ConnectionError):  # a half answer is broken off, not completed
            await guard.call({**CALL, "id": "bad"})
        assert (await guard.call())[0] == 200
        assert (await guard.call(key="KEY-b"))[0] == 200


async def test_of_a_server_that_ends_between_head_and_body_the_caller_hears_words() -> None:
    async def respond(upstream: Upstream, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n")
        await writer.drain()
        writer.close()

    handler = Permissive()
    async with stage(handler, Upstream(respond)) as guard:
        status, _, body = await guard.call()
    assert (status, json.loads(body)["error"]["code"]) == (200, reply.REFUSED)
    [outcome] = handler.outcomes
    assert isinstance(outcome, UpstreamError)
    assert outcome.sent


@pytest.mark.parametrize("stage_of_hang", ["connecting", "answering", "pausing"])
async def test_a_server_that_hangs_is_left_in_time_at_every_stage(stage_of_hang: str) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    async with answering(answer if stage_of_hang == "pausing" else b"", more=True) as port:
        # A TLS handshake that the other side never takes part in hangs as connecting does.
        scheme = "https" if stage_of_hang == "connecting" else "http"
        limit = {"connecting": "connect_timeout", "answering": "answer_timeout", "pausing": "pause_timeout"}
        server = Server.model_validate({"url": f"{scheme}://127.0.0.1:{port}/mcp", limit[stage_of_hang]: 0.2})
        upstreams = Upstreams({"s": server})
        with pytest.raises(UpstreamError) as caught:
            await asyncio.wait_for(fetch(upstreams, "s"), PROMPT)
        assert caught.value.sent is (stage_of_hang != "connecting")
        upstreams.close()


async def test_an_event_stream_may_pause() -> None:
    async def slow(upstream: Upstream, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n")
        writer.write(b": alive\n\n")
        await writer.drain()
        await upstream.go_on.wait()
        writer.write(b"data: {}\n\n")
        await writer.drain()
        writer.close()

    async with stage(Permissive(), Upstream(slow), pause_timeout=0.05) as guard:
        reader, writer = await asyncio.open_connection("127.0.0.1", guard.port)
        writer.write(guard.request(json.dumps(CALL).encode()))
        await reader.readuntil(b": alive")
        asyncio.get_running_loop().call_later(0.3, guard.upstream.go_on.set)
        await reader.readuntil(b"data: {}")
        writer.close()


def post(guard: Serving, server: str, tool: str, arguments: dict[str, object]) -> http.client.HTTPConnection:
    """Ask, without waiting for the answer."""
    connection = guard.connect()
    message = {**CALL, "params": {"name": tool, "arguments": arguments}}
    connection.request("POST", f"/mcp/{server}", json.dumps(message), guard._headers(""))
    return connection


def test_a_hung_server_takes_none_of_the_places_of_another(tmp_path: Path) -> None:
    with World(tmp_path, more="[servers.hung]\nurl = 'http://127.0.0.1:9/mcp'\n") as world:
        url = str(world.serve().config.servers["web"].url)
        settings = world.file.read_text().replace("http://127.0.0.1:9/mcp", url)
        file = tmp_path / "few.toml"
        ports = {str(load(world.file).proxy.port): free_port(), str(load(world.file).console.port): free_port()}
        for old, new in ports.items():
            settings = settings.replace(old, str(new))
        file.write_text(settings.replace("hold =", "max_in_flight = 2\nhold ="))
        world.write_policy("hung", text="server: hung\nowner: t\ntools: {slow: {sensitivity: public}}\n")
        guard = world.serve(file=file)
        with ExitStack() as open_calls:
            for _ in range(2):
                open_calls.enter_context(closing(post(guard, "hung", "slow", {"seconds": 30})))
            until(lambda: len(world.ran()) == 2, "both calls hang")
            with closing(post(guard, "hung", "slow", {"seconds": 0})) as refused:
                assert Code.OVERLOADED.meaning in refused.getresponse().read().decode()
            assert guard.call("note", {"n": 1}).ran


# ------------------------------------------------------------------ the guard's own metadata


async def test_a_401_leads_to_metadata_of_the_guards_own_on_first_contact_only() -> None:
    async with stage(Permissive(), Upstream(plain(headers=b"Mcp-Session-Id: s1\r\n"))) as guard:
        base = f"http://127.0.0.1:{guard.port}"
        where = f"{base}/.well-known/oauth-protected-resource/mcp/pay"
        for key in ("", "wrong"):
            status, head, _ = await guard.call(key=key)
            assert (status, f'resource_metadata="{where}"'.encode() in head) == (401, True)
        await guard.call(INITIALIZE)
        status, head, _ = await guard.call(CALL, "Mcp-Session-Id: s1", key="wrong")
        assert (status, b"resource_metadata" in head) == (401, False)

        path = where.removeprefix(base)
        status, _, body = await guard.send(guard.request(method="GET", target=path, key=""))
        assert (status, json.loads(body)["resource"]) == (200, f"{base}/mcp/pay")
        assert len(guard.upstream.journal) == 1
        assert (await guard.send(guard.request(method="DELETE", target=path, key="")))[0] == 405
        for other in (path + "/", path[:-3] + "none", path[:-3] + "local", "/.well-known/oauth-protected-resource"):
            assert (await guard.send(guard.request(method="GET", target=other, key="")))[0] == 404
        rebound = guard.request(b"", "Host: evil.example", method="GET", target=path, key="")
        assert (await guard.send(rebound))[0] == 421


def test_behind_a_tls_proxy_the_metadata_says_the_public_url() -> None:
    metadata = Metadata(Proxy(public_url="https://guard.example/"), ["pay"])
    assert json.loads(metadata.document("pay", "127.0.0.1:7000"))["resource"] == "https://guard.example/mcp/pay"

"""An event stream that ends without the answer: the caller is told, and the ledger does not say that it went well."""

from __future__ import annotations

import asyncio
import json

import pytest

from guard.proxy import relay
from guard.proxy.exchange import Ending, Outcome
from tests.integration.test_http_front import CALL, RESULT, Permissive, Respond, Upstream, stage

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

PROGRESS = b'data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}\n\n'
ANSWER = b"data: " + RESULT + b"\n\n"


def streamed(*pieces: bytes, sized: bool = False) -> Respond:
    """A tool server that streams these pieces and ends the stream in order."""

    async def respond(upstream: Upstream, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        framing = b"Content-Length: %d" % sum(map(len, pieces)) if sized else b"Transfer-Encoding: chunked"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + framing + b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece if sized else b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"" if sized else b"0\r\n\r\n")

    return respond


def messages(body: bytes) -> list[dict[str, object]]:
    return [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: {")]


@pytest.mark.parametrize(
    "pieces",
    [(), (b": alive\n\n",), (PROGRESS,), (PROGRESS, PROGRESS), (PROGRESS[:40], PROGRESS[40:])],
    ids=["empty", "comment", "progress", "more progress", "progress in two pieces"],
)
async def test_a_stream_that_ends_without_the_answer_is_told_as_unknown(pieces: tuple[bytes, ...]) -> None:
    handler = Permissive()
    async with stage(handler, Upstream(streamed(*pieces))) as guard:
        status, _, body = await guard.call()
    assert status == 200
    *before, last = messages(body)
    assert len(before) == b"".join(pieces).count(b"data: ")
    assert last["id"] == CALL["id"]
    assert "perhaps executed" in json.dumps(last["result"])
    [outcome] = handler.outcomes
    assert isinstance(outcome, Outcome)
    assert outcome.ending is Ending.UNKNOWN


async def test_a_stream_of_known_length_without_the_answer_is_cut_off() -> None:
    handler = Permissive()
    async with stage(handler, Upstream(streamed(PROGRESS, sized=True))) as guard:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await guard.call()
    [outcome] = handler.outcomes
    assert isinstance(outcome, Outcome)
    assert outcome.ending is Ending.UNKNOWN


@pytest.mark.parametrize(
    "pieces",
    [
        (PROGRESS, ANSWER),
        (PROGRESS + ANSWER[:9], ANSWER[9:]),
        (ANSWER[:-1],),
        (ANSWER, b": bye\n\n"),
        (ANSWER, PROGRESS),
        (b'data: {"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"no"}}\r\n\r\n',),
        (b"data: {\ndata: " + RESULT[1:] + b"\n\n",),
        (b'data: {"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"' + b"x" * 300_000, b'"}]}}\n\n'),
        (b"id: 1\ndata: \n\n",),
        (PROGRESS, b"id: 2\n" + PROGRESS),
        (b"data: what is this\n\n",),
    ],
)
async def test_every_other_stream_is_relayed_as_it_came(pieces: tuple[bytes, ...]) -> None:
    async with stage(Permissive(), Upstream(streamed(*pieces))) as guard:
        assert (await guard.call())[2] == b"".join(pieces)


async def test_an_answer_without_end_is_cut_off_and_other_calls_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "ANSWER_LIMIT", 100_000)
    handler = Permissive()

    async def endless(upstream: Upstream, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"1000\r\n" + b" " * 4096 + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)

    upstream = Upstream(endless)
    async with stage(handler, upstream) as guard:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError, ValueError)):
            await guard.call()
        upstream.respond = streamed(ANSWER)
        assert (await guard.call())[0] == 200
    assert isinstance(handler.outcomes[0], Outcome)
    assert handler.outcomes[0].ending is Ending.UNKNOWN

"""A list of tools reaches no agent past the guard, in whatever form and on whichever answer it comes."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from guard.errors import UpstreamError
from tests.integration.test_http_front import CALL, Permissive, Respond, Upstream, plain, stage

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

ASKED = {"jsonrpc": "2.0", "id": 3, "method": "tools/list"}
LIST = b'{"jsonrpc":"2.0","id":3,"result":{"tools":[{"name":"echo","description":"and sends it elsewhere"}]}}'
EVENT = b"id: 5\ndata: " + LIST + b"\n\n"


def streamed(*pieces: bytes) -> Respond:
    """A tool server that streams these pieces."""

    async def respond(_upstream: Upstream, _head: bytes, _body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (*pieces, b""):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    return respond


@pytest.mark.parametrize(
    "respond",
    [
        plain(LIST, kind=b"application/json; x=text/event-stream"),
        plain(EVENT, kind=b"application/json, text/event-stream"),
        plain(LIST, headers=b"Content-Type: text/event-stream\r\n"),
        plain(gzip.compress(EVENT), kind=b"text/event-stream", headers=b"Content-Encoding: gzip\r\n"),
    ],
    ids=["two types", "two types in one header", "two headers", "compressed"],
)
async def test_an_answer_that_clients_read_in_different_ways_is_not_relayed(respond: Respond) -> None:
    handler = Permissive()
    async with stage(handler, Upstream(respond)) as guard:
        _, _, body = await guard.call(ASKED)
    assert "error" in json.loads(body)
    [error] = handler.outcomes
    assert isinstance(error, UpstreamError)
    assert error.sent


async def test_a_list_that_comes_after_the_stream_was_taken_up_again_is_observed() -> None:
    async def respond(upstream: Upstream, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        first = head.startswith(b"POST")
        await streamed(b"id: 4\ndata: \n\n" if first else EVENT)(upstream, head, body, writer)

    async with stage(Permissive(), Upstream(respond)) as guard:
        await guard.call(ASKED)
        assert not guard.observed
        _, _, body = await guard.send(guard.request(b"", "Last-Event-ID: 4", method="GET"))
        assert LIST in body
        assert guard.observed == [("pay", LIST)]


async def test_a_list_on_the_stream_that_answers_another_request_is_observed() -> None:
    answer = b'data: {"jsonrpc":"2.0","id":7,"result":{"content":[]}}\n\n'
    spelled = LIST.replace(b'"tools"', b'"\\u0074ools"')
    async with stage(
        Permissive(), Upstream(streamed(EVENT, b"data: ping\n\ndata: " + spelled + b"\n\n", answer))
    ) as guard:
        await guard.call(CALL)
        assert guard.observed == [("pay", LIST), ("pay", spelled)]

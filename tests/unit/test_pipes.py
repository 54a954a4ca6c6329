from __future__ import annotations

import os
from collections.abc import Sequence

import anyio
import pytest
from anyio.abc import ByteReceiveStream
from hypothesis import given
from hypothesis import strategies as st

from guard.proxy.pipes import Flaw, Line, Lines, PipeReader, PipeWriter

LIMIT = 16


class Dribble(ByteReceiveStream):
    """A stream that comes in these pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self._pieces:
            raise anyio.EndOfStream
        piece = self._pieces.pop(0)
        if len(piece) > max_bytes:
            self._pieces.insert(0, piece[max_bytes:])
        return piece[:max_bytes]

    async def aclose(self) -> None:
        self._pieces.clear()


async def all_lines(pieces: Sequence[bytes], limit: int = LIMIT) -> list[Line]:
    lines, found = Lines(Dribble(pieces), limit), []
    while (line := await lines.next()) is not None:
        found.append(line)
    return found


@given(st.lists(st.text("ab\n", max_size=40).map(str.encode), max_size=12))
def test_lines_are_those_of_the_whole_input_however_it_is_cut(pieces: list[bytes]) -> None:
    *whole, rest = b"".join(pieces).split(b"\n")
    expected = [Line(raw, None if len(raw) <= LIMIT else Flaw.TOO_LONG) for raw in whole]
    if rest:
        expected.append(Line(rest, Flaw.UNFINISHED if len(rest) <= LIMIT else Flaw.TOO_LONG))
    found = anyio.run(all_lines, pieces)
    assert [(line.flaw, line.raw if line.flaw is None else b"") for line in found] == [
        (line.flaw, line.raw if line.flaw is None else b"") for line in expected
    ]


def test_the_line_after_one_that_is_too_long_is_read() -> None:
    found = anyio.run(all_lines, [b"x" * 100, b"x" * 100, b"yy\nnext\n"])
    assert [(line.flaw, line.raw[:4]) for line in found] == [(Flaw.TOO_LONG, b"xxxx"), (None, b"next")]


@pytest.mark.anyio
async def test_a_pipe_carries_more_than_it_holds() -> None:
    read, write = os.pipe()
    data, received = os.urandom(1 << 20), bytearray()
    async with PipeReader(read) as reader, anyio.create_task_group() as group:
        writer = PipeWriter(write)

        async def send() -> None:
            async with writer:
                await writer.send(data)

        group.start_soon(send)
        async for chunk in reader:
            received += chunk
    assert received == data
    assert writer.written == len(data)


@pytest.mark.anyio
async def test_writing_to_nobody_breaks_and_tells_that_nothing_was_taken() -> None:
    read, write = os.pipe()
    os.close(read)
    async with PipeWriter(write) as writer:
        with pytest.raises(anyio.BrokenResourceError):
            await writer.send(b"x")
        assert writer.written == 0


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/dev/null", __file__])
async def test_files_no_system_can_wait_for_are_read_to_their_end(path: str) -> None:
    received = b""
    async with PipeReader(os.open(path, os.O_RDONLY)) as reader:
        async for chunk in reader:
            received += chunk
    assert received == await anyio.Path(path).read_bytes() or path == "/dev/null"


@pytest.mark.anyio
async def test_bytes_that_come_while_nobody_reads_are_kept() -> None:
    read, write = os.pipe()
    async with PipeReader(read) as reader, PipeWriter(write) as writer:
        await writer.send(b"one")
        assert await reader.receive(1) == b"o"
        await anyio.wait_all_tasks_blocked()
        assert await reader.receive() == b"ne"
        with anyio.move_on_after(0):
            await reader.receive()
        await writer.send(b"two")
        assert await reader.receive() == b"two"


@pytest.mark.anyio
async def test_only_one_may_read_at_a_time() -> None:
    read, write = os.pipe()
    async with PipeReader(read) as reader, PipeWriter(write) as writer, anyio.create_task_group() as group:
        group.start_soon(reader.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await reader.receive()
        await writer.send(b"x")


@pytest.mark.anyio
async def test_closing_ends_the_wait_of_who_reads() -> None:
    read, write = os.pipe()
    reader = PipeReader(read)
    async with PipeWriter(write), anyio.create_task_group() as group:

        async def wait() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await reader.receive()

        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await reader.aclose()


@pytest.mark.anyio
async def test_a_closed_end_says_so() -> None:
    read, write = os.pipe()
    reader, writer = PipeReader(read), PipeWriter(write)
    await reader.aclose()
    await writer.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await reader.receive()
    with pytest.raises(anyio.ClosedResourceError):
        await writer.send(b"x")

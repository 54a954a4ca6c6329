"""How an answer leaves the HTTP front."""

from __future__ import annotations

import asyncio

import pytest

from guard.proxy.listener import _Joined


class Recording(asyncio.Transport):
    """The writing half of a transport, kept."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return b"closed" in self.sent

    def close(self) -> None:
        self.sent.append(b"closed")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


pytestmark = pytest.mark.anyio


async def test_an_answer_leaves_in_one_write() -> None:
    transport = Recording()
    joined = _Joined(transport, asyncio.get_running_loop())
    joined.write(b"head ")
    joined.write(b"body")
    await asyncio.sleep(0)
    assert transport.sent == [b"head body"]


async def test_a_head_does_not_wait_for_a_body_that_takes_its_time() -> None:
    transport = Recording()
    joined = _Joined(transport, asyncio.get_running_loop())
    joined.write(b"head")
    await asyncio.sleep(0)
    joined.write(b"event")
    assert transport.sent == [b"head", b"event"]


async def test_a_head_without_a_body_leaves_before_the_connection_closes() -> None:
    transport = Recording()
    joined = _Joined(transport, asyncio.get_running_loop())
    joined.write(b"head")
    joined.close()
    await asyncio.sleep(0)
    assert transport.sent == [b"head", b"closed"]

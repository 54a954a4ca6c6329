"""What is kept of event streams that broke off, and for how long."""

from __future__ import annotations

import pytest

from guard.proxy import resumption
from guard.proxy.resumption import LARGEST, SHARE, STREAMS, Resumable, Resumption
from guard.wire.message import Request

pytestmark = pytest.mark.anyio
WHERE = ("desk", "s1")


class Connection:
    """A caller that can be hung up on."""

    def __init__(self) -> None:
        self.gone = False

    def hang_up(self) -> None:
        self.gone = True


def request(identity: str | int = 7) -> Request:
    return Request(raw=b"{}", id=identity, method="tools/call", params={})


def ended(kept: Resumption, said: bytes, *, subject: str = "robot") -> tuple[Resumable, bytes]:
    """A stream that said one thing; the id of its first event."""
    stream = kept.begin(subject, WHERE, Connection(), request())
    first = stream.primer.split(b"\n")[0][4:]
    stream.mark(said)
    stream.end()
    return stream, first


async def test_one_principal_never_pushes_out_what_is_kept_for_another() -> None:
    kept = Resumption()
    _, mine = ended(kept, b"mine", subject="robot")
    for _ in range(2 * STREAMS):
        ended(kept, b"x" * (SHARE // 16), subject="greedy")
    assert kept.find("robot", WHERE, mine) is not None
    assert kept.find("greedy", WHERE, mine) is None


async def test_what_is_kept_stays_within_the_share_and_the_oldest_goes_first() -> None:
    kept = Resumption()
    made = [ended(kept, b"x" * (SHARE // 8)) for _ in range(12)]
    found = [kept.find("robot", WHERE, first) is not None for _, first in made]
    assert found == sorted(found)
    assert 0 < found.count(True) <= 8


async def test_a_stream_that_goes_on_and_on_keeps_its_newest_events() -> None:
    kept = Resumption()
    stream = kept.begin("robot", WHERE, Connection(), request())
    for number in range(64):
        stream.mark(b"%d" % number + b"x" * (SHARE // 16))
    assert stream.size <= SHARE
    assert b"-64\n63x" in stream.after(0)


async def test_an_answer_too_large_to_be_kept_is_said_once_and_then_told_as_lost() -> None:
    kept = Resumption()
    stream = kept.begin("robot", WHERE, Connection(), request("a"))
    said = stream.mark(b"x" * (LARGEST + 1))
    assert said.endswith(b"x")
    assert b"the outcome is unknown" in stream.after(0)
    assert b'"id":"a"' in stream.after(0).replace(b" ", b"")


async def test_what_was_kept_long_enough_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Resumption()
    _, first = ended(kept, b"x")
    monkeypatch.setattr(resumption, "SECONDS", -1.0)
    kept.tidy()
    assert kept.find("robot", WHERE, first) is None


async def test_a_stream_under_way_is_never_dropped() -> None:
    kept = Resumption()
    stream = kept.begin("robot", WHERE, Connection(), request())
    first = stream.primer.split(b"\n")[0][4:]
    for _ in range(2 * STREAMS):
        ended(kept, b"x" * (SHARE // 16))
    assert kept.find("robot", WHERE, first) is not None


async def test_an_ended_session_leaves_nothing() -> None:
    kept = Resumption()
    _, first = ended(kept, b"x")
    kept.forget("robot", WHERE)
    assert kept.find("robot", WHERE, first) is None


@pytest.mark.parametrize("last", [b"", b"x", b"c0-1", b"c0123456789abcdef-1", b"s0123456789abcdef-1", b"c" * 9000])
async def test_an_id_that_names_no_request_is_not_answered(last: bytes) -> None:
    assert resumption.lost(last) is None

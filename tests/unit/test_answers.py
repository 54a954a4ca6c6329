from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.proxy.answers import Answer, Notice, Question, read, unbroken
from guard.proxy.exchange import Ending

VALUES: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
IDS = st.text(max_size=20) | st.integers()


def text(members: list[tuple[str, object]], space: str = "") -> bytes:
    """JSON with its members in this order, duplicates and all."""
    inside = f",{space}".join(f"{json.dumps(name)}{space}:{space}{json.dumps(value)}" for name, value in members)
    return f"{space}{{{space}{inside}{space}}}{space}".encode()


@given(IDS, VALUES, st.permutations(range(3)), st.sampled_from(["", " ", "\r", "\t  "]))
def test_the_answer_is_read_whatever_the_order_and_the_spaces(
    message_id: str | int, result: object, order: list[int], space: str
) -> None:
    members = [("jsonrpc", "2.0"), ("id", message_id), ("result", result)]
    failed = isinstance(result, dict) and result.get("isError") is True
    expected = Answer(message_id, Ending.TOOL_ERROR if failed else Ending.OK, result=True)
    assert read(text([members[place] for place in order], space)) == expected


@given(IDS, st.sampled_from(["id", "result", "jsonrpc"]), VALUES)
def test_a_member_that_comes_twice_makes_a_line_void(message_id: str | int, name: str, value: object) -> None:
    members = [("jsonrpc", "2.0"), ("id", message_id), ("result", {}), (name, value)]
    with pytest.raises(ValueError, match="twice"):
        read(text(members))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_other_bytes_are_void_and_nothing_worse(line: bytes) -> None:
    with pytest.raises(ValueError):
        read(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","\\u0069d":1,"result":{}}',
        b'{"jsonrpc":"2.0","Id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":true,"result":{}}',
        b'{"jsonrpc":"2.0","id":1.0,"result":{}}',
        b'{"jsonrpc":"2.0","result":{}}',
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{}',
        b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 100_000,
        b'{"jsonrpc":"2.0","id":' + b"1" * 5_000 + b',"result":{}}',
    ],
)
def test_a_line_that_two_readers_may_read_differently_is_void(line: bytes) -> None:
    with pytest.raises(ValueError):
        read(line)


def test_questions_notices_and_errors_are_told_apart() -> None:
    assert read(b'{"jsonrpc":"2.0","id":"q","method":"ping"}') == Question("q")
    assert read(b'{"jsonrpc":"2.0","method":"notifications/progress","params":{}}') == Notice()
    error = read(b'{"jsonrpc":"2.0","id":3,"error":{"code":-32601,"message":""}}')
    assert error == Answer(3, Ending.UPSTREAM_ERROR, result=False)


@given(IDS, st.text(st.sampled_from('a"\\\r\n\u0085\u2028\u2029\U0001f600')), st.sampled_from(["", "\r", " \r\t"]))
def test_an_answer_without_line_breaks_says_the_same(message_id: str | int, said: str, space: str) -> None:
    line = f'{{{space}"id":{json.dumps(message_id)},{space}"result":{json.dumps(said, ensure_ascii=False)}}}{space}'
    whole = unbroken(line.encode()).decode()
    assert whole.splitlines() == [whole]
    assert json.loads(whole) == json.loads(line)

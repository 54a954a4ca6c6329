"""Exchanging one value in a JSON text leaves every other byte alone."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.proxy.spans import exchanged, taken

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(members=st.dictionaries(st.text(max_size=6), VALUES, max_size=5), name=st.text(max_size=6), value=VALUES)
def test_only_the_named_value_changes(members: dict[str, object], name: str, value: object) -> None:
    for indent in (None, 2):
        raw = json.dumps(members | {name: value}, indent=indent).encode()
        assert json.loads(taken(raw, name)) == value
        assert json.loads(exchanged(raw, ((name,), b'"new"'))) == members | {name: "new"}
        assert exchanged(raw, ((name,), taken(raw, name))) == raw


@pytest.mark.parametrize(
    ("raw", "path", "found"),
    [
        (b'{"a":{"id":2},"id":1}', ("id",), b"1"),
        (b'{"\\u0069d" : 1.50 , "b":2}', ("id",), b"1.50"),
        ('{"é":"ü","id":"x"}'.encode(), ("id",), b'"x"'),
        (b'{"params":{"_meta":{"t":[1]}}}', ("params", "_meta", "t"), b"[1]"),
        (b'{"params":[1]}', ("params", "_meta"), b""),
        (b"{ }", ("id",), b""),
        (b"[]", ("id",), b""),
    ],
)
def test_values_are_found_however_they_are_spelled(raw: bytes, path: tuple[str, ...], found: bytes) -> None:
    assert taken(raw, *path) == found


def test_several_places_are_exchanged_at_once_and_missing_ones_stay_absent() -> None:
    raw = b'{"params":{"x":1,"y":2},"id":3}'
    changes = ((("id",), b"30"), (("params", "y"), b"20"), (("params", "z"), b"0"))
    assert exchanged(raw, *changes) == b'{"params":{"x":1,"y":20},"id":30}'

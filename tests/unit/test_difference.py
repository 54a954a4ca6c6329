"""What differs between two calls, field by field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.stepup.difference import FIELDS, difference
from guard.wire.canonical import canonical

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab.[", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab.[0]"', max_size=3), inner, max_size=3),
    max_leaves=8,
)
_arguments = st.dictionaries(st.text("ab.", max_size=2), _values, max_size=4)


@pytest.mark.parametrize(
    ("before", "now", "fields"),
    [
        ({"a": 1}, {"a": 2}, [("a", "changed", "1", "2")]),
        ({"a": 1}, {"a": "1"}, [("a", "changed", "1", '"1"')]),
        ({"a": 1}, {}, [("(all)", "added", "", "{}"), ("a", "left out", "1", "")]),
        ({"a": 1}, {"a": 1, "b": None}, [("b", "added", "", "null")]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, [("a.b[1]", "changed", "2", "3")]),
        ({"a": {}}, {"a": []}, [("a", "changed", "{}", "[]")]),
        ({"a.b": 1, "c": 0}, {"a": {"b": 1}, "c": 0}, [('"a.b"', "left out", "1", ""), ("a.b", "added", "", "1")]),
    ],
)
def test_a_field_is_told_with_its_place_and_both_values(
    before: dict[str, Any], now: dict[str, Any], fields: list[tuple[str, ...]]
) -> None:
    found = difference(canonical(before), canonical(now))
    assert [(one.path, one.change, one.before, one.now) for one in found.fields] == fields


@given(_arguments, _arguments)
def test_calls_differ_in_some_field_exactly_when_their_texts_differ(
    before: dict[str, Any], now: dict[str, Any]
) -> None:
    texts = canonical(before), canonical(now)
    found = difference(*texts)
    assert bool(found.fields) == (texts[0] != texts[1])
    assert len({one.path for one in found.fields}) == len(found.fields)


def test_more_fields_than_are_told_are_counted() -> None:
    found = difference("{}", canonical({f"k{number}": number for number in range(FIELDS + 7)}))
    assert (len(found.fields), found.more, found.same) == (FIELDS, 8, 0)

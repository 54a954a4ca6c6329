"""Documents from outside have exactly the form that is asked for, in every member."""

from __future__ import annotations

import pytest

from guard.stepup.shape import boolean, exactly, members, text, texts, whole


@pytest.mark.parametrize(
    ("value", "fits"),
    [("ab", True), ("a", True), ("", False), ("abc", False), ("ab\n", False), (7, False), (None, False)],
)
def test_a_text_matches_as_a_whole(value: object, fits: bool) -> None:
    assert text(r"[ab]{1,2}")(value) is fits


def test_a_text_may_have_lines_where_its_pattern_takes_any_character() -> None:
    assert text(r".{1,3}")("a\nb")


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ([], True),
        (["a"], True),
        (["a"] * 64, True),
        (["a"] * 65, False),
        (["a", "c"], False),
        (["a", 1], False),
        (("a",), False),
        ("a", False),
    ],
)
def test_a_list_holds_at_most_64_such_texts_and_nothing_else(value: object, fits: bool) -> None:
    assert texts(r"[ab]")(value) is fits


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({"a": True, "n": 1}, True),
        ({"n": 1, "a": False}, True),
        ({"a": True}, False),
        ({"a": True, "n": 1, "more": 1}, False),
        ({"a": 1, "n": 1}, False),
        ({"a": True, "n": -1}, False),
        ([("a", True), ("n", 1)], False),
        (None, False),
    ],
)
def test_an_object_has_exactly_the_members_each_of_its_form(value: object, fits: bool) -> None:
    assert members({"a": boolean, "n": whole})(value) is fits


@pytest.mark.parametrize(
    ("value", "fits"),
    [(0, True), (2**53 - 1, True), (2**53, False), (-1, False), (1.0, False), (True, False), ("1", False)],
)
def test_a_number_is_whole_not_negative_and_exact_everywhere(value: object, fits: bool) -> None:
    assert whole(value) is fits


@pytest.mark.parametrize(("value", "fits"), [(1, True), (2, False), (True, False), (1.0, False), ("1", False)])
def test_a_version_is_that_number_and_nothing_that_equals_it(value: object, fits: bool) -> None:
    assert exactly(1)(value) is fits

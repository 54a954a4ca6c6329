"""A changed tool definition is told in the words that changed, with enough around them to be found."""

from __future__ import annotations

import json

import pytest

from guard.stepup.wording import MEMBERS, wording

NINE = "one two three four five six seven eight nine"


def change(before: object, now: object) -> tuple[str, ...]:
    return wording(json.dumps(before), json.dumps(now))


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ("push a branch", "push any branch", "push [-a-] {+any+} branch"),
        ("push", "push now", "push {+now+}"),
        ("push now", "push", "push [-now-]"),
        ("a b", "c d", "[-a b-] {+c d+}"),
        ("a  b", "a b", "only blanks differ"),
        (f"{NINE} old", f"{NINE} new", "... six seven eight nine [-old-] {+new+}"),
        (f"old {NINE}", f"new {NINE}", "[-old-] {+new+} one two three four ..."),
        (f"old {NINE} x", f"new {NINE} y", "[-old-] {+new+} one two three four ... six seven eight nine [-x-] {+y+}"),
        ("old 1 2 3 4 5 6 7 8 x", "new 1 2 3 4 5 6 7 8 y", "[-old-] {+new+} 1 2 3 4 5 6 7 8 [-x-] {+y+}"),
    ],
)
def test_words_that_went_and_came_stand_in_their_place(was: str, now: str, told: str) -> None:
    assert change({"d": was}, {"d": now}) == (f"d: {told}",)


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ({"a": {"b c": 1}}, {"a": {"b c": 2}}, 'a."b c": [-1-] {+2+}'),
        ({"a": {"$ref-1": 1}}, {"a": {"$ref-1": 2}}, "a.$ref-1: [-1-] {+2+}"),
        ({"größe.ä": 1}, {"größe.ä": 2}, '"größe.ä": [-1-] {+2+}'),
        ({"a": True, "b": 1}, {"b": 1}, "a: [-true-]"),
        ({"b": 1}, {"a": "", "b": 1}, "a: {++}"),
        ({"a": {}}, {"a": []}, "a: [-{}-] {+[]+}"),
        ({"a": 1}, {"a": "1"}, "a: of another type"),
        ({"a": ["x", "ü"]}, {"a": ["x", "y"]}, 'a: ["x", [-"ü"]-] {+"y"]+}'),
        ("old", "new", "(all): [-old-] {+new+}"),
        (1, 2, "(all): [-1-] {+2+}"),
    ],
)
def test_a_member_is_named_by_its_path(was: object, now: object, told: str) -> None:
    assert change(was, now) == (told,)


@pytest.mark.parametrize(("was", "now"), [("a  b", "a b"), ("a b", "a b "), ("", " "), ("a\nb", "a b")])
def test_a_change_of_blanks_alone_is_called_one(was: str, now: str) -> None:
    assert change({"d": was}, {"d": now}) == ("d: only blanks differ",)


def test_without_both_texts_there_is_nothing_to_tell() -> None:
    assert wording("", "{}") == wording("{}", "") == wording("{}", "{}") == ()


def test_what_is_long_is_cut_and_said_to_be() -> None:
    [line] = change({"b": 1}, {"a": "x" * 2_001, "b": 1})
    assert line == "a: {+" + "x" * 2_000 + "...+}"
    [line] = change({"b": 1}, {"a": "x" * 2_000, "b": 1})
    assert line == "a: {+" + "x" * 2_000 + "+}"
    [line] = change({"a": "x " * 400 + "y"}, {"a": "x " * 400 + "z"})
    assert line == "a: [-" + "x " * 400 + "y-] {+" + "x " * 400 + "z+}"
    [line] = change({"a": "x " * 399 + "y"}, {"a": "x " * 399 + "z"})
    assert line == "a: ... x x x x [-y-] {+z+}"


def test_exactly_as_many_members_as_are_told_one_by_one_leave_none_to_count() -> None:
    many = {f"m{number:03}": number for number in range(MEMBERS)}
    assert len(change({"z": 0}, {"z": 0} | many)) == MEMBERS
    more = change({"z": 0}, {"z": 0} | many | {"n": 1, "o": 2})
    assert len(more) == MEMBERS + 1
    assert more[-1] == "and 2 more members"


def test_a_word_that_repeats_often_is_still_compared() -> None:
    [line] = change({"d": "x " + "a " * 250}, {"d": "a " * 250 + "y"})
    assert line == "d: [-x-] a a a a ... {+y+}"


def test_the_order_of_members_within_a_list_is_no_difference() -> None:
    assert change({"a": [{"x": 1, "y": 2}]}, {"a": [{"y": 2, "x": 1}]}) == ()


def nested(value: object, depth: int) -> object:
    for _ in range(depth):
        value = {"a": value}
    return value


def test_what_lies_deeper_than_24_members_is_told_as_one() -> None:
    path = ".".join("a" * 24)
    assert change(nested(1, 24), nested(2, 24)) == (f"{path}: [-1-] {{+2+}}",)
    assert change(nested(1, 25), nested(2, 25)) == (f'{path}: {{"a": [-1}}-] {{+2}}+}}',)

"""What the page of a challenge shows of a call: nothing hidden, and nothing left out without saying so."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.people import Precedent
from guard.stepup.view import facts, render
from guard.stepup.visible import visible
from guard.web.page import SHORT, marked, seen, show
from guard.wire.canonical import canonical
from tests.nouns import NOW, challenge

_texts = st.text(max_size=60) | st.text("<>&\"'\u202e\u0440⟨⟩ ", max_size=60)


def plain(markup: str) -> str:
    return html.unescape(re.sub(r"</?mark>", "", markup))


@given(_texts)
def test_text_becomes_html_that_says_the_same_and_holds_no_markup_but_marks(text: str) -> None:
    shown = str(marked(seen(text)))
    assert plain(shown) == seen(text)
    assert not re.search("<(?!/?mark>)", shown)
    assert shown.count("<mark>") == shown.count("</mark>") == len(re.findall("⟨[^⟩]*⟩", seen(text)))


@given(st.dictionaries(st.text("ab", max_size=3), _texts, max_size=5))
def test_a_whole_page_shows_every_character_of_the_arguments(arguments: dict[str, str]) -> None:
    call = challenge(arguments=canonical(arguments))
    shown = show(call, None, whole=True)
    assert shown.whole
    squeezed = re.sub(r"\s", "", plain(shown.arguments))
    assert squeezed == re.sub(r"\s", "", seen(call.arguments))
    assert shown.view_digest == render(call).digest


def test_every_fact_of_the_view_is_on_the_page() -> None:
    call = challenge()
    shown = show(call, None, whole=False)
    for label, text in facts(call):
        assert visible(text) in [plain(one) for one in shown.facts[label]]


@pytest.mark.parametrize("text", ["x" * 60_000, "<" * 30_000, "\u202e" * 5_000, "a b " * 9_000])
def test_a_short_page_is_bounded_and_counts_what_it_leaves_out(text: str) -> None:
    call = challenge(arguments=canonical({"text": text, "z": "last"}))
    short, whole = (show(call, None, whole=one) for one in (False, True))
    assert len(short.arguments.encode()) <= SHORT
    assert not short.whole
    assert len(plain(short.arguments)) + short.left_out == short.size == len(plain(whole.arguments))
    assert "last" in whole.arguments


def test_long_blanks_are_counted_and_cannot_be_forged() -> None:
    shown = show(challenge(arguments=canonical({"a": "x" + " " * 500 + "rm", "b": "⟨500 spaces⟩"})), None, whole=True)
    assert str(shown.arguments).count("<mark>⟨500 spaces⟩</mark>") == 1
    assert "U+27E8" in shown.arguments


def precedent(arguments: object, **changes: object) -> Precedent:
    call = challenge()
    made = {
        "server": call.server,
        "kind": call.kind,
        "name": call.name,
        "approvers": "approvers",
        "principal": "other",
        "challenge": "c_" + "9" * 22,
        "digest": "9" * 64,
        "arguments": canonical(arguments),  # type: ignore[arg-type]  # JSON of a test
        "approved": NOW,
        "expires": NOW + 9,
    }
    return Precedent(**{**made, **changes})  # type: ignore[arg-type]  # each test changes fields by name


def test_of_long_values_only_what_differs_is_shown_and_the_rest_is_counted() -> None:
    before, now = "a" * 3000 + "X" + "b" * 3000, "a" * 3000 + "YY" + "b" * 3000
    call = challenge(arguments=canonical({"text": now}))
    shown = show(call, precedent({"text": before}), whole=False)
    assert shown.comparison is not None
    [field] = shown.comparison.fields
    assert re.fullmatch(r"… 2961 the same … a{40}Xb{40} … 2961 the same …", plain(field.before))
    assert "YY" in field.now


def test_a_call_is_not_compared_with_itself_nor_after_its_end() -> None:
    call = challenge()
    assert show(call, precedent({}, challenge=call.id), whole=False).comparison is None
    assert show(call, precedent({"amount": 12, "to": "ACME"}), whole=False).comparison is not None

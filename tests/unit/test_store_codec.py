"""What is written to a row comes back, and nothing else is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.model import (
    Band,
    Challenge,
    Demand,
    Doubt,
    Finding,
    Json,
    Principal,
    Proof,
    ProofClass,
    Requirement,
    Sensitivity,
    State,
)
from guard.reasons import Code, Reason
from guard.store.codec import decode, encode
from guard.store.strict import RowError, each, from_json, integer, number, text, to_json, truth
from guard.testing import example_challenge, satisfied

TIMES = st.floats(min_value=0, max_value=4e9)
WORDS = st.text(max_size=20)
REASONS = st.builds(Reason, code=st.sampled_from(Code), by=WORDS, evidence=WORDS)
FINDINGS = st.builds(
    Finding,
    signal=WORDS,
    cause=st.sampled_from(Doubt),
    band=st.sampled_from(Band),
    reason=REASONS,
    nats=st.floats(allow_nan=False, allow_infinity=False),
)
PROOFS = st.builds(
    Proof,
    proof_class=st.sampled_from(ProofClass),
    kind=WORDS,
    factor=WORDS,
    subject=WORDS,
    at=TIMES,
    attestation=st.integers(0, 3),
    view_digest=WORDS,
    note=WORDS,
    solo=st.booleans(),
)
CHALLENGES = st.builds(
    Challenge,
    id=WORDS,
    nonce=WORDS,
    principal=st.builds(Principal, subject=WORDS, credential=WORDS, owner=WORDS, on_behalf_of=WORDS),
    server=WORDS,
    method=WORDS,
    kind=WORDS,
    name=WORDS,
    arguments=WORDS,
    definition=WORDS,
    digest=WORDS,
    policy_revision=WORDS,
    rule=WORDS,
    sensitivity=st.sampled_from(Sensitivity),
    effects=st.frozensets(WORDS, max_size=3),
    requirement=st.builds(Requirement, st.frozensets(st.sampled_from(Demand)), WORDS, st.booleans()),
    reasons=st.lists(REASONS, max_size=3).map(tuple),
    findings=st.lists(FINDINGS, max_size=2).map(tuple),
    opened=TIMES,
    expires=TIMES,
    state=st.sampled_from(State),
    version=st.integers(0, 2**40),
    proofs=st.lists(PROOFS, max_size=2).map(tuple),
    decided=TIMES,
    ended_by=WORDS,
    ended_because=WORDS,
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@given(CHALLENGES)
def test_every_challenge_comes_back_as_it_went_in(challenge: Challenge) -> None:
    assert decode(encode(challenge), challenge.arguments) == challenge


def test_the_generated_challenges_use_every_field() -> None:
    """A field added to the model must reach the codec, and the test above must try it."""
    example = satisfied(example_challenge())
    blank = {
        field.name
        for field in fields(Challenge)
        if getattr(example, field.name) in ("", 0, (), frozenset()) and field.name != "version"
    }
    assert blank <= {"decided", "ended_by", "ended_because"}
    assert decode(encode(example), example.arguments) == example


@given(CHALLENGES)
def test_arguments_never_reach_the_row(challenge: Challenge) -> None:
    marked = replace(challenge, arguments="canary-5f1c")
    assert "canary-5f1c" not in repr(encode(marked))


def paths(value: Json, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a JSON value."""
    places = [here] if here else []
    if isinstance(value, dict):
        for name, inner in value.items():
            places += paths(inner, (*here, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            places += paths(inner, (*here, index))
    return places


BODY = encode(satisfied(example_challenge())).body
PLACES = paths(json.loads(BODY))


def changed(place: tuple[str | int, ...], change: Callable[[dict[str | int, Json], str | int], object]) -> str:
    """The body with one change at one place."""
    body = json.loads(BODY)
    holder = body
    for step in place[:-1]:
        holder = holder[step]
    change(holder, place[-1])
    return json.dumps(body)


def read(body: str) -> Challenge:
    challenge = satisfied(example_challenge())
    return decode(replace(encode(challenge), body=body), challenge.arguments)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_value_of_another_type_is_refused(place: tuple[str | int, ...]) -> None:
    def other(holder: dict[str | int, Json], name: str | int) -> None:
        holder[name] = {"unknown": 1} if not isinstance(holder[name], dict) else []

    with pytest.raises(RowError):
        read(changed(place, other))


@pytest.mark.parametrize(
    "place", [place for place in PLACES if isinstance(place[-1], str)], ids=lambda place: ".".join(map(str, place))
)
def test_a_missing_or_extra_member_is_refused(place: tuple[str | int, ...]) -> None:
    with pytest.raises(RowError, match="missing"):
        read(changed(place, lambda holder, name: holder.pop(name)))
    with pytest.raises(RowError, match="unknown"):
        read(changed(place, lambda holder, name: holder.update({f"{name}x": 1})))


@given(VALUES)
def test_reading_any_json_gives_a_challenge_or_a_row_error(value: Json) -> None:
    with pytest.raises(RowError):
        read(json.dumps(value))


@given(st.sampled_from(PLACES), VALUES)
def test_reading_a_spoiled_body_gives_a_challenge_or_a_row_error(place: tuple[str | int, ...], value: Json) -> None:
    def spoil(holder: dict[str | int, Json], name: str | int) -> None:
        holder[name] = value

    with suppress(RowError):
        assert isinstance(read(changed(place, spoil)), Challenge)


@given(st.text())
def test_reading_any_text_gives_json_or_a_row_error(source: str) -> None:
    with suppress(RowError):
        assert from_json(to_json(from_json(source))) == from_json(source)


@pytest.mark.parametrize("source", ["NaN", "[Infinity]", "-Infinity", "", "{", "[" * 100_000, "9" * 5000, "\ud800"])
def test_what_is_not_strict_json_is_refused(source: str) -> None:
    with pytest.raises(RowError):
        from_json(source)


@pytest.mark.parametrize(
    ("reader", "value"),
    [
        (number, True),
        (number, "1"),
        (number, 10**400),
        (number, float("inf")),
        (integer, True),
        (integer, 1.0),
        (truth, 1),
        (text, 1),
        (each(text), "abc"),
        (each(text), [1]),
        (each(text), {}),
    ],
)
def test_readers_do_not_coerce(reader: Callable[[Json], object], value: Json) -> None:
    with pytest.raises(RowError):
        reader(value)


def test_a_number_that_is_not_finite_is_never_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode(replace(example_challenge(), decided=float("nan")))


def test_an_unknown_state_is_refused() -> None:
    challenge = example_challenge()
    with pytest.raises(RowError, match="unknown word"):
        decode(replace(encode(challenge), state="granted"), challenge.arguments)

"""The choice of the pause ladder and the state a client carries between its rounds."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.config import AgentProfile
from guard.errors import WireError
from guard.model import Json
from guard.proxy import legs
from guard.proxy.ladder import (
    DROPPED,
    HOLD_LIMIT,
    LEG_SECONDS,
    ROUNDS,
    Leg,
    Manner,
    Rung,
    Said,
    choose,
    declared,
    manner,
    said,
)
from guard.reasons import Code
from guard.store.seal import Keyring
from guard.wire.canonical import canonical
from guard.wire.decode import decode
from guard.wire.era import Era
from guard.wire.message import Request
from tests.nouns import NOW, call

URL: Mapping[str, Json] = {"elicitation": {"form": {}, "url": {}}}
FORM: Mapping[str, Json] = {"elicitation": {}}
HOLDING = Manner(hold=3.0)
SEAL = Keyring(seal_key=b"s" * 32, digest_key=b"d" * 32)

manners = st.builds(
    Manner,
    hold=st.floats(0, 50),
    legs=st.none() | st.booleans(),
    elicitation=st.none() | st.booleans(),
    dropped=st.integers(0, 5),
)
capabilities = st.sampled_from([{}, FORM, URL, {"elicitation": True}, {"elicitation": {"url": 1}}, {"sampling": {}}])
methods = st.sampled_from(["tools/call", "prompts/get", "resources/read", "tasks/update", "completion/complete"])
rounds = st.builds(
    Leg,
    challenge=st.just("c_1"),
    round=st.integers(1, ROUNDS),
    asked=st.booleans(),
    said=st.sampled_from(Said),
)


def request(method: str = "tools/call", **params: Json) -> Request:
    return Request(1, method, {"name": "refund", "arguments": {"amount": 12, "to": "ACME"}, **params}, b"")


# ------------------------------------------------------------------ the choice


@given(method=methods, era=st.sampled_from(Era), told=capabilities, how=manners, leg=st.none() | rounds)
def test_no_client_is_asked_for_what_it_did_not_declare_on_this_call(
    method: str, era: Era, told: Mapping[str, Json], how: Manner, leg: Leg | None
) -> None:
    step = choose(request(method), era, told, how, leg)
    elicitation = told.get("elicitation")
    if step.rung in {Rung.LINK, Rung.ASK}:
        assert isinstance(elicitation, Mapping)
        assert isinstance(elicitation["url"], Mapping)
        assert how.elicitation is not False
        assert leg is None
    if step.rung is Rung.LEG:
        assert how.legs or isinstance(elicitation, Mapping)
    if step.rung in {Rung.LINK, Rung.LEG}:
        assert era is Era.MODERN
    if step.rung is Rung.ASK:
        assert era is Era.LEGACY
    if method in {"tasks/update", "completion/complete"}:
        assert step.rung is Rung.FLOOR
    assert 0 <= step.hold <= HOLD_LIMIT


@given(era=st.sampled_from(Era), told=capabilities, how=manners, answers=st.lists(st.sampled_from(Said), max_size=20))
def test_every_call_reaches_the_floor_within_nine_rounds(
    era: Era, told: Mapping[str, Json], how: Manner, answers: list[Said]
) -> None:
    leg, taken = None, 0
    for answer in [*answers, *[Said.NOTHING] * 20]:
        step = choose(request(), era, told, how, leg)
        if step.rung not in {Rung.LINK, Rung.LEG}:
            break
        taken += 1
        leg = Leg(challenge="c_1", round=taken, asked=step.rung is Rung.LINK, said=answer)
    assert taken <= ROUNDS


def test_nobody_at_the_client_means_the_floor_at_once() -> None:
    leg = Leg(challenge="c_1", round=1, asked=True, said=Said.NOBODY)
    assert choose(request(), Era.MODERN, URL, HOLDING, leg).rung is Rung.FLOOR
    assert choose(request(), Era.MODERN, URL, HOLDING, leg).hold == 0


def test_an_opened_page_is_waited_for_in_legs() -> None:
    leg = Leg(challenge="c_1", round=1, asked=True, said=Said.OPENED)
    step = choose(request(), Era.MODERN, URL, HOLDING, leg)
    assert (step.rung, step.hold) == (Rung.LEG, LEG_SECONDS)


def test_an_agent_that_forgets_questions_is_not_asked_unless_its_profile_says_so() -> None:
    forgetful = Manner(hold=3.0, dropped=DROPPED)
    assert choose(request(), Era.MODERN, URL, forgetful).rung is Rung.LEG
    assert choose(request(), Era.LEGACY, URL, forgetful).rung is Rung.FLOOR
    assert choose(request(), Era.MODERN, URL, replace(forgetful, elicitation=True)).rung is Rung.LINK


def test_a_call_made_as_a_task_gets_the_floor() -> None:
    assert choose(request(task={}), Era.MODERN, URL, HOLDING).rung is Rung.FLOOR


def test_capabilities_are_read_from_the_very_call_in_the_modern_era() -> None:
    meta: Json = {"io.modelcontextprotocol/clientCapabilities": FORM}
    assert declared(request(_meta=meta), Era.MODERN, URL) == FORM
    assert declared(request(), Era.MODERN, URL) == {}
    assert declared(request(_meta=meta), Era.LEGACY, URL) == URL


@given(waited=st.floats(0, 1000), default=st.floats(0, 50))
def test_a_learnt_hold_is_bounded_and_no_shorter_than_the_default(waited: float, default: float) -> None:
    learnt = manner(AgentProfile(learn=True), default=default, waited=waited).hold
    assert default <= learnt <= HOLD_LIMIT if default else learnt == 0
    assert manner(AgentProfile(), default=default, waited=waited).hold == default
    assert manner(AgentProfile(hold=7), default=default, waited=waited).hold == 7


def test_what_is_no_plain_answer_means_that_nobody_is_there() -> None:
    assert said({"action": "accept"}) is Said.OPENED
    assert said({"action": "decline"}) is Said.REFUSED
    assert [said(one) for one in ({"action": "cancel"}, {}, {"action": 1}, {"action": ["accept"]})] == [Said.NOBODY] * 4
    assert said(None) is Said.NOTHING


# ------------------------------------------------------------------ the sealed state


def back(state: Json, **more: Json) -> Request:
    return request(requestState=state, **more)


def refusal(message: Request, *, now: float = NOW, seal: Keyring = SEAL, **changes: object) -> Code:
    with pytest.raises(WireError) as caught:
        legs.resume(seal, replace(call(), **changes), message, now=now)
    return caught.value.reason


@given(leg=rounds)
def test_a_state_brings_back_its_challenge_and_round(leg: Leg) -> None:
    state = legs.issue(SEAL, call(), leg, expires=NOW + 9)
    assert state.startswith(legs.PREFIX)
    assert legs.resume(SEAL, call(), back(state), now=NOW) == replace(leg, said=Said.NOTHING)


@given(at=st.integers(0, 200), bit=st.integers(0, 7))
def test_a_state_with_one_bit_changed_is_refused(at: int, bit: int) -> None:
    state = legs.issue(SEAL, call(), Leg(challenge="c_1", round=1), expires=NOW + 9)
    sealed = bytearray(base64.urlsafe_b64decode(state.removeprefix(legs.PREFIX)))
    sealed[at % len(sealed)] ^= 1 << bit
    changed = legs.PREFIX + base64.urlsafe_b64encode(sealed).decode()
    assert refusal(back(changed)) is Code.STATE_INVALID


@given(junk=st.text(max_size=40))
def test_a_state_that_only_begins_like_ours_is_refused(junk: str) -> None:
    assert refusal(back(legs.PREFIX + junk)) is Code.STATE_INVALID


@pytest.mark.parametrize(
    "changes",
    [
        {"principal": replace(call().principal, subject="mallory")},
        {"server": "other"},
        {"name": "wipe"},
        {"method": "prompts/get"},
        {"digest": "0" * 64},
    ],
    ids=["principal", "server", "tool", "method", "digest"],
)
def test_a_state_of_another_call_is_refused(changes: dict[str, object]) -> None:
    state = legs.issue(SEAL, call(), Leg(challenge="c_1", round=1), expires=NOW + 9)
    assert refusal(back(state), **changes) is Code.STATE_INVALID


def test_a_state_that_is_too_old_or_sealed_elsewhere_is_refused() -> None:
    state = legs.issue(SEAL, call(), Leg(challenge="c_1", round=1), expires=NOW + 9)
    other = Keyring(seal_key=b"o" * 32, digest_key=b"d" * 32)
    assert refusal(back(state), now=NOW + 9) is Code.STATE_INVALID
    assert refusal(back(state), now=float("nan")) is Code.STATE_INVALID
    assert refusal(back(state), seal=other) is Code.STATE_INVALID


def test_a_secret_sealed_for_another_purpose_is_no_state() -> None:
    sealed = SEAL.seal(b'{"v":1}', b"factor:f_1")
    assert refusal(back(legs.PREFIX + base64.urlsafe_b64encode(sealed).decode())) is Code.STATE_INVALID


def test_a_state_of_a_tool_server_is_none_of_the_guards_business() -> None:
    assert legs.resume(SEAL, call(), back("v1.upstream"), now=NOW) is None
    assert legs.resume(SEAL, call(), request(), now=NOW) is None


def test_answers_are_taken_only_to_the_question_that_was_asked() -> None:
    asked = legs.issue(SEAL, call(), Leg(challenge="c_1", round=1, asked=True), expires=NOW + 9)
    quiet = legs.issue(SEAL, call(), Leg(challenge="c_1", round=1), expires=NOW + 9)
    mine: Json = {"guard": {"action": "decline"}}
    leg = legs.resume(SEAL, call(), back(asked, inputResponses=mine), now=NOW)
    assert leg is not None
    assert leg.said is Said.REFUSED
    assert refusal(back(quiet, inputResponses=mine)) is Code.UNSOLICITED
    assert refusal(back(asked, inputResponses={"guard": {}, "upstream": {}})) is Code.UNSOLICITED


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-1e300, 1e300)
    | st.text('aé\u2028\n"', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(arguments=st.dictionaries(st.text("xyz", min_size=1, max_size=3), json_values, max_size=4))
def test_what_is_forwarded_without_our_state_is_the_same_call_on_one_line(arguments: dict[str, Json]) -> None:
    params = {"name": "refund", "arguments": arguments, "requestState": "s", "inputResponses": {}, "_meta": {"x": 1}}
    try:
        came = decode(json.dumps({"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": params}).encode())
    except WireError:  # a subnormal number, which the decoder does not take
        return
    assert isinstance(came, Request)
    left = legs.without(came, exact_integers=False)
    assert left.params.keys() == {"name", "arguments", "_meta"}
    assert canonical(left.params["arguments"]) == canonical(came.params["arguments"])
    assert left.raw.isascii()
    assert b"\n" not in left.raw

"""How many rows a result has, and what a limit on results may say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.decide import Settings, decide_result
from guard.model import (
    Band,
    Challenge,
    Classification,
    Demand,
    Doubt,
    Finding,
    Limit,
    Measure,
    Permit,
    Requirement,
    Sensitivity,
    State,
)
from guard.policy.classify import classify
from guard.proxy.rows import rows
from guard.proxy.volumes import Volumes
from guard.reasons import Code, Reason
from guard.requirement import satisfied
from tests import nouns
from tests.unit.test_policy_language import call as policy_call
from tests.unit.test_policy_language import mistakes, policies
from tests.unit.test_volumes import Hand, Shelf


def answer(**result: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("body", "many"),
    [
        (answer(content=[text(json.dumps([{"id": n} for n in range(7)]))]), 7),
        (answer(content=[text(json.dumps({"total": 7, "page": {"items": [1, 2, 3]}}))]), 3),
        (answer(content=[text('{"name": "one"}')]), 1),
        (answer(content=[text('{"id": 1}\n{"id": 2}\n\n{"id": 3}\n')]), 3),
        (answer(content=[text("id,name\n1,ann\n2,ben\n")]), 3),
        (answer(content=[text("one"), text("two\nlines"), {"type": "image", "data": "AAAA"}]), 4),
        (answer(content=[], structuredContent={"rows": [[1, 2], [3, 4], [5, 6]]}), 3),
        (answer(content=[text("a summary")], structuredContent={"rows": [1] * 50}), 50),
        (answer(contents=[{"uri": "a://b", "text": "1\n2"}, {"uri": "a://c", "blob": "AAAA"}]), 3),
        (answer(messages=[{"role": "user", "content": text("1\n2\n3")}]), 3),
        (answer(content=[{"type": "resource", "resource": {"uri": "a://b", "text": "1\n2"}}]), 2),
        (answer(content=[text("")]), 0),
        (b'{"jsonrpc": "2.0", "id": 1, "error": {"code": -1, "message": "no"}}', 0),
        (b'{"jsonrpc": "2.0", "id": 1}', None),
        (b"[]", None),
        (b"not JSON", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (answer(structuredContent=json.loads("[" * 40 + "]" * 40)), None),
        (answer(content=[text("[" * 40 + "]" * 40)]), None),
    ],
)
def test_rows_are_counted_as_the_page_about_limits_says(body: bytes, many: int | None) -> None:
    assert rows(body) == many


@given(
    st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(lambda one: json.dumps(one).encode())
)
def test_no_answer_breaks_the_count(body: bytes) -> None:
    found = rows(body)
    assert found is None or found >= 0


# ------------------------------------------------------------------ what a limit says


def limits(said: str) -> tuple[Limit, ...]:
    return classify(policies(f"tools: {{t: {{limits: {said}}}}}"), policy_call(), now=nouns.NOW).limits


@pytest.mark.parametrize(
    ("said", "measure", "most"),
    [
        ("{bytes: 500, per: 1h}", Measure.BYTES, 500),
        ("{bytes: 10MB, per: 1h}", Measure.BYTES, 10_000_000),
        ("{bytes: 0KB, per: 1h}", Measure.BYTES, 0),
        ("{rows: 5000, per: 1h}", Measure.ROWS, 5000),
    ],
)
def test_a_limit_on_results_asks_for_consent_unless_it_says_something_else(
    said: str, measure: Measure, most: int
) -> None:
    [found] = limits(said)
    assert (found.measure, found.most, found.demands) == (measure, most, {Demand.CONSENT})
    [other] = limits(said.replace("}", ", require: two_people}"))
    assert other.demands == {Demand.TWO_PEOPLE}


@pytest.mark.parametrize(
    ("said", "mistake"),
    [
        ("{bytes: 10MiB, per: 1h}", "bytes is a number, or a number and a unit"),
        ("{bytes: -1, per: 1h}", "bytes is a whole number"),
        ("{rows: 10KB, per: 1h}", "rows is a whole number"),
        ("{calls: 1, rows: 1, per: 1h}", "one of calls, bytes and rows"),
        ("{per: 1h}", "one of calls, bytes and rows"),
    ],
)
def test_a_limit_that_is_written_wrong_is_told(said: str, mistake: str) -> None:
    assert mistake in mistakes(f"limits: {said}")


# ------------------------------------------------------------------ counting

ROWS = Limit(name="r", most=10, seconds=60, measure=Measure.ROWS, demands=frozenset({Demand.CONSENT}))
BYTES = Limit(name="b", most=100, seconds=60, measure=Measure.BYTES, demands=frozenset({Demand.CONSENT}))


def test_delivered_results_add_up_and_a_window_ends() -> None:
    clock = Hand()
    volumes = Volumes(Shelf(), clock)
    assert volumes.exceeded("robot", (ROWS, BYTES), 101, 11) == (ROWS, BYTES)
    volumes.deliver("robot", (ROWS, ROWS, BYTES), 60, 8)
    assert not volumes.exceeded("robot", (ROWS, BYTES), 40, 2)
    assert volumes.exceeded("robot", (ROWS, BYTES), 40, 3) == (ROWS,)
    assert volumes.exceeded("robot", (ROWS, BYTES), 41, None) == (ROWS, BYTES), "nobody knows how many rows"
    assert not volumes.exceeded("other", (ROWS, BYTES), 100, 10)
    clock.at += 70
    assert not volumes.exceeded("robot", (ROWS, BYTES), 100, 10)


def test_a_call_counts_nothing_for_limits_on_results_and_a_result_nothing_for_limits_on_calls() -> None:
    calls = replace(ROWS, name="c", measure=Measure.CALLS, most=1)
    volumes, tags = Volumes(Shelf(), Hand()), Classification(sensitivity=Sensitivity.PUBLIC, limits=(calls, ROWS))
    volumes.count("robot", tags.limits)
    assert not volumes.exceeded("robot", tags.limits, 0, 10)
    volumes.deliver("other", tags.limits, 1000, 1000)
    assert volumes.judged("other", tags) is tags


# ------------------------------------------------------------------ deciding

SETTINGS = Settings(irreversible=frozenset(), expires=900)
FINDING = Finding(signal="volume", cause=Doubt.INTENT, band=Band.UNUSUAL, reason=Reason(Code.MUCH_DATA))
TAGS = Classification(sensitivity=Sensitivity.SENSITIVE, revision="r", approvers="oncall")
ABOUT = replace(nouns.call(), kind="result", digest="d" * 64)


def decided(tags: Classification = TAGS, over: tuple[Limit, ...] = (), *findings: Finding) -> Challenge:
    found = decide_result(ABOUT, tags, findings, (), nouns.NOW, over=over, reasons=(), settings=SETTINGS)
    assert isinstance(found, Challenge)
    return found


def test_what_a_result_needs_is_what_its_limits_and_its_findings_ask_for() -> None:
    two = replace(BYTES, demands=frozenset({Demand.TWO_PEOPLE}))
    assert decided(TAGS, (BYTES, two)).requirement.demands == {Demand.CONSENT, Demand.TWO_PEOPLE}
    assert decided(TAGS, (replace(BYTES, demands=frozenset({Demand.POSSESSION})),), FINDING).requirement.label == "both"
    critical = replace(TAGS, sensitivity=Sensitivity.CRITICAL)
    alarming = replace(FINDING, band=Band.ALARMING)
    assert decided(critical, (), alarming).requirement == Requirement(
        frozenset({Demand.CONSENT, Demand.TWO_PEOPLE}), approvers="oncall", strict=True
    )


def test_a_withheld_result_is_never_free_however_the_policy_changed_since() -> None:
    public = replace(TAGS, sensitivity=Sensitivity.PUBLIC)
    assert decided(public, (), FINDING).requirement.demands == {Demand.CONSENT}


def test_a_grant_covers_the_result_it_was_given_for_and_no_other() -> None:
    opened = decided(TAGS, (BYTES,))
    proven = replace(opened, state=State.SATISFIED, proofs=(nouns.consent(),))
    assert proven.grant is not None
    assert satisfied(proven.requirement, proven.proofs, nouns.NOW)
    for about, permits in ((ABOUT, True), (replace(ABOUT, digest="e" * 64), False)):
        found = decide_result(about, TAGS, (), (proven.grant,), nouns.NOW, over=(BYTES,), reasons=(), settings=SETTINGS)
        assert isinstance(found, Permit) is permits

"""AgentAck accepts the exported story of a sound ledger, and finds the fault in one that tells of a wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from agentack.engine import evaluate_events
from agentack.models import TraceEvent

from guard.audit.record import Entry, rfc3339
from guard.audit.stats import measure, quantile
from guard.audit.trace import trace

START = 1_800_000_000
Rows = list[tuple[str, dict[str, Any]]]
PERSON = {"class": "consent", "kind": "totp", "view_digest": "v"}


def entries(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Entry]:
    """Records one second apart, or at `at` seconds after the start."""
    made = []
    for number, (event, given) in enumerate(rows):
        fields = dict(given)
        time = rfc3339(START + fields.pop("at", number))
        made.append(Entry("0001", number, time, event, fields, b""))
    return made


def judged(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[str, set[str]]:
    lines, _ = trace(entries(rows))
    report = evaluate_events([TraceEvent.from_dict(json.loads(json.dumps(line))) for line in lines])
    return report.status, set(report.rule_counts)


def call(number: int, **more: object) -> dict[str, Any]:
    return {
        "call_id": f"k{number}",
        "principal": "robot",
        "server": "payments",
        "tool": "refund",
        "kind": "tool",
        "args_digest": "d1",
        "sensitivity": "critical",
        **more,
    }


def challenge(**more: object) -> dict[str, Any]:
    return {
        "challenge_id": "c1",
        "principal": "robot",
        "server": "payments",
        "tool": "refund",
        "args_digest": "d1",
        **more,
    }


def opened() -> Rows:
    return [
        ("decision.made", call(1, decision="challenge")),
        ("challenge.opened", challenge(expires=START + 900, call_id="k1")),
        ("call.concluded", call(1, outcome="pending", challenge_id="c1")),
    ]


def approved() -> Rows:
    return [*opened(), ("proof.accepted", challenge(missing="", proof=PERSON))]


def ran(number: int = 2, **more: object) -> Rows:
    grant = {"challenge_id": "c1", "grant_id": "g1", **more}
    return [
        ("decision.made", call(number, decision="challenge")),
        ("call.forwarded", call(number, **grant)),
        ("grant.consumed", challenge(call_id=f"k{number}", grant_id="g1")),
        ("call.concluded", call(number, outcome="ok", **grant)),
    ]


SOUND: dict[str, Callable[[], Rows]] = {
    "approved and ran": lambda: [*approved(), *ran()],
    "two votes": lambda: [
        *opened(),
        ("proof.accepted", challenge(missing="a second person", proof=PERSON)),
        ("proof.accepted", challenge(missing="", proof=PERSON)),
        *ran(),
    ],
    "denied": lambda: [*opened(), ("challenge.denied", challenge())],
    "expired": lambda: [*opened(), ("challenge.expired", challenge())],
    "approved and never used": lambda: [*approved(), ("challenge.expired", challenge())],
    "approved and revoked": lambda: [*approved(), ("grant.revoked", challenge())],
    "lost the race": lambda: [
        *approved(),
        ("call.forwarded", call(3, challenge_id="c1", grant_id="g1")),
        *ran(),
        ("call.concluded", call(3, challenge_id="c1", grant_id="g1", outcome="refused")),
    ],
    "crashed before the grant was spent": lambda: [
        *approved(),
        ("call.forwarded", call(3, challenge_id="c1", grant_id="g1")),
        *ran(),
    ],
    "crashed after it was spent": lambda: [*approved(), *ran()[:3], ("call.unknown", call(2, challenge_id="c1"))],
    "went on with a further round": lambda: [
        *approved(),
        *ran(),
        ("call.forwarded", call(4, challenge_id="c1", grant_id="g1", continues="k2")),
        ("call.concluded", call(4, challenge_id="c1", grant_id="g1", outcome="ok")),
    ],
    "permitted": lambda: [("decision.made", call(1, decision="permit")), ("call.concluded", call(1, outcome="ok"))],
    "refused at once": lambda: [("decision.made", call(1, decision="deny"))],
}


@pytest.mark.parametrize("story", SOUND)
def test_a_sound_story_is_accepted(story: str) -> None:
    assert judged(SOUND[story]()) == ("PASS", set())


FAULTS: dict[str, tuple[Callable[[], Rows], str]] = {
    "it ran without its challenge": (
        lambda: [("decision.made", call(1, decision="challenge")), ("call.concluded", call(1, outcome="ok"))],
        "ACK001",
    ),
    "it was denied and ran": (lambda: [*opened(), ("challenge.denied", challenge()), *ran()], "ACK002"),
    "its time was up and it ran": (lambda: [*opened(), ("challenge.expired", challenge()), *ran()], "ACK002"),
    "other arguments ran": (lambda: [*approved(), *ran(args_digest="d2")], "ACK003"),
    "another tool ran": (lambda: [*approved(), *ran(tool="wipe")], "ACK003"),
    "another agent ran it": (lambda: [*approved(), *ran(principal="eve")], "ACK003"),
    "it ran twice": (lambda: [*approved(), *ran(2), *ran(3)], "ACK004"),
    "it ran after its time": (lambda: [*approved(), *((event, row | {"at": 901}) for event, row in ran())], "ACK005"),
    "it ran before it was approved": (lambda: [*opened(), *ran(), *approved()[3:]], "ACK006"),
    "it was revoked and ran": (lambda: [*approved(), ("grant.revoked", challenge()), *ran()], "ACK006"),
    "it ran without a decision": (lambda: [*opened(), *ran()], "ACK009"),
    "its challenge never opened": (lambda: [*ran()], "ACK009"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_in_the_ledger_is_found(fault: str) -> None:
    rows, rule = FAULTS[fault]
    status, rules = judged(rows())
    assert status in {"FAIL", "INCOMPLETE"}
    assert rule in rules


def test_what_is_not_decided_yet_is_left_out_and_counted() -> None:
    lines, left_out = trace(entries([*opened(), *approved()[:0]]))
    assert (lines, left_out) == ([], 1)


def test_protocol_calls_and_joined_retries_are_no_actions() -> None:
    ping = {"call_id": "k9", "principal": "robot", "server": "payments", "method": "ping", "decision": "permit"}
    rows = [("decision.made", ping), ("call.concluded", ping | {"outcome": "ok"}), *approved(), *ran()]
    lines, _ = trace(entries([*rows, ("challenge.joined", challenge(call_id="k5"))]))
    assert {line["action_id"] for line in lines if "action_id" in line} == {"c1"}


# ------------------------------------------------------------------ figures


def test_figures_say_how_often_people_are_asked_and_how_fast_they_answer() -> None:
    quick = challenge(challenge_id="c2")
    rows = [
        *approved(),  # decided after 2 s: opened at 1, accepted at 3
        ("challenge.opened", quick | {"at": 100}),
        ("proof.accepted", quick | {"at": 101.5, "missing": "", "proof": PERSON}),
        ("challenge.opened", challenge(challenge_id="c3", at=200)),
        ("challenge.denied", challenge(challenge_id="c3", at=210)),
        ("challenge.opened", challenge(challenge_id="c4", at=300)),
        ("challenge.joined", challenge(challenge_id="c4", at=301)),
        ("proof.accepted", challenge(challenge_id="c4", at=302, missing="a person", proof={"class": "possession"})),
        ("challenge.expired", challenge(challenge_id="c4", at=1200)),
        *(("decision.made", call(n, decision="permit", at=1300)) for n in range(10, 17)),
    ]
    found = measure(entries(rows)).json()
    assert found == {
        "calls": 8,
        "prompts": 4,
        "prompts_per_1000_calls": 500.0,
        "joined": 1,
        "approvals": 2,
        "denied": 1,
        "expired": 1,
        "emergencies": 0,
        "decide_seconds_p50": 2.0,
        "decide_seconds_p95": 10.0,
        "approvals_under_2s": 1,
        "share_of_approvals_under_2s": 0.5,
    }
    assert measure(entries(rows), principal="nobody").json()["prompts_per_1000_calls"] is None


def test_a_quantile_is_one_of_the_values() -> None:
    assert [quantile([1.0, 2.0, 9.0], share) for share in (0, 0.5, 1)] == [1.0, 2.0, 9.0]
    assert quantile([], 0.5) is None

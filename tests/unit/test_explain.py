"""`why` answers in plain words, from the records alone, over all lanes, and puts nothing raw on a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from guard.audit.explain import explain
from guard.audit.export import Reader, jsonl, summary
from guard.audit.ledger import FileLedger
from guard.errors import NotFoundError
from guard.model import Json
from tests.unit.ledger_world import HandClock, MemoryLanes, file_of

CALL: Mapping[str, Json] = {
    "call_id": "k_aaa",
    "principal": "ci-deployer",
    "server": "vault",
    "kind": "tool",
    "tool": "delete_secret",
}
WHY: Mapping[str, Json] = {
    "sensitivity": "critical",
    "effects": ["destroy"],
    "rule_id": "vault.yaml#tools.delete_secret",
    "where": "vault.yaml:12",
    "policy_revision": "3fe2" * 16,
    "reasons": [{"code": "tag_critical", "by": "platform-security", "evidence": ""}],
    "findings": [
        {"signal": "network", "cause": "identity", "band": "alarming", "code": "new_network", "evidence": "10.9.0.0/16"}
    ],
}
IDS: Mapping[str, Json] = {"challenge_id": "c_bbb", "grant_id": "g_bbb"}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A step-up served by one process and approved in another, and an unrelated call."""
    lanes, clock = MemoryLanes(), HandClock()
    serving, approving = (FileLedger.open(tmp_path, lanes, clock) for _ in range(2))
    serving.append("decision.made", CALL | WHY | {"decision": "challenge", "transport": "http", "src": "10.9.1.7"})
    opened = {"challenge_id": "c_bbb", "requirement": "consent", "approver_group": "oncall"}
    otherwise: Mapping[str, Json] = {"counterfactual": ["new_network: would need step_up"]}
    serving.append("challenge.opened", CALL | WHY | opened | otherwise)
    serving.append("decision.made", {"call_id": "k_zzz", "principal": "other", "decision": "permit"})
    proof = {"class": "consent", "kind": "totp", "subject": "ann", "note": "ticket 7"}
    approving.append("proof.accepted", {"challenge_id": "c_bbb", "proof": proof})
    serving.append("call.forwarded", CALL | WHY | IDS | {"phase": "intent"})
    serving.append("grant.consumed", CALL | IDS)
    serving.append("call.concluded", CALL | IDS | {"phase": "outcome", "outcome": "ok", "result_bytes": 123})
    for ledger in (serving, approving):
        ledger.close()
    return tmp_path


@pytest.mark.parametrize("wanted", ["k_aaa", "c_bbb", "g_bbb"])
def test_call_challenge_and_grant_tell_the_same_story(state: Path, wanted: str) -> None:
    text = explain(state, wanted).text()
    for part in (
        "ci-deployer, from 10.9.1.7",
        "tool delete_secret of server vault",
        "critical, destroy",
        "vault.yaml:12",
        "paused until proven",
        "the owner tagged this as critical (platform-security)",
        "10.9.0.0/16 (alarming, doubt about who is calling)",
        "consent (people of oncall)",
        'consent by ann with totp at 2025-11-22 02:42:18 UTC saying "ticket 7"',
        "new_network: would need step_up",
        "a single-use grant was spent on exactly one call",
        "the tool server answered (123 bytes)",
    ):
        assert part in text, part
    assert "k_zzz" not in text


def test_a_watched_call_is_told_as_it_would_have_been_decided_and_that_it_was_not(tmp_path: Path) -> None:
    ledger = FileLedger.open(tmp_path, MemoryLanes(), HandClock())
    watched: Mapping[str, Json] = {"watched": True, "requirement": "consent", "approver_group": "oncall"}
    ledger.append("decision.made", CALL | WHY | watched | {"decision": "challenge", "transport": "http"})
    ledger.append("call.concluded", CALL | {"outcome": "ok", "watched": True})
    ledger.close()
    text = explain(tmp_path, "k_aaa").text()
    assert "paused until proven if it were not only watched: enforce = false, so it went through" in text
    assert "consent (people of oncall)" in text
    assert "nothing" not in text


def test_the_answer_as_json_carries_the_records_it_rests_on(state: Path) -> None:
    answer = json.loads(json.dumps(explain(state, "c_bbb").json()))
    assert answer["id"] == "c_bbb"
    assert answer["answer"]["required"] == ["consent (people of oncall)"]
    assert {entry["lane"] for entry in answer["records"]} == {"0001", "0002"}
    assert all("k_zzz" not in json.dumps(entry) for entry in answer["records"])


@pytest.mark.parametrize("wanted", ["k_missing", "", "k_", "../..", "\x1b[2J", 'k_aaa"', "robot"])
def test_what_no_record_names_is_not_found(state: Path, wanted: str) -> None:
    with pytest.raises(NotFoundError) as refused:
        explain(state, wanted)
    assert "\x1b" not in refused.value.public


def test_records_with_missing_or_odd_fields_are_told_as_far_as_they_go(tmp_path: Path) -> None:
    ledger = FileLedger.open(tmp_path, MemoryLanes(), HandClock())
    odd: Mapping[str, Json] = {
        "reasons": ["x", {"code": 7}, {}],
        "findings": "none",
        "effects": 3,
        "counterfactual": [1],
    }
    ledger.append("decision.made", {"call_id": "k_odd"} | odd)
    ledger.append("call.concluded", {"call_id": "k_odd", "outcome": ["?"], "result_bytes": "many"})
    ledger.close()
    assert "somebody" in explain(tmp_path, "k_odd").text()


def test_hostile_names_cannot_move_the_reader_s_cursor(tmp_path: Path) -> None:
    ledger = FileLedger.open(tmp_path, MemoryLanes(), HandClock())
    evil = "\x1b]0;pwned\x07\x1b[2J\u202egnp.exe\r\n"
    ledger.append("decision.made", {"call_id": "k_evil", "principal": evil, "tool": evil, "decision": "deny"})
    ledger.close()
    for text in (explain(tmp_path, "k_evil").text(), *map(summary, Reader(tmp_path).read())):
        assert not any(char in text for char in "\x1b\x07\r\u202e")


def test_a_reader_follows_a_ledger_that_grows_and_leaves_a_half_written_line_alone(tmp_path: Path) -> None:
    ledger = FileLedger.open(tmp_path, MemoryLanes(), HandClock())
    reader = Reader(tmp_path)
    ledger.append("call.rejected", {"n": 1})
    assert [entry.seq for entry in reader.read()] == [0]
    assert list(reader.read()) == []
    ledger.append("call.rejected", {"n": 2})
    whole = file_of(tmp_path).read_bytes()
    file_of(tmp_path).write_bytes(whole[:-5])
    assert list(reader.read()) == []
    file_of(tmp_path).write_bytes(whole)
    assert [entry.seq for entry in reader.read()] == [1]


def test_exported_lines_are_json_objects_with_their_lane(state: Path) -> None:
    rows = [json.loads(jsonl(entry)) for entry in Reader(state).read()]
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert {row["lane"] for row in rows} == {"0001", "0002"}
    assert all(json.dumps(row).isascii() for row in rows)


def test_lines_that_are_no_records_are_counted_and_passed_over(state: Path) -> None:
    with file_of(state).open("ab") as file:
        file.write(b"not a record\n")
    reader = Reader(state)
    assert len(list(reader.read())) == 9
    assert reader.skipped == 1

"""What other systems read of the ledger is what their schemas say."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from guard.audit.ecs import ecs
from guard.audit.ocsf import VERSION, ocsf
from guard.audit.record import EVENTS, Entry, rfc3339

CALL = {
    "call_id": "k_1",
    "challenge_id": "c_1",
    "principal": "robot",
    "src": "192.0.2.7",
    "transport": "http",
    "server": "payments",
    "tool": "refund",
    "rule_id": "payments.yaml#tools.refund",
    "outcome": "ok",
    "reasons": [{"code": "tag_critical", "by": "", "evidence": ""}],
    "proof": {"class": "consent", "kind": "totp", "subject": "ann"},
}
CATEGORIES = {"api", "authentication", "configuration", "database", "host", "iam", "network", "process", "session"}
"""Of `event.category` (ECS 8.17), those that are used."""
TYPES = {"access", "allowed", "change", "creation", "deletion", "denied", "end", "error", "info", "start"}


def entry(event: str, fields: Mapping[str, Any]) -> Entry:
    return Entry("0001", 7, rfc3339(1_800_000_000.25), event, fields, b"")


@pytest.fixture(scope="module")
def schema() -> OcsfJsonSchemaEmbedded:
    return OcsfJsonSchemaEmbedded(get_ocsf_schema(version=VERSION))


@pytest.fixture(scope="module")
def validators() -> dict[int, Draft202012Validator]:
    return {}


@pytest.mark.parametrize("fields", [CALL, {}], ids=["full", "bare"])
@pytest.mark.parametrize("event", EVENTS)
def test_every_record_is_a_valid_ocsf_event(
    event: str,
    fields: Mapping[str, Any],
    schema: OcsfJsonSchemaEmbedded,
    validators: dict[int, Draft202012Validator],
) -> None:
    made = ocsf(entry(event, fields))
    uid = int(made["class_uid"])  # type: ignore[call-overload]  # a number
    if uid not in validators:
        validators[uid] = Draft202012Validator(schema.get_class_schema(schema.lookup_class_name_from_uid(uid)))
    assert [error.message for error in validators[uid].iter_errors(made)] == []
    assert made["type_uid"] == uid * 100 + int(made["activity_id"])  # type: ignore[call-overload]  # a number
    assert made["time"] == 1_800_000_000_250
    assert json.loads(json.dumps(made))["unmapped"]["guard"] == json.loads(json.dumps(fields))


@pytest.mark.parametrize("event", EVENTS)
def test_every_record_is_an_ecs_document_with_words_of_the_schema(event: str) -> None:
    made = json.loads(json.dumps(ecs(entry(event, CALL))))
    assert set(made["event"]["category"]) <= CATEGORIES
    assert set(made["event"]["type"]) <= TYPES
    assert made["event"]["kind"] in {"alert", "event"}
    assert made["event"]["outcome"] in {"success", "failure", "unknown"}
    assert ipaddress.ip_address(made["source"]["ip"])
    assert (made["user"]["id"], made["service"]["name"], made["rule"]["id"]) == (
        "robot",
        "payments",
        "payments.yaml#tools.refund",
    )
    assert made["guard"] == CALL


@pytest.mark.parametrize(
    ("event", "fields", "ocsf_status", "outcome"),
    [
        ("proof.accepted", {}, 1, "success"),
        ("proof.rejected", {}, 2, "failure"),
        ("decision.made", {"decision": "deny"}, 2, "failure"),
        ("decision.made", {"decision": "permit"}, 1, "success"),
        ("call.concluded", {"outcome": "ok"}, 1, "success"),
        ("call.concluded", {"outcome": "refused"}, 2, "failure"),
        ("call.unknown", {}, 2, "unknown"),
        ("challenge.expired", {}, 2, "failure"),
        ("intent.rejected", {}, 2, "failure"),
    ],
)
def test_what_did_not_come_about_is_a_failure(
    event: str, fields: Mapping[str, str], ocsf_status: int, outcome: str
) -> None:
    assert ocsf(entry(event, fields))["status_id"] == ocsf_status
    made = ecs(entry(event, fields))["event"]
    assert isinstance(made, dict)
    assert made["outcome"] == outcome


@pytest.mark.parametrize("change", [{"metadata": {}}, {"time": "now"}, {"surprise": 1}, {"status_id": 77}])
def test_the_schema_would_notice(change: Mapping[str, Any], schema: OcsfJsonSchemaEmbedded) -> None:
    made = ocsf(entry("call.concluded", CALL)) | change
    validator = Draft202012Validator(schema.get_class_schema(schema.lookup_class_name_from_uid(6003)))
    assert not validator.is_valid(made)

"""Change systems: a stand-in that answers with the JSON ServiceNow and Jira document, and with everything else."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from guard.app import change_system
from guard.config import ChangeSystem
from guard.errors import ProofError
from guard.reasons import Code
from guard.tickets.changes import REMEMBERED, Changes

NOW = datetime(2026, 11, 25, 8, 30, tzinfo=UTC).timestamp()
CHANGE = {
    "number": "CHG0030001",
    "state": "-1",
    "approval": "approved",
    "on_hold": "false",
    "start_date": "2026-11-25 08:00:00",
    "end_date": "2026-11-25 10:00:00",
}
FIELDS = {
    "status": {"name": "Implementing", "id": "10005", "statusCategory": {"id": 4, "key": "indeterminate"}},
    "customfield_10048": "2026-11-25T09:00:00.000+0100",
    "customfield_10049": "2026-11-25T11:00:00.000+0100",
}


@dataclass
class StandIn:
    """A change system of one change, and what it was asked."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, list[str]], str]] = field(default_factory=list)
    port: int = 0


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    told = StandIn()

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            told.asked.append((parts.path, parse_qs(parts.query), self.headers.get("authorization", "")))
            raw = told.body if isinstance(told.body, bytes) else json.dumps(told.body).encode()
            self.send_response(told.status)
            for name, value in {"content-type": "application/json", **told.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        told.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield told
        server.shutdown()
        thread.join()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    file.chmod(0o600)
    return file


def servicenow(stand_in: StandIn, secret: Path, **more: Any) -> Changes:  # noqa: ANN401 - settings
    url = f"http://127.0.0.1:{stand_in.port}"
    return change_system(ChangeSystem(system="servicenow", url=url, user="guard", secret_file=secret, **more))


def jira(stand_in: StandIn, secret: Path) -> Changes:
    url = f"http://127.0.0.1:{stand_in.port}/"
    fields = {"start_field": "customfield_10048", "end_field": "customfield_10049"}
    return change_system(ChangeSystem(system="jira", url=url, secret_file=secret, **fields))


def refusal(changes: Changes, ticket: str = "CHG0030001", now: float = NOW) -> tuple[Code, str]:
    with pytest.raises(ProofError) as refused:
        changes.check(ticket, now)
    return refused.value.reason, refused.value.public


def test_an_approved_change_in_its_window_counts_in_servicenow(stand_in: StandIn, secret: Path) -> None:
    stand_in.body = {"result": [CHANGE]}
    servicenow(stand_in, secret).check("CHG0030001", NOW)
    [(path, query, authorization)] = stand_in.asked
    assert path == "/api/now/table/change_request"
    assert query["sysparm_query"] == ["number=CHG0030001"]
    assert query["sysparm_display_value"] == ["false"]
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"guard:s3cret"


def test_an_issue_being_implemented_in_its_window_counts_in_jira(stand_in: StandIn, secret: Path) -> None:
    stand_in.body = {"id": "10002", "key": "CHG-7", "fields": FIELDS}
    jira(stand_in, secret).check("CHG-7", NOW)
    [(path, query, authorization)] = stand_in.asked
    assert (path, authorization) == ("/rest/api/3/issue/CHG-7", "Bearer s3cret")
    assert query["fields"] == ["status,customfield_10048,customfield_10049"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": "-5"}, "is in state '-5'"),
        ({"state": "3"}, "is in state '3'"),
        ({"approval": "requested"}, "has the approval 'requested'"),
        ({"approval": "rejected"}, "has the approval 'rejected'"),
        ({"on_hold": "true"}, "is on hold"),
        ({"start_date": ""}, "has no window"),
        ({"end_date": ""}, "has no window"),
        ({"start_date": "2026-11-25 08:30:01"}, "has another window"),
        ({"end_date": "2026-11-25 08:30:00"}, "has another window"),
        ({"number": "CHG0030002"}, "has another number"),
    ],
)
def test_any_other_change_is_refused_with_its_reason(
    change: dict[str, str], said: str, stand_in: StandIn, secret: Path
) -> None:
    stand_in.body = {"result": [CHANGE | change]}
    code, public = refusal(servicenow(stand_in, secret))
    assert code is Code.TICKET_REFUSED
    assert said in public


@pytest.mark.parametrize(
    ("issue", "said"),
    [
        ({"key": "OPS-9"}, "has another number"),
        ({"fields": FIELDS | {"status": {"name": "Awaiting CAB approval"}}}, "is in state"),
        ({"fields": FIELDS | {"customfield_10048": None}}, "has no window"),
        ({"fields": FIELDS | {"customfield_10049": "2026-11-25T08:30:00.000+0000"}}, "has another window"),
    ],
)
def test_any_other_issue_is_refused_with_its_reason(
    issue: dict[str, Any], said: str, stand_in: StandIn, secret: Path
) -> None:
    stand_in.body = {"key": "CHG-7", "fields": FIELDS} | issue
    code, public = refusal(jira(stand_in, secret), "CHG-7")
    assert code is Code.TICKET_REFUSED
    assert said in public


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"result": []}, 200),
        ({"result": [CHANGE, CHANGE]}, 200),
        ({"result": CHANGE}, 200),
        ({"result": [CHANGE | {"state": -1}]}, 200),
        ({"result": [CHANGE | {"start_date": "yesterday"}]}, 200),
        ([], 200),
        (b"<html>log in</html>", 200),
        (b"x" * 300_000, 200),
        ({"result": [CHANGE]}, 302),
        ({"result": [CHANGE]}, 500),
        ({"error": {"message": "User Not Authenticated"}, "status": "failure"}, 401),
    ],
)
def test_what_is_not_clearly_a_yes_counts_for_nothing(body: Any, status: int, stand_in: StandIn, secret: Path) -> None:  # noqa: ANN401 - JSON
    stand_in.body, stand_in.status = body, status
    stand_in.headers = {"location": "/elsewhere"} if status == 302 else {}
    assert refusal(servicenow(stand_in, secret))[0] is Code.TICKET_UNAVAILABLE
    assert len(stand_in.asked) == 1


def test_a_change_system_that_is_away_and_a_secret_that_others_can_read_count_for_nothing(
    stand_in: StandIn, secret: Path
) -> None:
    stand_in.body, port = {"result": [CHANGE]}, stand_in.port
    stand_in.port = 9
    assert refusal(servicenow(stand_in, secret))[0] is Code.TICKET_UNAVAILABLE
    stand_in.port = port
    secret.chmod(0o644)
    assert refusal(servicenow(stand_in, secret))[0] is Code.TICKET_UNAVAILABLE
    assert not stand_in.asked


def test_a_yes_is_remembered_for_a_moment_and_a_no_is_not(stand_in: StandIn, secret: Path) -> None:
    changes = servicenow(stand_in, secret)
    stand_in.body = {"result": [CHANGE | {"state": "-3"}]}
    refusal(changes)
    stand_in.body = {"result": [CHANGE]}
    changes.check("CHG0030001", NOW)
    stand_in.status = 500
    changes.check("CHG0030001", NOW + REMEMBERED - 1)
    assert refusal(changes, now=NOW + REMEMBERED)[0] is Code.TICKET_UNAVAILABLE
    assert refusal(changes, now=NOW - 1)[0] is Code.TICKET_UNAVAILABLE


def test_settings_are_checked_when_they_are_read(secret: Path) -> None:
    for wrong in (
        {"system": "jira", "url": "https://jira.example"},
        {"system": "servicenow", "url": "https://sn.example", "start_field": "a", "end_field": "b"},
        {"system": "servicenow", "url": "http://sn.example"},
        {"system": "other", "url": "https://sn.example"},
    ):
        with pytest.raises(ValueError):
            ChangeSystem(secret_file=secret, **wrong)  # type: ignore[arg-type]

"""What an agent is declared to be for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from guard.config import parse
from guard.drift.assess import Assessor
from guard.drift.behaviour import Behaviour
from guard.drift.job import Job, JobSignal, declared
from guard.drift.profile import DAY
from guard.drift.profiles import Profiles, peers_of
from guard.errors import ConfigError
from guard.model import Band, Call, Classification, Demand, Doubt, Finding, Json, Sensitivity
from guard.reasons import Code
from guard.requirement import required
from tests import nouns

SEND = Classification(sensitivity=Sensitivity.SENSITIVE, effects=frozenset({"notify"}))
PLACES = frozenset(
    {"corp.example", ".partner.example", "ann@other.example", "https://hooks.example/t1/", "/srv/out/", "#ops"}
)
IDS = count()


@pytest.mark.parametrize(
    "text",
    [
        "bob@corp.example",
        "BOB@Corp.Example",
        "https://corp.example/report?x=1#y",
        "https://corp.example:8443/",
        "a@corp.example, b@corp.example; ann@other.example",
        "x@eu.partner.example",
        "https://hooks.example/t1/abc",
        "/srv/out/2026/report.csv",
        "#ops",
    ],
)
def test_what_is_declared(text: str) -> None:
    assert declared(text, PLACES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bob@evil.example",
        "bob@corp.example.evil.example",
        "bob@evilcorp.example",
        "evil@evil.example,bob@corp.example",
        "evil@evil.example bob@corp.example",
        "bob@evil.example@corp.example",
        "@corp.example",
        "x@partner.example",
        "eve@other.example",
        "https://evil.example?@corp.example",
        "https://evil.example#@corp.example/",
        "https://corp.example@evil.example/",
        "https://evil.example\\@corp.example/",
        "https://user@corp.example/",
        "https://corp.example.evil.example/",
        "https://hooks.example/t2/abc",
        "https://hooks.example/t1/../t2/abc",
        "https://hooks.example/t1/%2e%2e/t2/abc",
        "https://[::1",
        "/srv/out/../etc/passwd",
        "/etc/passwd",
        "#OPS2",
        "bob@corp.example\x00",
        "<bob@corp.example>",
        "evil.example/bob@corp.example",
        "evil.example?@corp.example",
        "evil.example:443#@corp.example",
        "//evil.example/@corp.example",
        "bob%evil.example@corp.example",
    ],
)
def test_what_is_not_declared_or_could_be_read_as_somewhere_else(text: str) -> None:
    assert not declared(text, PLACES)


class Agent:
    """An agent with eighty quiet days, and a job or none."""

    def __init__(self, job: Job | None) -> None:
        self.now, self.profiles = nouns.NOW, Profiles()
        for key in (nouns.PRINCIPAL.credential, peers_of("payments")):
            self.profiles.load(key, None)
        signal = JobSignal({nouns.PRINCIPAL.subject: job} if job else {})
        self.assessor = Assessor([], Behaviour(self.profiles, b"k" * 32), job=signal)
        for _ in range(80):
            self.now += DAY
            for _ in range(3):
                self.learns("look", {"page": "weekly"})
                self.learns("send", {"to": "ann@other.example", "body": "done"})
        self.now += DAY

    def call(self, tool: str, arguments: Mapping[str, Json]) -> Call:
        return replace(nouns.call(tool, arguments, random=f"{next(IDS):022d}"), received=self.now)

    def learns(self, tool: str, arguments: Mapping[str, Json]) -> None:
        call = self.call(tool, arguments)
        self.assessor.assess(call, SEND)
        self.assessor.learn(call, frozenset(), b"a result")

    def asks(self, tool: str, arguments: Mapping[str, Json]) -> tuple[Finding, ...]:
        return self.assessor.assess(self.call(tool, arguments), SEND)


JOB = Job(("payments/look", "payments/send*"), frozenset({"other.example", "corp.example"}))


@pytest.fixture(scope="module")
def declared_agent() -> Agent:
    return Agent(JOB)


def codes(found: tuple[Finding, ...]) -> set[Code]:
    return {one.reason.code for one in found}


def test_a_tool_and_a_destination_outside_of_the_job_are_doubts_about_intent(declared_agent: Agent) -> None:
    found = declared_agent.asks("wipe", {"to": "eve@evil.example"})
    doubts = {one.reason.code: one for one in found if one.signal == "job"}
    assert doubts.keys() == {Code.UNDECLARED_TOOL, Code.UNDECLARED_DESTINATION}
    for one in doubts.values():
        assert (one.cause, one.band) == (Doubt.INTENT, Band.UNUSUAL)
    assert doubts[Code.UNDECLARED_TOOL].reason.evidence == "payments/wipe"
    assert doubts[Code.UNDECLARED_DESTINATION].reason.evidence == ".to"
    assert Demand.CONSENT in required(SEND, found, irreversible=frozenset())[0].demands


def test_what_an_agent_always_did_is_doubted_once_it_is_not_what_it_is_for() -> None:
    agent = Agent(Job(("payments/look",), frozenset()))
    assert codes(agent.asks("send", {"to": "ann@other.example", "body": "done"})) == {Code.UNDECLARED_TOOL}


@pytest.mark.parametrize("name", ["toEmail", "webhookUrl", "callback-url", "channelId", "payee_account", "phoneNumber"])
def test_an_argument_says_where_something_goes_in_whatever_way_its_name_is_written(
    declared_agent: Agent, name: str
) -> None:
    assert Code.UNDECLARED_DESTINATION in codes(declared_agent.asks("send", {name: "eve@evil.example"}))


@pytest.mark.parametrize(
    "payload",
    ['{"to": "eve@evil.example"}', ' [{"to": ["eve@evil.example"]}]', '{"a": "{\\"to\\": \\"eve@evil.example\\"}"}'],
)
def test_a_json_text_hides_no_destination(declared_agent: Agent, payload: str) -> None:
    assert Code.UNDECLARED_DESTINATION in codes(declared_agent.asks("send", {"payload": payload}))


def test_a_declared_tool_and_destination_are_no_news(declared_agent: Agent) -> None:
    new = {"to": "bob@corp.example"}
    without = {one.reason.code: one.nats for one in Agent(None).asks("send_report", new)}
    within = {one.reason.code: one.nats for one in declared_agent.asks("send_report", new)}
    assert {Code.TOOL_NEW, Code.DESTINATION_NEW} <= without.keys()
    assert not {Code.TOOL_NEW, Code.TOOL_RARE, Code.DESTINATION_NEW} & within.keys()
    assert within.get(Code.UNUSUAL_CALL, 0.0) < without[Code.UNUSUAL_CALL]


def test_no_more_destinations_than_are_looked_at_pass_for_declared(declared_agent: Agent) -> None:
    many: list[Json] = ["bob@corp.example"] * 100
    assert Code.UNDECLARED_DESTINATION in codes(declared_agent.asks("send", {"to": [*many, "eve@evil.example"]}))
    assert Code.UNDECLARED_DESTINATION not in codes(declared_agent.asks("send", {"to": many[:20]}))


def test_an_agent_without_a_job_is_judged_by_its_history() -> None:
    assert Agent(None).asks("send", {"to": "ann@other.example", "body": "done"}) == ()


@pytest.mark.parametrize("line", ['tools = ["send"]', 'destinations = [""]', 'destinations = ["/"]', "tools = 1"])
def test_a_declaration_that_could_match_nothing_or_everything_is_a_mistake(line: str) -> None:
    with pytest.raises(ConfigError):
        parse(f"[agents.robot]\n{line}\n", Path("guard.toml"))

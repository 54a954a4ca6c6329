"""First times, climbs and rates: what casts doubt on what an agent was told to do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import count

import pytest

from guard.drift.activity import IDLE
from guard.drift.assess import Assessor
from guard.drift.behaviour import Behaviour
from guard.drift.escalation import FEW, EscalationSignal
from guard.drift.profile import BELIEVED, DAY, KINDS, SPAN, Profile
from guard.drift.profiles import Profiles, peers_of
from guard.drift.rate import RateSignal
from guard.drift.snapshot import dump, load
from guard.drift.volume import VolumeSignal
from guard.model import Band, Call, Classification, Demand, Doubt, Finding, ProofClass, Sensitivity
from guard.reasons import Code
from guard.requirement import required
from tests import nouns

KEY = nouns.PRINCIPAL.credential
NOTHING = frozenset[ProofClass]()
CONSENT = frozenset({ProofClass.CONSENT})
POSSESSION = frozenset({ProofClass.POSSESSION})
LOOK = Classification(sensitivity=Sensitivity.PUBLIC, effects=frozenset({"read"}))
SEND = Classification(sensitivity=Sensitivity.SENSITIVE, effects=frozenset({"notify"}))
WIPE = Classification(sensitivity=Sensitivity.CRITICAL, effects=frozenset({"destroy"}))
KEYS = Classification(sensitivity=Sensitivity.CRITICAL, effects=frozenset({"read"}))
IDS = count()
MIDNIGHT = nouns.NOW - nouns.NOW % DAY


class Agent:
    """One agent at work, judged by its kinds and its rate."""

    def __init__(self) -> None:
        self.now, self.profiles = MIDNIGHT, Profiles()
        for key in (KEY, peers_of("payments")):
            self.profiles.load(key, None)
        self.assessor = self.assessing(self.profiles)

    @staticmethod
    def assessing(known: Profiles) -> Assessor:
        return Assessor(
            [],
            Behaviour(known, b"k" * 32),
            VolumeSignal(known),
            escalation=EscalationSignal(known, nouns.IRREVERSIBLE),
            rate=RateSignal(known),
        )

    @property
    def profile(self) -> Profile:
        return self.profiles[KEY]

    def call(self, tool: str = "look") -> Call:
        return replace(nouns.call(tool, {}, random=f"{next(IDS):022d}"), received=self.now)

    def asks(self, tags: Classification, tool: str = "look") -> tuple[Finding, ...]:
        return self.assessor.assess(self.call(tool), tags)

    def runs(
        self,
        tags: Classification = LOOK,
        proven: frozenset[ProofClass] = NOTHING,
        *,
        challenged: bool = False,
        tool: str = "look",
    ) -> tuple[Finding, ...]:
        call = self.call(tool)
        found = self.assessor.assess(call, tags)
        self.assessor.learn(call, proven, challenged=challenged)
        return tuple(one for one in found if one.signal != "behaviour")

    def talks(self, *tags: Classification) -> list[tuple[Finding, ...]]:
        """A conversation: a call every ten seconds, after a pause."""
        self.now += 2 * IDLE
        found = []
        for one in tags:
            self.now += 10.0
            found.append(self.runs(one))
        return found

    def works(self, days: int, *tags: Classification) -> Agent:
        for _ in range(days):
            self.talks(*(tags or (LOOK,) * 8))
            self.now += DAY - 2 * IDLE - 10.0 * len(tags or (LOOK,) * 8)
        return self


def codes(found: Iterable[Finding]) -> list[Code]:
    return [one.reason.code for one in found]


def asked(tags: Classification, found: tuple[Finding, ...]) -> frozenset[Demand]:
    return required(tags, found, irreversible=nouns.IRREVERSIBLE)[0].demands


# ---------------------------------------------------------------- first times and climbs


def test_the_first_effect_of_its_kind_is_a_doubt_about_intent() -> None:
    agent = Agent().works(20)
    agent.talks(*[LOOK] * 8)
    (finding,) = agent.runs(SEND, challenged=True)
    assert (finding.cause, finding.band, finding.reason.code) == (Doubt.INTENT, Band.UNUSUAL, Code.FIRST_KIND)
    assert finding.reason.evidence.startswith("notify: never in 1")
    assert asked(SEND, (finding,)) == {Demand.CONSENT}


def test_a_new_agent_has_no_first_time() -> None:
    assert [one for one in Agent().talks(LOOK, SEND, LOOK, WIPE) if one] == []


def test_what_an_agent_does_in_its_first_days_is_what_it_is_for() -> None:
    agent = Agent().works(20, LOOK, SEND, LOOK, WIPE, LOOK, LOOK)
    assert [one for one in agent.talks(LOOK, SEND, LOOK, WIPE) if one] == []


def test_consent_makes_a_kind_known_and_a_signature_alone_does_not() -> None:
    agent = Agent().works(20)
    agent.talks(*[LOOK] * 8)
    for proven in (NOTHING, POSSESSION, CONSENT):
        assert codes(agent.runs(SEND, proven, challenged=True)) == [Code.FIRST_KIND]
    assert agent.runs(SEND) == ()


def test_a_new_kind_of_an_old_agent_is_known_after_two_weeks_of_it() -> None:
    agent, mild = Agent().works(80), replace(SEND, sensitivity=Sensitivity.INTERNAL)
    begun = agent.now
    agent.talks(*[LOOK] * 8)
    while codes(agent.runs(mild)) == [Code.FIRST_KIND]:
        agent.works(1)
    assert SPAN <= (agent.now - begun) / DAY <= SPAN + 2


def test_from_harmless_to_critical_within_a_few_calls_is_an_escalation() -> None:
    agent = Agent().works(20)
    *_, found = agent.talks(LOOK, LOOK, KEYS)
    (finding,) = found
    assert (finding.cause, finding.band, finding.reason.code) == (Doubt.INTENT, Band.UNUSUAL, Code.ESCALATION)
    assert finding.reason.evidence.startswith("critical after 2 calls that were at most public; never so in 1")
    assert asked(KEYS, found) == {Demand.STEP_UP, Demand.CONSENT}


def test_a_climb_that_ends_in_a_new_effect_which_cannot_be_undone_needs_two_people() -> None:
    agent = Agent().works(20)
    *_, found = agent.talks(LOOK, WIPE)
    assert codes(found) == [Code.FIRST_KIND, Code.ESCALATION]
    assert Demand.TWO_PEOPLE in asked(WIPE, found)


@pytest.mark.parametrize("before", [[LOOK] * (FEW + 1), [LOOK, SEND], []])
def test_a_long_conversation_one_that_was_not_harmless_and_a_first_call_are_no_climbs(
    before: list[Classification],
) -> None:
    agent = Agent().works(5, LOOK, SEND, LOOK).works(20)
    *_, found = agent.talks(*before, KEYS)
    assert Code.ESCALATION not in codes(found)


def test_an_agent_that_always_climbs_is_not_news() -> None:
    agent = Agent().works(20, LOOK, KEYS, LOOK, LOOK)
    assert agent.talks(LOOK, KEYS)[-1] == ()


def test_a_profile_from_before_kinds_were_counted_knows_nothing_new_for_ten_days() -> None:
    agent = Agent().works(40, LOOK, SEND, LOOK, SEND)
    agent.profile.kinds, agent.profile.since = {}, load(dump(Profile())).since
    assert [one for one in agent.talks(LOOK, SEND) if one] == []
    agent.works(BELIEVED, LOOK, SEND)
    assert agent.talks(LOOK, SEND)[-1] == ()
    assert codes(agent.talks(LOOK, WIPE)[-1]) == [Code.FIRST_KIND, Code.ESCALATION]


def test_kinds_survive_a_snapshot_and_add_up_and_are_bounded() -> None:
    agent = Agent().works(3, LOOK, SEND)
    stored = load(dump(agent.profile))
    assert stored.since == agent.profile.since
    assert stored.knows("notify")
    stored.note_kinds([f"effect-{number}" for number in range(300)], stored.since + 40, vouched=False)
    whole = Profile()
    whole.add(stored)
    assert len(whole.kinds) <= KINDS
    assert whole.since == stored.since
    assert whole.knows("notify")


# ---------------------------------------------------------------- rates


def burst(agent: Agent, calls: int, gap: float, proven: frozenset[ProofClass] = NOTHING) -> list[tuple[Finding, ...]]:
    found = []
    for _ in range(calls):
        agent.now += gap
        found.append(tuple(one for one in agent.runs(LOOK, proven) if one.signal == "rate"))
    return found


def slow(days: int = 20) -> Agent:
    return Agent().works(days)


def test_an_agent_in_a_loop_is_noticed_within_two_minutes_and_is_alarming_after_some_more() -> None:
    found = burst(slow(), 1200, 0.5)
    first = next(at for at, one in enumerate(found) if one)
    assert first < 240
    (finding,) = found[first]
    assert (finding.cause, finding.band, finding.reason.code) == (Doubt.INTENT, Band.UNUSUAL, Code.TOO_FAST)
    assert finding.reason.evidence.endswith("calls a minute over 5 minutes; more than 10 is unusual")
    assert found[-1][0].band is Band.ALARMING


def test_a_drip_that_goes_on_is_noticed_too() -> None:
    found = burst(slow(), 1000, 8.0)
    assert found[-1][0].reason.evidence.endswith("calls a minute over 60 minutes; more than 4 is unusual")


def test_a_burst_that_comes_every_day_is_normal_and_calm_returns_when_the_rate_falls() -> None:
    agent = Agent()
    for _ in range(12):
        burst(agent, 300, 0.2)
        agent.now += DAY
    assert not any(burst(agent, 300, 0.2))
    agent.now += DAY
    assert burst(agent, 3000, 0.05)[-1]
    agent.now += 6 * 3600.0
    assert not any(burst(agent, 20, 5.0))


def test_a_profile_from_before_rates_were_counted_takes_ten_days_to_know_what_is_normal() -> None:
    agent = Agent()
    for _ in range(40):
        burst(agent, 100, 0.2)
        agent.now += DAY
    agent.profile.rates, agent.profile.since = Profile().rates, Profile().since
    agent.assessor = Agent.assessing(agent.profiles)
    for _ in range(20):
        assert not any(burst(agent, 100, 0.2))
        agent.now += DAY
    assert any(burst(agent, 3000, 0.05))


def test_a_person_who_allows_a_burst_is_not_asked_for_each_of_its_calls() -> None:
    agent = slow()
    while not burst(agent, 1, 0.5)[0]:
        pass
    assert burst(agent, 1, 0.5, CONSENT)[0]
    assert not any(burst(agent, 60, 0.5))
    assert any(burst(agent, 300, 0.2))


def test_a_rate_that_is_kept_up_doubles_what_is_normal_after_three_days_and_not_before() -> None:
    agent = slow()
    for limit in (10, 10, 10, 20, 20, 20, 40):
        found = burst(agent, 600, 0.2)
        assert f"more than {limit} is unusual" in found[-1][0].reason.evidence
        agent.now += DAY


@pytest.mark.parametrize("jump", [-400 * DAY, -3600.0, 3.0])
def test_a_clock_that_jumps_hides_no_rate_and_teaches_none(jump: float) -> None:
    agent = slow()
    burst(agent, 5, 1.0)
    agent.now += jump
    assert burst(agent, 1200, 0.5)[-1]
    assert not any(agent.profile.rates[0][1:])


@pytest.mark.parametrize("jump", [-math.inf, math.nan])
def test_a_time_that_is_no_number_calms_no_rate(jump: float) -> None:
    agent = slow()
    burst(agent, 1200, 0.5)
    signal = agent.assessor._rate
    assert signal is not None
    assert signal.assess(replace(agent.call(), received=jump))


def test_a_clock_that_was_set_back_before_the_beginning_makes_no_kind_known() -> None:
    agent = Agent().works(20)
    agent.now -= 400 * DAY
    agent.runs(SEND)
    assert not agent.profile.knows("notify")


def test_rates_survive_a_snapshot_and_add_up() -> None:
    agent = slow(10)
    burst(agent, 300, 0.2)
    stored = load(dump(agent.profile))
    assert stored.rates == agent.profile.rates
    assert sum(stored.rates[0]) > 0
    stored.add(load(dump(agent.profile)))
    assert stored.rates[0] == [2 * days for days in agent.profile.rates[0]]

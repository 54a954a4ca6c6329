"""One key at two places, many keys at one place, and old keys: what casts doubt on who calls."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from guard.drift.age import AgeSignal
from guard.drift.assess import Assessor
from guard.drift.client import ClientSignal
from guard.drift.hopping import HoppingSignal
from guard.drift.network import NetworkSignal
from guard.drift.places import WINDOW, PlaceSignal
from guard.drift.profile import DAY, TOGETHER, Profile
from guard.drift.profiles import Profiles
from guard.drift.snapshot import dump, load
from guard.model import Band, Call, Classification, Demand, Doubt, Finding, ProofClass, Sensitivity, Source
from guard.reasons import Code
from guard.requirement import required
from tests import nouns

TAGS = Classification(sensitivity=Sensitivity.PUBLIC)
NOTHING = frozenset[ProofClass]()
POSSESSION = frozenset({ProofClass.POSSESSION})
CONSENT = frozenset({ProofClass.CONSENT})
HOME, OFFICE, ABROAD = "192.0.2.7", "198.51.100.7", "203.0.113.9"
IDS = count()


class Keys:
    """Agents whose keys are used from here and there."""

    def __init__(self, most: int = 3) -> None:
        self.now, self.profiles = nouns.NOW, Profiles()
        known = self.profiles
        self.assessor = Assessor(
            [NetworkSignal(known), ClientSignal(known)], places=PlaceSignal(known), hopping=HoppingSignal(known, most)
        )

    def call(self, address: str, who: str = "robot", *, client: str = "robot/1", age: float = 30 * DAY) -> Call:
        key = f"key-of-{who}"
        if key not in self.profiles:
            self.profiles.load(key, None)
        principal = replace(nouns.PRINCIPAL, subject=who, credential=key, since=self.now - age)
        made = nouns.call(random=f"{next(IDS):022d}", principal=principal)
        return replace(made, received=self.now, source=Source(transport="http", address=address, client=client))

    def asks(self, call: Call) -> tuple[Finding, ...]:
        return self.assessor.assess(call, TAGS)

    def runs(
        self, address: str, who: str = "robot", proven: frozenset[ProofClass] = NOTHING, age: float = 30 * DAY
    ) -> tuple[Code, ...]:
        """Make a call that ends before the next one; the reasons for doubt."""
        call = self.call(address, who, age=age)
        found = self.asks(call)
        self.assessor.learn(call, proven)
        self.assessor.ended(call)
        self.now += 5.0
        return tuple(one.reason.code for one in found)


def known(*addresses: str) -> Keys:
    """A key that proved itself from every one of these, hours ago."""
    keys = Keys()
    for address in addresses:
        keys.runs(address, proven=POSSESSION)
        keys.now += 2 * WINDOW
    return keys


def test_going_back_and_forth_between_two_places_is_being_at_both() -> None:
    keys = known(HOME, OFFICE)
    seen = [keys.runs(address) for address in (HOME, OFFICE, HOME, OFFICE, HOME, HOME)]
    assert seen == [(), (), (), (Code.TWO_PLACES,), (Code.TWO_PLACES,), (Code.TWO_PLACES,)]


def test_moving_and_moving_back_once_is_no_more_than_that() -> None:
    keys = known(HOME, OFFICE)
    for _ in range(6):
        assert keys.runs(HOME) == keys.runs(HOME) == ()
        assert keys.runs(OFFICE) == ()
        keys.now += WINDOW


def test_a_call_that_runs_while_another_comes_from_elsewhere_is_enough() -> None:
    keys = known(HOME, OFFICE)
    running, beside = keys.call(HOME), keys.call(OFFICE)
    assert keys.asks(running) == ()
    (finding,) = keys.asks(beside)
    assert (finding.cause, finding.band, finding.reason.code) == (Doubt.IDENTITY, Band.UNUSUAL, Code.TWO_PLACES)
    assert "198.51.100.0/24 while one from 192.0.2.0/24 was running" in finding.reason.evidence
    assert keys.asks(keys.call(HOME))


def test_a_call_that_ended_is_beside_nothing() -> None:
    keys = known(HOME, OFFICE)
    first = keys.call(HOME)
    assert keys.asks(first) == ()
    keys.assessor.ended(first)
    assert keys.asks(keys.call(OFFICE)) == ()


def test_a_held_call_that_is_judged_again_did_not_move() -> None:
    keys = known(HOME, OFFICE)
    held = keys.call(HOME)
    assert keys.asks(held) == ()
    keys.assessor.ended(held)
    for _ in range(4):
        held = keys.call(OFFICE)
        assert keys.asks(held) == keys.asks(held) == ()
        keys.assessor.ended(held)


def test_of_a_known_and_an_unknown_place_the_unknown_one_is_doubted_also_for_what_is_public() -> None:
    keys = known(HOME)
    running = keys.call(HOME)
    assert keys.asks(running) == ()
    found = keys.asks(keys.call(ABROAD, client="curl/8"))
    (here,) = [one for one in found if one.reason.code is Code.TWO_PLACES]
    assert here.band is Band.ALARMING
    assert "with other software" in here.reason.evidence
    asked, _ = required(TAGS, found, irreversible=frozenset())
    assert asked.demands == {Demand.POSSESSION}
    assert keys.asks(keys.call(HOME)) == ()


def test_a_workload_that_proves_itself_may_be_at_both_from_then_on() -> None:
    keys = known(HOME, OFFICE)
    for address in (HOME, OFFICE, HOME):
        keys.runs(address)
    assert keys.runs(OFFICE, proven=CONSENT)
    assert keys.runs(HOME, proven=POSSESSION)
    for address in (OFFICE, HOME) * 4:
        assert keys.runs(address) == ()
    stored = load(dump(keys.profiles["key-of-robot"]))
    assert stored.together == ("192.0.2.0/24 198.51.100.0/24",)
    joined = Profile()
    joined.add(stored)
    assert joined.together == stored.together


def test_pairs_of_places_are_bounded() -> None:
    profile = Profile()
    for number in range(1000):
        profile.with_pair(f"10.0.{number}.0/24 192.0.2.0/24")
    assert len(profile.together) == TOGETHER


@pytest.mark.parametrize("jump", [-1e9, 1e9, float("inf"), float("nan")])
def test_a_clock_that_jumps_hides_no_second_place(jump: float) -> None:
    keys = known(HOME, OFFICE)
    keys.now += jump
    assert keys.asks(keys.call(HOME)) == ()
    assert keys.asks(keys.call(OFFICE))


# ---------------------------------------------------------------- many keys at one place


def bundle(keys: Keys, number: int, address: str, age: float = 30 * DAY) -> list[tuple[Code, ...]]:
    return [keys.runs(address, f"agent-{one}", age=age) for one in range(number)]


def test_many_keys_that_turn_up_at_one_foreign_network_are_doubted() -> None:
    keys = Keys()
    for number in range(14):
        keys.runs(f"10.0.{number}.1", f"agent-{number}")
    seen = bundle(keys, 14, ABROAD)
    assert seen[:3] == [(Code.NEW_NETWORK,)] * 3
    assert all(Code.MANY_KEYS in one for one in seen[3:])
    (finding,) = [one for one in keys.asks(keys.call(ABROAD, "agent-0")) if one.reason.code is Code.MANY_KEYS]
    assert (finding.cause, finding.band) == (Doubt.IDENTITY, Band.ALARMING)
    assert "203.0.113.0/24: 14 agents that were never there, within an hour; also agent-1," in finding.reason.evidence


def test_a_key_nobody_used_yet_does_not_make_a_thiefs_network_its_home() -> None:
    keys = Keys()
    assert bundle(keys, 3, ABROAD) == [()] * 3
    assert bundle(keys, 5, ABROAD)[4] == (Code.MANY_KEYS,)
    assert keys.runs(ABROAD, "agent-4") == (Code.MANY_KEYS,)


def test_agents_at_home_and_a_fleet_that_was_just_set_up_are_no_strangers() -> None:
    keys = Keys()
    assert bundle(keys, 40, HOME, age=3600.0) == [()] * 40
    keys.now += 40 * DAY
    assert bundle(keys, 40, HOME) == [()] * 40


def test_whoever_proves_possession_is_a_stranger_no_more() -> None:
    keys = Keys()
    bundle(keys, 5, ABROAD)
    assert keys.runs(ABROAD, "agent-4", proven=POSSESSION) == (Code.MANY_KEYS,)
    assert keys.runs(ABROAD, "agent-4") == ()
    assert keys.runs(ABROAD, "agent-0", proven=CONSENT) == (Code.MANY_KEYS,)
    assert keys.runs(ABROAD, "agent-0") == (Code.MANY_KEYS,)


def test_strangers_are_forgotten_after_an_hour() -> None:
    keys = Keys()
    bundle(keys, 5, ABROAD)
    keys.now += 2 * 3600.0
    assert keys.runs(ABROAD, "agent-4") == ()


# ---------------------------------------------------------------- old keys


def aged(days: float) -> Call:
    return replace(nouns.call(), principal=replace(nouns.PRINCIPAL, since=nouns.NOW - days * DAY))


def test_an_old_key_is_doubted_and_a_signature_calms_it_for_a_day() -> None:
    signal, old = AgeSignal(365), aged(400)
    assert signal.assess(aged(300)) == ()
    (finding,) = signal.assess(old)
    assert (finding.cause, finding.band, finding.reason.code) == (Doubt.IDENTITY, Band.UNUSUAL, Code.OLD_KEY)
    assert finding.reason.evidence == "made 400 days ago; rotate it within 365"
    signal.learn(old, CONSENT)
    assert signal.assess(old)
    signal.learn(old, POSSESSION)
    assert signal.assess(old) == ()
    assert signal.assess(replace(old, received=old.received + DAY))
    assert AgeSignal(0).assess(old) == ()


def test_a_key_that_is_not_the_guards_has_no_age() -> None:
    assert AgeSignal(1).assess(nouns.call()) == ()


@pytest.mark.parametrize("now", [float("nan"), float("inf")])
def test_a_time_that_is_no_number_makes_no_key_young(now: float) -> None:
    assert AgeSignal(365).assess(replace(aged(1), received=now))

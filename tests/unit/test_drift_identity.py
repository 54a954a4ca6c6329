"""Hours, client software and volume: what casts doubt on who calls, and on how much."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guard.drift.client import ClientSignal, family
from guard.drift.hours import HourSignal, hour_of
from guard.drift.profile import DAY, HOURS, Lesson, Profile
from guard.drift.profiles import Profiles, peers_of
from guard.drift.snapshot import dump, load
from guard.drift.usual import limit
from guard.drift.volume import VolumeSignal
from guard.model import Band, Call, Doubt, ProofClass, Source
from guard.reasons import Code
from tests import nouns

KEY = nouns.PRINCIPAL.credential
NOTHING: frozenset[ProofClass] = frozenset()
CONSENT = frozenset({ProofClass.CONSENT})
POSSESSION = frozenset({ProofClass.POSSESSION})
MONDAY = 1_800_144_000.0 - 1_800_144_000.0 % DAY
KB = 1024


def profiles() -> Profiles:
    made = Profiles()
    for key in (KEY, peers_of("payments")):
        made.load(key, None)
    return made


def at(when: float, client: str = "") -> Call:
    call = replace(nouns.call(), received=when)
    return replace(call, source=Source(transport="http", address="192.0.2.7", client=client))


def office_hours(signal: HourSignal, known: Profiles, weeks: int = 4, calls: int = 2) -> float:
    """Teach so many calls an hour from 9 to 17 on every day; the midnight after."""
    monday = int(MONDAY // DAY)
    known[KEY].learn(Lesson("payments/look", "", (), MONDAY, monday), known[KEY])
    for day in range(weeks * 7):
        for hour in range(9, 17):
            for _ in range(calls):
                signal.learn(at(MONDAY + day * DAY + hour * 3600), NOTHING)
    return MONDAY + weeks * 7 * DAY


def test_the_hours_of_a_week_are_told_apart() -> None:
    assert {hour_of(MONDAY + hour * 3600.0) for hour in range(7 * 24)} == set(range(HOURS))


def test_a_key_used_in_the_middle_of_the_night_is_doubted_until_it_proves_itself() -> None:
    known = profiles()
    signal = HourSignal(known)
    night = office_hours(signal, known) + 3 * 3600
    assert signal.assess(at(night + 7 * 3600)) == ()
    (finding,) = signal.assess(at(night))
    assert (finding.cause, finding.band, finding.reason.code) == (Doubt.IDENTITY, Band.UNUSUAL, Code.NEW_HOUR)
    assert not signal.learn(at(night), CONSENT)
    assert signal.assess(at(night))
    for _ in range(3):
        signal.learn(at(night), POSSESSION)
    assert signal.assess(at(night)) == ()  # an unattended agent that keeps proving itself gets calm again


def test_no_hour_is_strange_in_the_first_two_weeks() -> None:
    known = profiles()
    signal = HourSignal(known)
    night = office_hours(signal, known, weeks=1, calls=8) + 3 * 3600
    assert signal.assess(at(night)) == ()


@pytest.mark.parametrize("name", ["Claude-Code/2.1", "claude-code 2.2 (linux)", "CLAUDE-CODE"])
def test_a_new_version_of_the_same_client_is_nothing_new(name: str) -> None:
    assert family(name) == "claude-code"


def test_a_key_used_with_other_software_is_doubted_and_churning_names_does_not_help() -> None:
    known = profiles()
    signal = ClientSignal(known)
    assert signal.learn(at(MONDAY, "claude-code/2.1"), NOTHING)
    assert signal.assess(at(MONDAY, "claude-code/3")) == ()
    assert signal.assess(at(MONDAY)) == ()
    for number in range(20):
        call = at(MONDAY, f"x{number}")
        (finding,) = signal.assess(call)
        assert (finding.cause, finding.reason.code) == (Doubt.IDENTITY, Code.NEW_CLIENT)
        assert not signal.learn(call, CONSENT)
    assert signal.learn(at(MONDAY, "curl"), POSSESSION)
    assert signal.assess(at(MONDAY, "curl")) == ()


def month(signal: VolumeSignal, calls: int = 20, size: int = 10 * KB) -> float:
    for day in range(30):
        for number in range(calls):
            signal.learn(at(MONDAY + day * DAY + number), NOTHING, size)
    return MONDAY + 30 * DAY


def test_many_small_pieces_add_up_to_a_bulk_export() -> None:
    known = profiles()
    signal = VolumeSignal(known)
    start, asked = month(signal), []
    for piece in range(1000):
        call = at(start + piece * 60)
        if findings := signal.assess(call):
            asked.append((piece, max(one.band for one in findings)))
        signal.learn(call, NOTHING, KB)
    assert 20 < asked[0][0] < 200
    assert asked[0][1] is Band.UNUSUAL
    assert asked[-1][1] is Band.ALARMING


def test_one_bulk_result_makes_the_next_call_of_the_day_unusual() -> None:
    known = profiles()
    signal = VolumeSignal(known)
    start = month(signal)
    signal.learn(at(start), NOTHING, 500 * 1000 * KB)
    (finding,) = signal.assess(at(start + 1))
    assert (finding.cause, finding.band, finding.reason.code) == (Doubt.INTENT, Band.ALARMING, Code.MUCH_DATA)
    assert signal.assess(at(start + DAY)) == ()


def test_a_bulk_result_is_found_before_it_is_delivered_and_counts_on_top_of_the_day() -> None:
    known = profiles()
    signal = VolumeSignal(known)
    assert not signal.knows_size(at(MONDAY))
    assert signal.bulky(at(MONDAY), 500 * 1000 * KB) is None, "nobody knows yet what is usual"
    start = month(signal)
    assert signal.knows_size(at(start))
    assert signal.bulky(at(start), 200 * KB) is None
    found = signal.bulky(at(start), 500 * 1000 * KB)
    assert found is not None
    assert (found.cause, found.band, found.reason.code) == (Doubt.INTENT, Band.ALARMING, Code.MUCH_DATA)
    assert signal.assess(at(start)) == (), "asking counts nothing"
    signal.learn(at(start), NOTHING, 500 * KB)
    later = signal.bulky(at(start + 1), 200 * KB)
    assert later is not None
    assert later.band is Band.UNUSUAL
    signal.learn(at(start + 2), CONSENT, KB)
    assert signal.bulky(at(start + 3), 10 * KB) is None, "a person allowed as much again today"


@pytest.mark.parametrize("often", [1, 2, 7])
def test_a_day_far_beyond_the_usual_teaches_no_more_where_profiles_are_stored_meanwhile(often: int) -> None:
    def learnt(stored: bool) -> list[float]:
        known, text = profiles(), dump(Profile())
        signal = VolumeSignal(known)
        for day in range(31):
            for number in range(2000 if day == 29 else 20):
                signal.learn(at(MONDAY + day * DAY + number), NOTHING, 10 * KB)
            if stored and (day % often == 0 or day > 28):
                whole = load(text)
                whole.add(known.take(KEY))
                text = dump(whole)
                known.put(KEY, whole)
        return known[KEY].daily["calls"]

    assert learnt(stored=True) == pytest.approx(learnt(stored=False), abs=0.01)


def test_a_person_who_allows_a_large_day_is_not_asked_for_each_of_its_calls() -> None:
    known = profiles()
    signal = VolumeSignal(known)
    start = month(signal)
    signal.learn(at(start), NOTHING, 5000 * KB)
    assert signal.assess(at(start + 1))
    signal.learn(at(start + 1), CONSENT, KB)
    assert signal.assess(at(start + 2)) == ()


def test_a_day_that_was_too_much_teaches_no_more_than_the_most_that_was_usual() -> None:
    known = profiles()
    signal = VolumeSignal(known)
    start = month(signal)
    before = limit(known[KEY].daily["bytes"])
    for day in range(3):
        signal.learn(at(start + day * DAY), NOTHING, 10_000_000 * KB)
    after = limit(known[KEY].daily["bytes"])
    assert before is not None
    assert after is not None
    assert after - before < 1.0


def test_storing_often_does_not_cut_days_into_pieces() -> None:
    whole, pieces = profiles(), profiles()
    once, often = VolumeSignal(whole), VolumeSignal(pieces)
    stored = dump(pieces[KEY])
    for day in range(12):
        for number in range(10):
            call = at(MONDAY + day * DAY + number * 3600)
            once.learn(call, NOTHING, KB)
            often.learn(call, NOTHING, KB)
            if number % 3 == 1:
                merged = load(stored)
                merged.add(pieces.take(KEY))
                stored = dump(merged)
                pieces.put(KEY, merged)
    for kind, stats in whole[KEY].daily.items():
        assert pieces[KEY].daily[kind] == pytest.approx(stats, rel=1e-3)
    assert pieces[KEY].today.calls == whole[KEY].today.calls

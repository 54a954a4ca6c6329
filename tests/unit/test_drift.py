"""What the network signal finds, learns, and must not learn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.drift.assess import Assessor
from guard.drift.network import NetworkSignal, network_of
from guard.drift.profile import NETWORKS, Profile
from guard.drift.profiles import Profiles
from guard.drift.snapshot import dump, load
from guard.model import Band, Call, Classification, Doubt, Finding, ProofClass, Sensitivity
from guard.reasons import Code
from tests import nouns

KEY = nouns.PRINCIPAL.credential
NOTHING: frozenset[ProofClass] = frozenset()
POSSESSION = frozenset({ProofClass.POSSESSION})
TAGS = Classification(sensitivity=Sensitivity.INTERNAL)
CONSENT = frozenset({ProofClass.CONSENT})
HOME, ABROAD = nouns.call(address="192.0.2.7"), nouns.call(address="203.0.113.9")


def fresh() -> tuple[Assessor, Profiles]:
    profiles = Profiles()
    profiles.load(KEY, None)
    return Assessor([NetworkSignal(profiles)]), profiles


def networks_only(*networks: str) -> Profile:
    profile = Profile()
    for network in networks:
        profile.with_network(network)
    return profile


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix", "unknown 'unix'"),
    ],
)
def test_an_address_belongs_to_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


def test_the_first_network_of_a_key_is_its_baseline_and_another_one_is_found() -> None:
    assessor, _ = fresh()
    assert assessor.assess(HOME, TAGS) == ()
    assert assessor.learn(HOME, NOTHING)
    assert assessor.assess(nouns.call(address="192.0.2.200"), TAGS) == ()
    (finding,) = assessor.assess(ABROAD, TAGS)
    assert (finding.cause, finding.band, finding.reason.code) == (Doubt.IDENTITY, Band.UNUSUAL, Code.NEW_NETWORK)
    assert finding.reason.evidence == "203.0.113.0/24; so far 192.0.2.0/24"


def test_looking_at_a_call_teaches_nothing() -> None:
    assessor, profiles = fresh()
    assessor.assess(HOME, TAGS)
    assert assessor.assess(ABROAD, TAGS) == ()
    assert profiles.dirty == ()


@pytest.mark.parametrize("proven", [NOTHING, CONSENT])
def test_only_possession_teaches_another_network(proven: frozenset[ProofClass]) -> None:
    assessor, _ = fresh()
    assessor.learn(HOME, NOTHING)
    assert not assessor.learn(ABROAD, proven)
    assert assessor.assess(ABROAD, TAGS)
    assert assessor.learn(ABROAD, POSSESSION | proven)
    assert assessor.assess(ABROAD, TAGS) == ()


def test_a_network_that_was_calm_a_moment_ago_does_not_vouch_for_another_one() -> None:
    assessor, _ = fresh()
    for _ in range(3):
        assert assessor.assess(HOME, TAGS) == ()
        assessor.learn(HOME, NOTHING)
    assert assessor.assess(ABROAD, TAGS)
    assert not assessor.learn(ABROAD, NOTHING)
    assert assessor.assess(HOME, TAGS) == ()
    assert assessor.assess(ABROAD, TAGS)


def test_what_was_calm_only_because_nothing_was_known_is_looked_at_again_once_something_is() -> None:
    assessor, _ = fresh()
    assert assessor.assess(ABROAD, TAGS) == ()
    assert assessor.assess(HOME, TAGS) == ()
    assert assessor.assess(ABROAD, TAGS) == ()
    assert assessor.learn(HOME, NOTHING)
    assert assessor.assess(ABROAD, TAGS)


def test_a_call_over_stdio_has_no_network() -> None:
    assessor, _ = fresh()
    assessor.learn(HOME, NOTHING)
    local = nouns.call(address="")
    assert assessor.assess(local, TAGS) == ()
    assert not assessor.learn(local, POSSESSION)


def test_a_key_whose_profile_was_not_loaded_is_not_taken_for_a_new_one() -> None:
    signal = NetworkSignal(Profiles())
    with pytest.raises(KeyError):
        signal.assess(HOME)
    with pytest.raises(KeyError):
        signal.learn(HOME, NOTHING)


def test_a_broken_signal_is_no_calm_signal() -> None:
    class Broken:
        def assess(self, call: Call) -> tuple[Finding, ...]:
            raise ArithmeticError(call.id)

        def learn(self, call: Call, proven: frozenset[str]) -> bool:
            raise ArithmeticError(call.id, proven)

    with pytest.raises(ArithmeticError):
        Assessor([Broken()]).assess(HOME, TAGS)


@given(st.lists(st.from_regex(r"[0-9]{1,3}\.0\.2\.0/24", fullmatch=True), max_size=40))
def test_a_profile_survives_its_snapshot_stays_bounded_and_keeps_its_baseline(networks: list[str]) -> None:
    profile = networks_only(*networks)
    assert load(dump(profile)).networks == profile.networks
    assert len(profile.networks) <= NETWORKS
    assert profile.networks[:1] == tuple(networks[:1])


@pytest.mark.parametrize("snapshot", ["", "{}", "[]", '{"v":2,"networks":[]}', '{"v":1,"networks":[1]}', '{"v":1}'])
def test_an_unreadable_snapshot_is_an_error_and_not_an_empty_profile(snapshot: str) -> None:
    with pytest.raises(ValueError):
        Profiles().load(KEY, snapshot)


def test_what_was_learnt_is_dirty_until_it_is_taken_and_again_when_it_is_given_back() -> None:
    assessor, profiles = fresh()
    assessor.learn(HOME, NOTHING)
    assert profiles.dirty == (KEY,)
    learnt = profiles.take(KEY)
    assert profiles.dirty == ()
    assessor.learn(ABROAD, POSSESSION)
    profiles.give_back(KEY, learnt)
    assert profiles.take(KEY).networks == ("192.0.2.0/24", "203.0.113.0/24")


def test_what_another_process_stored_is_joined_with_what_was_learnt_here() -> None:
    assessor, profiles = fresh()
    assessor.learn(HOME, NOTHING)
    profiles.load(KEY, dump(networks_only("198.51.100.0/24")))
    assert profiles[KEY].networks == ("198.51.100.0/24", "192.0.2.0/24")


def test_a_snapshot_from_before_behaviour_was_learnt_keeps_its_networks() -> None:
    assert load('{"v":1,"networks":["198.51.100.0/24"]}').networks == ("198.51.100.0/24",)

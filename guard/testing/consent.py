"""What stores promise about intents, notices and emergencies."""

from __future__ import annotations

from dataclasses import replace

from guard.intents import Intent
from guard.model import (
    Demand,
    Requirement,
    State,
)
from guard.notices import Stage
from guard.ports import Emergency, Store
from guard.testing.examples import NOON, RACERS, example_challenge, race, satisfied


class IntentContract:
    """What `guard.ports.Intents` promises, and `Challenges.swap` of their uses."""

    @staticmethod
    def _intent(number: int = 1, **changes: str) -> Intent:
        made = Intent(
            id=f"i_{number}",
            agent="deployer",
            server="payments",
            tool="refund",
            ends=NOON + 60,
            published=NOON,
            payload=b'{"amount":12}',
            signature=b"\0" * 64,
        )
        return replace(made, **changes)  # type: ignore[arg-type]  # texts only

    def test_an_intent_is_kept_once_and_found_by_its_call(self, store: Store) -> None:
        """Newest first."""
        one, two, other = self._intent(1), self._intent(2), self._intent(3, tool="pay")
        assert [store.intents.add(intent) for intent in (one, two, other)] == [True, True, True]
        assert not store.intents.add(replace(one, payload=b"{}"))
        assert store.intents.get("i_1") == one
        assert store.intents.get("none") is None
        assert store.intents.find(agent="deployer", server="payments", tool="refund", limit=9) == (two, one)
        assert store.intents.find(limit=2) == (other, two)
        assert not store.intents.find(agent="nobody", limit=9)

    def test_an_intent_is_revoked_once(self, store: Store) -> None:
        """And stays."""
        store.intents.add(self._intent())
        assert store.intents.revoke("i_1", NOON + 1)
        assert not store.intents.revoke("i_1", NOON + 2)
        assert not store.intents.revoke("none", NOON)
        assert store.intents.get("i_1") == replace(self._intent(), revoked=NOON + 1)

    def test_one_use_is_won_by_one_of_many_challenges(self, store: Store) -> None:
        """The others change nothing at all, nor does a swap that comes too late spend a use."""
        store.intents.add(self._intent())
        challenges = [store.challenges.open_or_join(example_challenge(number)) for number in range(RACERS)]
        won = race(
            lambda racer: store.challenges.swap(
                challenges[racer], satisfied(challenges[racer]), durable=True, spends={"i_1": 1}
            )
        )
        assert won.count(True) == 1
        found = store.intents.get("i_1")
        assert found is not None
        assert found.used == 1
        states = [store.challenges.get(challenge.id) for challenge in challenges]
        assert [one is not None and one.state is State.SATISFIED for one in states] == won
        winner = challenges[won.index(True)]
        assert not store.challenges.swap(winner, satisfied(winner), durable=True, spends={"i_1": 9})
        assert store.intents.get("i_1") == found

    def test_a_revoked_or_unknown_intent_is_not_spent(self, store: Store) -> None:
        """And takes the change of the challenge with it."""
        store.intents.add(self._intent())
        store.intents.revoke("i_1", NOON)
        challenge = store.challenges.open_or_join(example_challenge())
        for intent in ("i_1", "none"):
            assert not store.challenges.swap(challenge, satisfied(challenge), durable=True, spends={intent: 9})
        assert store.challenges.get(challenge.id) == challenge


class ConsentContract:
    """What `guard.notices.Notices` and `guard.ports.Emergencies` promise, and how much waits for people."""

    def test_what_waits_is_counted_by_the_group_that_is_asked(self, store: Store) -> None:
        """Only while somebody may still answer, and only where a person can."""
        machine = replace(example_challenge(1), requirement=Requirement(frozenset({Demand.POSSESSION}), "oncall"))
        for challenge in (
            machine,
            example_challenge(2),
            example_challenge(3),
            replace(example_challenge(4), expires=0),
        ):
            store.challenges.open_or_join(challenge)
        assert store.challenges.waiting(NOON) == {"payments-oncall": 2}
        assert store.challenges.swap(example_challenge(2), satisfied(example_challenge(2)), durable=False)
        assert store.challenges.waiting(NOON) == {"payments-oncall": 1}
        assert not store.challenges.waiting(NOON + 900)

    def test_what_was_decided_comes_newest_first(self, store: Store) -> None:
        """Pending ones and those of others are left out."""
        for number in (1, 2, 3):
            challenge = store.challenges.open_or_join(example_challenge(number))
            if number < 3:  # noqa: PLR2004 - the last one waits
                assert store.challenges.swap(challenge, satisfied(challenge), durable=False)
        found = store.challenges.decided("deployer", 10)
        assert [one.id for one in found] == [example_challenge(2).id, example_challenge(1).id]
        assert [one.id for one in store.challenges.decided("deployer", 1)] == [example_challenge(2).id]
        assert not store.challenges.decided("somebody", 10)
        assert store.challenges.decided("deployer", 10, state=State.SATISFIED) == found
        assert not store.challenges.decided("deployer", 10, state=State.DENIED)

    def test_a_notice_is_due_until_it_was_told(self, store: Store) -> None:
        """Each stage for itself; a claim keeps others away for a while only."""
        challenge, notices = store.challenges.open_or_join(example_challenge()), store.notices
        assert not notices.due(Stage.OPENED, NOON, after=1, limit=9)
        assert notices.due(Stage.OPENED, NOON + 1, after=1, limit=9) == (challenge,)
        assert not notices.due(Stage.OPENED, NOON + 1, after=1, limit=9, without={"deployer"})
        assert not notices.due(Stage.ESCALATED, NOON + 449, after=1, limit=9)
        assert notices.due(Stage.ESCALATED, NOON + 450, after=1, limit=9) == (challenge,)
        assert notices.claim(challenge.id, Stage.OPENED, NOON + 1)
        assert not notices.due(Stage.OPENED, NOON + 2, after=1, limit=9)
        assert not notices.claim(challenge.id, Stage.OPENED, NOON + 2)
        assert notices.due(Stage.OPENED, NOON + 200, after=1, limit=9) == (challenge,)
        assert notices.claim(challenge.id, Stage.OPENED, NOON + 200)
        notices.told(challenge.id, Stage.OPENED, NOON + 201)
        assert not notices.due(Stage.OPENED, NOON + 800, after=1, limit=9)
        assert not notices.claim(challenge.id, Stage.OPENED, NOON + 800)
        assert not notices.due(Stage.ESCALATED, NOON + 900, after=1, limit=9)

    def test_one_of_many_tells_people(self, store: Store) -> None:
        """Whoever claims first."""
        challenge = store.challenges.open_or_join(example_challenge())
        won = race(lambda _: store.notices.claim(challenge.id, Stage.OPENED, NOON))
        assert won.count(True) == 1

    def test_one_emergency_waits_for_its_review_however_many_try(self, store: Store) -> None:
        """And the next one may come after it."""

        def smash(number: int) -> bool:
            made = Emergency(challenge=f"c_{number}", subject="ann", at=NOON, reason="fire", ticket="INC-1")
            return store.emergencies.add(made)

        assert race(smash).count(True) == 1
        [waiting] = store.emergencies.since(NOON)
        assert not store.emergencies.review("c_other", by="ben", verdict="right", at=NOON + 1)
        assert store.emergencies.review(waiting.challenge, by="ben", verdict="right", at=NOON + 1)
        assert not store.emergencies.review(waiting.challenge, by="cy", verdict="wrong", at=NOON + 2)
        assert not store.emergencies.since(NOON)
        [reviewed] = store.emergencies.since(NOON - 1)
        assert (reviewed.reviewer, reviewed.verdict) == ("ben", "right")
        assert smash(RACERS + 1)

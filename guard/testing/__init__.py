"""Contract suites: what every implementation of a port must keep, as tests to inherit.

::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self, tmp_path: Path) -> Iterator[Store]: ...

The tests need nothing but the fixtures they name. They are written against `guard.ports` only.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from guard.model import Principal, State
from guard.ports import Agent, Approver, Credential, Factor, Lane, Pin, Store
from guard.testing.consent import ConsentContract, IntentContract
from guard.testing.examples import NOON, consumed, example_challenge, example_proof, race, satisfied
from guard.testing.results import ResultContract

__all__ = [
    "ChallengeContract",
    "ConsentContract",
    "IntentContract",
    "MemoryContract",
    "PeopleContract",
    "ResultContract",
    "StoreContract",
    "consumed",
    "example_challenge",
    "example_proof",
    "race",
    "satisfied",
]


class ChallengeContract:
    """What `guard.ports.Challenges` promises."""

    def test_a_challenge_comes_back_as_it_went_in(self, store: Store) -> None:
        """Every field survives, through proofs as well."""
        challenge = example_challenge()
        assert store.challenges.open_or_join(challenge) == challenge
        assert store.challenges.get(challenge.id) == challenge
        proven = satisfied(challenge)
        assert store.challenges.swap(challenge, proven, durable=False)
        assert store.challenges.get(challenge.id) == proven

    def test_what_is_unknown_is_none(self, store: Store) -> None:
        """Absence is a value."""
        assert store.challenges.get("c_none") is None
        assert store.challenges.by_digest("none") is None
        assert not store.challenges.states(["c_none"])
        assert not store.challenges.states([])

    def test_the_same_call_joins_the_open_challenge(self, store: Store) -> None:
        """One open challenge for a digest, pending or satisfied."""
        first = store.challenges.open_or_join(example_challenge(1, digest="same"))
        assert store.challenges.open_or_join(example_challenge(2, digest="same")) == first
        assert store.challenges.swap(first, satisfied(first), durable=False)
        assert store.challenges.open_or_join(example_challenge(3, digest="same")) == satisfied(first)
        assert store.challenges.get("c_" + "2".zfill(22)) is None

    def test_a_closed_challenge_makes_room_for_the_next(self, store: Store) -> None:
        """And `by_digest` gives the newest, whatever the clocks said."""
        first = store.challenges.open_or_join(example_challenge(1, digest="same"))
        denied = replace(first, state=State.DENIED, version=1, arguments="", ended_by="ann", ended_because="no")
        assert store.challenges.swap(first, denied, durable=True)
        assert store.challenges.by_digest("same") == denied
        second = replace(example_challenge(2, digest="same"), opened=NOON - 60)
        assert store.challenges.open_or_join(second) == second
        assert store.challenges.by_digest("same") == second

    def test_arguments_are_dropped_when_the_challenge_closes(self, store: Store) -> None:
        """Even when the caller forgot to."""
        challenge = store.challenges.open_or_join(example_challenge())
        assert store.challenges.swap(challenge, replace(challenge, state=State.EXPIRED, version=1), durable=False)
        closed = store.challenges.get(challenge.id)
        assert closed is not None
        assert (closed.state, closed.arguments) == (State.EXPIRED, "")

    def test_a_closed_challenge_is_never_opened(self, store: Store) -> None:
        """It would be in nobody's way, and so escape the rule of one."""
        with pytest.raises(ValueError, match="pending"):
            store.challenges.open_or_join(replace(example_challenge(), state=State.DENIED))

    def test_a_swap_against_a_stale_version_or_state_is_lost(self, store: Store) -> None:
        """Whoever looked earlier must look again."""
        challenge = store.challenges.open_or_join(example_challenge())
        proven = satisfied(challenge)
        assert store.challenges.swap(challenge, proven, durable=False)
        assert not store.challenges.swap(challenge, proven, durable=False)
        assert not store.challenges.swap(replace(proven, version=0), consumed(proven), durable=True)
        assert not store.challenges.swap(replace(proven, state=State.PENDING), consumed(proven), durable=True)
        assert store.challenges.get(challenge.id) == proven

    def test_a_forgotten_version_never_lets_two_swaps_win(self, store: Store) -> None:
        """The store counts, not the caller."""
        challenge = store.challenges.open_or_join(example_challenge())
        unchanged = replace(satisfied(challenge), version=challenge.version)
        assert store.challenges.swap(challenge, unchanged, durable=False)
        assert not store.challenges.swap(unchanged, consumed(unchanged), durable=True)
        assert store.challenges.states([challenge.id]) == {challenge.id: (State.SATISFIED, 1)}

    def test_a_swap_never_rebinds(self, store: Store) -> None:
        """A grant for one call cannot become a grant for another."""
        challenge = store.challenges.open_or_join(example_challenge())
        with pytest.raises(ValueError, match="binds"):
            store.challenges.swap(challenge, replace(satisfied(challenge), digest="other"), durable=False)
        assert store.challenges.get(challenge.id) == challenge

    def test_a_grant_for_another_digest_is_not_consumed(self, store: Store) -> None:
        """The digest is part of the comparison."""
        challenge = store.challenges.open_or_join(example_challenge())
        proven = satisfied(challenge)
        assert store.challenges.swap(challenge, proven, durable=False)
        other = replace(proven, digest="other")
        assert not store.challenges.swap(other, consumed(other), durable=True)

    def test_one_grant_is_consumed_once_by_many_threads(self, store: Store) -> None:
        """Exactly one winner, and the row is the winner's."""
        challenge = store.challenges.open_or_join(example_challenge())
        proven = satisfied(challenge)
        assert store.challenges.swap(challenge, proven, durable=False)
        won = race(lambda racer: store.challenges.swap(proven, consumed(proven, f"racer {racer}"), durable=True))
        assert won.count(True) == 1
        assert store.challenges.get(challenge.id) == consumed(proven, f"racer {won.index(True)}")

    def test_many_threads_open_one_challenge(self, store: Store) -> None:
        """All of them get the same one."""
        opened = race(lambda racer: store.challenges.open_or_join(example_challenge(racer, digest="same")))
        assert len({challenge.id for challenge in opened}) == 1
        assert store.challenges.find() == (opened[0],)

    def test_challenges_are_found_by_state_and_principal(self, store: Store) -> None:
        """Oldest first."""
        mine = [store.challenges.open_or_join(example_challenge(number)) for number in range(3)]
        other = replace(example_challenge(3), principal=Principal(subject="other", credential="k"))
        store.challenges.open_or_join(other)
        proven = satisfied(mine[1])
        assert store.challenges.swap(mine[1], proven, durable=False)
        assert store.challenges.find() == (mine[0], proven, mine[2], other)
        assert store.challenges.find(states=frozenset({State.SATISFIED})) == (proven,)
        assert store.challenges.find(states=frozenset({State.PENDING}), principal="deployer") == (mine[0], mine[2])
        assert store.challenges.find(principal="other") == (other,)

    def test_challenges_are_found_by_the_time_they_expire(self, store: Store) -> None:
        """So that housekeeping reads those only that are due."""
        early = store.challenges.open_or_join(example_challenge(1))
        late = store.challenges.open_or_join(replace(example_challenge(2), expires=early.expires + 1))
        assert store.challenges.find(due=early.expires) == (early,)
        assert store.challenges.find(due=late.expires) == (early, late)

    def test_open_challenges_are_counted_by_principal_as_long_as_they_can_be_answered(self, store: Store) -> None:
        """Those that ended or ran out of time take nobody's place."""
        first, second = (store.challenges.open_or_join(example_challenge(number)) for number in (1, 2))
        assert store.challenges.count_open(first.principal.subject, first.opened) == 2  # noqa: PLR2004
        assert store.challenges.count_open(first.principal.subject, first.expires) == 0
        assert store.challenges.count_open("other", first.opened) == 0
        store.challenges.swap(second, replace(second, state=State.DENIED, arguments=""), durable=False)
        assert store.challenges.count_open(first.principal.subject, first.opened) == 1

    def test_states_of_many_challenges_are_told_at_once(self, store: Store) -> None:
        """However many are waited for."""
        challenges = [store.challenges.open_or_join(example_challenge(number)) for number in range(3)]
        unknown = [f"c_unknown{number}" for number in range(1200)]
        told = store.challenges.states([*unknown, *(challenge.id for challenge in challenges)])
        assert told == {challenge.id: (State.PENDING, 0) for challenge in challenges}


class PeopleContract:
    """What `guard.ports.Agents`, `Approvers` and `Factors` promise."""

    def test_a_name_is_taken_once(self, store: Store) -> None:
        """Also after the agent was revoked."""
        robot = Agent(name="robot", owner="ann", created=NOON)
        assert store.agents.add(robot)
        assert not store.agents.add(replace(robot, owner="mallory"))
        assert store.agents.revoke("robot", NOON + 1)
        assert not store.agents.add(replace(robot, owner="mallory"))
        assert store.agents.get("robot") == replace(robot, revoked=NOON + 1)
        assert store.agents.get("nobody") is None
        assert not store.agents.describe("robot", groups=frozenset({"release"}), claims=())

    def test_groups_and_claims_of_an_agent_are_kept_and_replaced(self, store: Store) -> None:
        """What is enrolled about an agent is what was said last."""
        claims = (("posture", "managed"), ("site", "B\u00e2le"))
        robot = Agent(name="robot", owner="ann", created=NOON, groups=frozenset({"ci", "release"}), claims=claims)
        assert store.agents.add(robot)
        assert store.agents.get("robot") == robot
        before = store.changed()
        assert store.agents.describe("robot", groups=frozenset({"ci"}), claims=())
        assert store.changed() != before
        assert store.agents.all() == (replace(robot, groups=frozenset({"ci"}), claims=()),)
        assert not store.agents.describe("nobody", groups=frozenset(), claims=())

    def test_agents_are_listed_by_name(self, store: Store) -> None:
        """Revoked or not."""
        agents = [Agent(name=name, owner="ann", created=NOON) for name in ("b", "a", "c")]
        assert all(store.agents.add(agent) for agent in agents)
        assert [agent.name for agent in store.agents.all()] == ["a", "b", "c"]

    def test_revoking_an_agent_revokes_every_credential(self, store: Store) -> None:
        """Once, and no other agent's."""
        for name in ("robot", "other"):
            store.agents.add(Agent(name=name, owner="ann", created=NOON))
            store.agents.add_credential(Credential(digest=f"{name}1", agent=name, created=NOON))
            store.agents.add_credential(Credential(digest=f"{name}2", agent=name, created=NOON + 1))
        assert store.agents.revoke("robot", NOON + 5)
        assert not store.agents.revoke("robot", NOON + 6)
        assert not store.agents.revoke("nobody", NOON + 6)
        assert [key.revoked for key in store.agents.credentials("robot")] == [NOON + 5, NOON + 5]
        assert [key.revoked for key in store.agents.credentials("other")] == [0, 0]

    def test_credentials_are_listed_newest_first(self, store: Store) -> None:
        """And found by digest."""
        keys = [Credential(digest=f"key{number}", agent="robot", created=NOON) for number in range(3)]
        for key in keys:
            store.agents.add_credential(key)
        assert store.agents.credentials("robot") == (keys[2], keys[1], keys[0])
        assert store.agents.credential("key1") == keys[1]
        assert store.agents.credential("none") is None

    def test_an_overlap_never_prolongs_a_credential(self, store: Store) -> None:
        """Only later ends are brought forward; the new key stays as it is."""
        ends = {"soon": NOON + 1, "late": NOON + 99, "never": 0.0, "new": 0.0}
        for digest, expires in ends.items():
            store.agents.add_credential(Credential(digest=digest, agent="robot", created=NOON, expires=expires))
        store.agents.expire_credentials("robot", NOON + 60, but="new")
        told = {key.digest: key.expires for key in store.agents.credentials("robot")}
        assert told == {"soon": NOON + 1, "late": NOON + 60, "never": NOON + 60, "new": 0.0}

    def test_approvers_are_replaced_by_name(self, store: Store) -> None:
        """Removed people stay listed."""
        ann = Approver(name="ann", groups=frozenset({"oncall", "approvers"}), created=NOON)
        store.approvers.put(ann)
        store.approvers.put(Approver(name="abe", groups=frozenset(), created=NOON))
        store.approvers.put(replace(ann, removed=NOON + 1))
        assert store.approvers.get("ann") == replace(ann, removed=NOON + 1)
        assert store.approvers.get("nobody") is None
        assert [approver.name for approver in store.approvers.all()] == ["abe", "ann"]

    def test_factors_are_found_by_subject_and_kind(self, store: Store) -> None:
        """Newest first; an empty subject means everyone's."""
        code = Factor(id="f1", kind="totp", subject="ann", created=NOON, public={"digits": 6}, secret=b"\0sealed")
        key = replace(code, id="f2", kind="signature", attestation=1, secret=b"", failures=(NOON, NOON + 0.5))
        other = replace(code, id="f3", subject="bob", public={"nested": {"list": [1, 2.5, None, True, "é"]}})
        for factor in (code, key, other):
            store.factors.add(factor)
            assert store.factors.get(factor.id) == factor
        assert store.factors.of("ann") == (key, code)
        assert store.factors.of("ann", "totp") == (code,)
        assert store.factors.of("", "totp") == (other, code)
        assert store.factors.get("none") is None

    def test_one_time_step_is_accepted_once_by_many_threads(self, store: Store) -> None:
        """A factor's counter moves by compare-and-swap."""
        factor = Factor(id="f1", kind="totp", subject="ann", created=NOON, public={})
        store.factors.add(factor)
        won = race(lambda racer: store.factors.swap(factor, replace(factor, counter=racer + 1, version=1)))
        assert won.count(True) == 1
        assert store.factors.get("f1") == replace(factor, counter=won.index(True) + 1, version=1)


class MemoryContract:
    """What `guard.ports.Lanes`, `Baselines`, `Sessions` and `Pins` promise."""

    def test_a_lane_never_shrinks(self, store: Store) -> None:
        """Nor does it change what it already holds."""
        store.lanes.put(Lane(name="a", size=2, root="r2"))
        store.lanes.put(Lane(name="a", size=2, root="r2"))
        store.lanes.put(Lane(name="a", size=3, root="r3"))
        for rewritten in (Lane(name="a", size=2, root="r2"), Lane(name="a", size=3, root="x")):
            with pytest.raises(ValueError, match="lane a"):
                store.lanes.put(rewritten)
        assert store.lanes.get("a") == Lane(name="a", size=3, root="r3")
        assert store.lanes.get("b") is None
        store.lanes.put(Lane(name="0", size=0, root=""))
        assert [lane.name for lane in store.lanes.all()] == ["0", "a"]

    def test_baselines_are_replaced(self, store: Store) -> None:
        """By key."""
        store.baselines.put("k", "{}")
        store.baselines.put("k", '{"v":1}')
        assert store.baselines.get("k") == '{"v":1}'
        assert store.baselines.get("none") is None

    def test_a_session_keeps_its_first_owner(self, store: Store) -> None:
        """Until it is dropped; and servers do not share sessions."""
        store.sessions.bind("git", "s1", "robot", NOON)
        store.sessions.bind("git", "s1", "mallory", NOON + 1)
        assert store.sessions.owner("git", "s1") == "robot"
        assert store.sessions.owner("files", "s1") is None
        store.sessions.drop("git", "s1")
        store.sessions.drop("git", "s1")
        assert store.sessions.owner("git", "s1") is None

    def test_a_changed_definition_differs_until_it_is_accepted(self, store: Store) -> None:
        """Trust on first use, and not on second."""
        assert not store.pins.see("git", {"log": "l1", "push": "p1"})
        assert not store.pins.see("git", {"log": "l1"})
        changed = (Pin(server="git", tool="push", pinned="p1", seen="p2"),)
        assert store.pins.see("git", {"log": "l1", "push": "p2"}) == changed
        assert store.pins.see("git", {"log": "l1", "push": "p2"}) == changed
        assert store.pins.accept("git", "log") == 0
        assert store.pins.accept("files") == 0
        assert store.pins.accept("git", "push") == 1
        assert not store.pins.see("git", {"log": "l1", "push": "p2"})
        assert [pin.tool for pin in store.pins.all("git")] == ["log", "push"]
        assert not store.pins.all("files")

    def test_the_texts_of_definitions_are_kept_beside_their_digests(self, store: Store) -> None:
        """So that a change can be shown; a pin from before texts were kept gets its own text when it is seen again."""
        assert not store.pins.see("files", {"cut": "c1"}, {"cut": "one"})
        (changed_text,) = store.pins.see("files", {"cut": "c2"}, {"cut": "two"})
        assert (changed_text.pinned_text, changed_text.seen_text) == ("one", "two")
        assert store.pins.accept("files", "cut") == 1
        assert [(pin.pinned, pin.pinned_text) for pin in store.pins.all("files")] == [("c2", "two")]
        store.pins.see("old", {"log": "l1"})
        store.pins.see("old", {"log": "l1"}, {"log": "text of l1"})
        assert store.pins.all("old")[0].pinned_text == "text of l1"

    def test_a_definition_that_changes_back_no_longer_differs(self, store: Store) -> None:
        """What was pinned is what counts."""
        store.pins.see("git", {"push": "p1"})
        assert store.pins.see("git", {"push": "p2"})
        assert not store.pins.see("git", {"push": "p1"})
        assert store.pins.accept("git") == 0


class StoreContract(ChallengeContract, PeopleContract, IntentContract, MemoryContract, ConsentContract, ResultContract):
    """What `guard.ports.Store` promises: inherit it, and override the fixture."""

    @pytest.fixture
    def store(self) -> Store:
        """Give an empty store."""
        raise NotImplementedError("override the fixture `store`")

    def test_a_commit_is_noticed(self, store: Store) -> None:
        """Writes of any connection but the poller's own move the number."""
        before = store.changed()
        store.challenges.open_or_join(example_challenge())
        assert store.changed() != before

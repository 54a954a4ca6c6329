"""The part of the store's contract that the console rests on; beside `guard.testing.StoreContract`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from guard.model import ProofClass, Quorum, State
from guard.people import Login, Precedent, Range, Ticket
from guard.ports import Store
from guard.testing import example_challenge, example_proof, race

_NOON = 1_800_000_000.25


class ConsoleContract:
    """What the console asks of a store."""

    def test_a_ticket_is_taken_once_by_many_threads_and_only_for_its_purpose(self, store: Store) -> None:
        """And is issued once, while there is room."""
        tickets = store.people.tickets
        one = Ticket(digest="d1", purpose="vote", subject="ann", bound="c", created=_NOON, expires=_NOON + 10)
        assert tickets.issue(one, most=1)
        assert not tickets.issue(one, most=9)
        assert not tickets.issue(replace(one, digest="d2"), most=1)
        assert tickets.take("d1", "login", _NOON) is None
        assert tickets.peek("d1", "vote", _NOON + 10) is None
        won = race(lambda _: tickets.take("d1", "vote", _NOON))
        assert [one for one in won if one] == [one]
        assert tickets.peek("d1", "vote", _NOON) is None

    def test_tickets_are_dropped_by_purpose_and_subject_and_make_room_when_they_end(self, store: Store) -> None:
        """A new one finds the place of one whose time is up."""
        tickets = store.people.tickets
        one = Ticket(digest="d1", purpose="invite", subject="ann", bound="", created=_NOON, expires=_NOON + 10)
        assert tickets.issue(one, most=9)
        assert tickets.issue(replace(one, digest="d2", subject="bob"), most=9)
        tickets.drop("invite", "ann")
        assert tickets.peek("d1", "invite", _NOON) is None
        assert tickets.peek("d2", "invite", _NOON)
        assert tickets.issue(replace(one, digest="d3", created=_NOON + 11, expires=_NOON + 12), most=1)

    def test_a_login_ends_with_its_time_by_itself_or_with_all_of_its_person(self, store: Store) -> None:
        """Each in its own way."""
        logins = store.people.logins
        one = Login(digest="d1", subject="ann", method="webauthn", created=_NOON, expires=_NOON + 10)
        for digest in ("d1", "d2", "d3"):
            logins.open(replace(one, digest=digest))
        assert logins.get("d1", _NOON) == one
        assert logins.get("d1", _NOON + 10) is None
        logins.close("d1")
        assert logins.get("d1", _NOON) is None
        assert logins.close_all("ann") == 2
        assert logins.get("d2", _NOON) is None

    def test_a_tool_has_one_precedent_until_its_time_is_up_and_the_broom_takes_it(self, store: Store) -> None:
        """The last one put."""
        people = store.people
        one = Precedent(
            server="s",
            kind="tool",
            name="refund",
            approvers="oncall",
            principal="bot",
            challenge="c_1",
            digest="d",
            arguments='{"a":"\u00e9"}',
            approved=_NOON,
            expires=_NOON + 10,
        )
        people.precedents.put(one)
        people.precedents.put(replace(one, arguments="{}", digest="e"))
        assert people.precedents.get("s", "tool", "refund", _NOON) == replace(one, arguments="{}", digest="e")
        assert people.precedents.get("s", "tool", "other", _NOON) is None
        assert people.precedents.get("s", "tool", "refund", _NOON + 10) is None
        assert people.sweep(_NOON) == 0
        assert people.sweep(_NOON + 10) == 1
        assert people.precedents.get("s", "tool", "refund", _NOON) is None

    def test_pages_of_challenges_follow_each_other_and_keep_to_groups_time_and_text(self, store: Store) -> None:
        """Without arguments, which stay sealed."""
        opened = []
        for number in range(1, 6):
            made = example_challenge(number)
            group = "oncall" if number % 2 else "others"
            opened.append(replace(made, requirement=replace(made.requirement, approvers=group)))
            store.challenges.open_or_join(opened[-1])
        first = store.challenges.page(Range(limit=3))
        rest = store.challenges.page(Range(limit=3, after=first[-1][0]))
        assert [one for _, one in (*first, *rest)] == [replace(one, arguments="") for one in opened]
        back = store.challenges.page(Range(newest_first=True, limit=2, after=first[-1][0]))
        assert [one.id for _, one in back] == [opened[1].id, opened[0].id]

        def found(**wanted: Any) -> list[str]:  # noqa: ANN401 - the fields of a range
            return [one.id for _, one in store.challenges.page(Range(**wanted))]

        assert found(groups=frozenset({"others"})) == [opened[1].id, opened[3].id]
        assert found(groups=frozenset()) == []
        assert found(living=opened[0].expires) == []
        assert found(text=opened[2].id) == [opened[2].id]
        assert found(text=opened[2].name.upper()) == [one.id for one in opened]
        assert found(text="%") == found(text="_") == []
        assert found(states=frozenset({State.DENIED})) == []

    def test_lists_and_pulse_show_a_challenge_to_every_group_it_asks_and_to_those_its_approvers_escalate_to(
        self, store: Store
    ) -> None:
        """A quorum's group escalates to nobody, so who comes after it sees nothing."""
        made = example_challenge(1)
        audit = Quorum(proof_class=ProofClass.CONSENT, group="audit")
        wanted = replace(made.requirement, approvers="oncall", quorums=frozenset({audit, replace(audit, people=2)}))
        asked = replace(made, requirement=wanted)
        store.challenges.open_or_join(asked)
        store.challenges.open_or_join(example_challenge(2))

        def seen(groups: set[str], named: set[str] | None = None) -> tuple[list[str], int]:
            own = None if named is None else frozenset(named)
            page = store.challenges.page(Range(groups=frozenset(groups), named=own, text=asked.id))
            return [one.id for _, one in page], store.challenges.pulse(frozenset(groups), asked.opened, own)[0]

        assert seen({"oncall"}) == seen({"audit"}) == seen({"oncall", "audit"}) == ([asked.id], 1)
        assert seen({"oncall", "leads"}, {"leads"}) == ([asked.id], 1)
        assert seen({"audit", "board"}, {"board"}) == ([], 0)
        assert seen({"elsewhere"}) == ([], 0)

    def test_the_pulse_moves_with_every_change_even_one_that_was_undone_between_two_looks(self, store: Store) -> None:
        """And counts those that wait."""
        made = example_challenge(1)
        mine = replace(made, requirement=replace(made.requirement, approvers="oncall"))
        store.challenges.open_or_join(mine)
        groups, now = frozenset({"oncall"}), mine.opened
        waiting, mark = store.challenges.pulse(groups, now)
        assert waiting == 1
        store.challenges.open_or_join(example_challenge(2))
        assert store.challenges.pulse(groups, now)[0] == 1
        assert store.challenges.pulse(groups, now)[1] != mark
        waiting, mark = store.challenges.pulse(groups, now)
        assert store.challenges.pulse(groups, now) == (waiting, mark)
        proven = replace(mine, version=1, proofs=(example_proof(),))
        assert store.challenges.swap(mine, proven, durable=False)
        assert store.challenges.pulse(groups, now)[1] != mark
        assert store.challenges.pulse(groups, mine.expires)[0] == 0

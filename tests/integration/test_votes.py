"""Votes by the command line against a running guard: which count, which do not, and what is told afterwards."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyotp
import pytest

from tests.guards import Answer, Serving
from tests.outside import Done, Verbs
from tests.world import World


@dataclass
class Hall:
    """A deployment with a running guard, and people who vote at a terminal."""

    world: World
    front: Serving
    verbs: Verbs
    numbers: Iterator[int]

    def guard(self, *words: str) -> Done:
        return self.verbs(*words, cwd=self.world.folder)

    def pause(self) -> tuple[str, Callable[[], Answer]]:
        """A call nobody has made before, paused; its challenge and how to make it again."""
        number = next(self.numbers)

        def again() -> Answer:
            return self.front.call("wipe", {"number": number})

        paused = again()
        assert paused.challenge, paused.text
        return paused.challenge, again

    def person(self, *groups: str) -> tuple[str, pyotp.TOTP]:
        """Somebody new, with their phone."""
        name = f"person{next(self.numbers)}"
        assert self.guard("approver", "add", name, *(w for group in groups for w in ("--group", group))).code == 0
        phone = pyotp.parse_uri(self.guard("factor", "enroll", "totp", name).out.strip())
        assert isinstance(phone, pyotp.TOTP)
        return name, phone

    def vote(self, challenge: str, name: str, code: str, verb: str = "approve", *more: str) -> Done:
        return self.guard("challenge", verb, challenge, "--as", name, "--code", code, *more)

    def grant(self, challenge: str) -> str:
        """The id of the unspent grant of a challenge."""
        found = json.loads(self.guard("grant", "ls", "--json").out)
        [grant] = [one["id"] for one in found if one["challenge"] == challenge]
        return str(grant)


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    with (
        World(tmp_path_factory.mktemp("hall"), more="[approval]\ncool_down = 600\n") as world,
        Verbs(tmp_path_factory.mktemp("verbs")) as verbs,
    ):
        yield Hall(world, world.serve(), verbs, itertools.count(1))


def refused(done: Done) -> str:
    """The sentence after the view, of a vote that did not count."""
    assert (done.code, done.out) == (1, "")
    assert "Traceback" not in done.err
    return done.err.splitlines()[-1]


def test_a_vote_that_counts_exits_0_and_the_call_runs_once(hall: Hall) -> None:
    challenge, again = hall.pause()
    name, phone = hall.person()
    assert hall.vote(challenge, name, phone.now()).code == 0
    assert [again().ran, again().ran] == [True, False]


def test_a_vote_is_shown_what_it_is_about_and_prints_its_outcome_as_json_when_asked(hall: Hall) -> None:
    challenge, _ = hall.pause()
    name, phone = hall.person()
    done = hall.vote(challenge, name, phone.now(), "approve", "--json")
    assert json.loads(done.out)["state"] == "satisfied"
    assert "wipe" in done.err
    assert '"number"' in done.err


def test_a_wrong_code_does_not_count(hall: Hall) -> None:
    challenge, again = hall.pause()
    name, phone = hall.person()
    refused(hall.vote(challenge, name, f"{(int(phone.now()) + 1) % 10**6:06}"))
    assert again().challenge == challenge


def test_a_code_counts_once(hall: Hall) -> None:
    first, _ = hall.pause()
    second, again = hall.pause()
    name, phone = hall.person()
    code = phone.now()
    assert hall.vote(first, name, code).code == 0
    refused(hall.vote(second, name, code))
    assert again().challenge == second


def test_the_owner_of_the_agent_does_not_count(hall: Hall) -> None:
    challenge, again = hall.pause()
    assert hall.guard("approver", "add", "oli").code == 0
    phone = pyotp.parse_uri(hall.guard("factor", "enroll", "totp", "oli").out.strip())
    assert isinstance(phone, pyotp.TOTP)
    refused(hall.vote(challenge, "oli", phone.now()))
    assert again().challenge == challenge


def test_somebody_of_another_group_does_not_count(hall: Hall) -> None:
    challenge, again = hall.pause()
    name, phone = hall.person("gardeners")
    refused(hall.vote(challenge, name, phone.now()))
    assert again().challenge == challenge


def test_somebody_who_was_removed_does_not_count(hall: Hall) -> None:
    challenge, again = hall.pause()
    name, phone = hall.person()
    assert hall.guard("approver", "remove", name).code == 0
    refused(hall.vote(challenge, name, phone.now()))
    assert again().challenge == challenge


def test_a_denied_call_is_refused_with_the_reason_and_stays_so_for_a_while(hall: Hall) -> None:
    challenge, again = hall.pause()
    name, phone = hall.person()
    assert hall.vote(challenge, name, phone.now(), "deny", "--reason", "not on a Friday").code == 0
    answer = again()
    assert (answer.ran, answer.challenge, "guard/challenge" in str(answer.body)) == (False, "", False)
    assert "not on a Friday" in answer.text


def test_a_challenge_is_decided_once(hall: Hall) -> None:
    challenge, _ = hall.pause()
    name, phone = hall.person()
    assert hall.vote(challenge, name, phone.now(), "deny").code == 0
    other, code = hall.person()
    refused(hall.vote(challenge, other, code.now()))


def test_a_revoked_grant_runs_nothing(hall: Hall) -> None:
    challenge, again = hall.pause()
    name, phone = hall.person()
    assert hall.vote(challenge, name, phone.now()).code == 0
    [grant] = [
        one["id"] for one in json.loads(hall.guard("grant", "ls", "--json").out) if one["challenge"] == challenge
    ]
    assert hall.guard("grant", "revoke", grant).code == 0
    assert not again().ran
    refused(hall.guard("grant", "revoke", grant))


def test_why_tells_the_story_of_a_call_a_challenge_and_a_grant(hall: Hall) -> None:
    challenge, again = hall.pause()
    name, phone = hall.person()
    assert hall.vote(challenge, name, phone.now(), "approve", "--reason", "planned").code == 0
    [grant] = [
        one["id"] for one in json.loads(hall.guard("grant", "ls", "--json").out) if one["challenge"] == challenge
    ]
    assert again().ran
    [call] = [r["call_id"] for r in hall.world.records("call.forwarded") if r.get("challenge_id") == challenge]
    for identifier in (challenge, grant, call):
        done = hall.guard("why", identifier)
        assert done.code == 0, done.err
        assert {"robot", "wipe", name} <= set(re.findall(r"\w+", done.out)), done.out


def test_a_cancelled_challenge_says_by_whom_and_the_agent_may_ask_again_at_once(hall: Hall) -> None:
    challenge, again = hall.pause()
    assert hall.guard("challenge", "cancel", challenge, "--reason", "wrong table").code == 0
    [record] = [one for one in hall.world.records("challenge.cancelled") if one["challenge_id"] == challenge]
    assert (record["by"], record["because"]) == ("oli", "wrong table")
    assert again().challenge not in {"", challenge}
    assert hall.guard("challenge", "cancel", challenge).code == 1

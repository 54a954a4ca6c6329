"""What a login lets a person see."""

from __future__ import annotations

from pathlib import Path

from guard.config import Console
from guard.model import Demand, ProofClass, Quorum, Requirement
from guard.ports import Approver
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from guard.web.visits import Visits
from tests import nouns
from tests.world_store import WorldClock


def test_whoever_may_be_asked_next_sees_what_waits_for_the_group_before_them(tmp_path: Path) -> None:
    store, clock = SqlStore.open(tmp_path, Keyring.open(tmp_path)), WorldClock(nouns.NOW, lambda: 0.0)
    visits = Visits(
        Console(), store.people.logins, store.approvers, clock, escalate={"oncall": "leads", "leads": "board"}
    )
    seen = {}
    for name, group in (("ann", "oncall"), ("bob", "leads"), ("eve", "elsewhere")):
        store.approvers.put(Approver(name=name, groups=frozenset({group}), created=0))
        visitor = visits.find(visits.open(name, "totp"))
        assert visitor is not None
        seen[name] = visitor.sees
    assert seen == {"ann": {"oncall"}, "bob": {"leads", "oncall"}, "eve": {"elsewhere"}}
    store.close()


def test_whoever_a_quorum_asks_sees_the_call_and_nobody_whom_it_can_never_ask(tmp_path: Path) -> None:
    store, clock = SqlStore.open(tmp_path, Keyring.open(tmp_path)), WorldClock(nouns.NOW, lambda: 0.0)
    escalate = {"oncall": "leads", "security": "board"}
    visits = Visits(Console(), store.people.logins, store.approvers, clock, escalate=escalate)
    quorums = frozenset({Quorum(proof_class=ProofClass.CONSENT, group="security")})
    requirement = Requirement(frozenset({Demand.CONSENT}), approvers="oncall", quorums=quorums)
    challenge = nouns.challenge(requirement=requirement)
    seeing = {}
    for group in ("oncall", "leads", "security", "board", "elsewhere"):
        store.approvers.put(Approver(name=f"one-of-{group}", groups=frozenset({group}), created=0))
        visitor = visits.find(visits.open(f"one-of-{group}", "totp"))
        assert visitor is not None
        seeing[group] = visitor.may_see(challenge)
    assert seeing == {"oncall": True, "leads": True, "security": True, "board": False, "elsewhere": False}
    store.close()

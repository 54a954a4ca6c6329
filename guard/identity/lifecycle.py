"""Enrolling and retiring agents and approvers, with a record of every step.

An agent and a person never share a name (compared without case), because separation of duties is
decided by names: whoever asks is not whoever consents.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from guard.errors import GuardError, NotFoundError
from guard.identity.forgetting import forget
from guard.identity.keys import key_digest, new_key
from guard.model import Json
from guard.ports import Agent, Approver, Clock, Credential, Ledger, Store
from guard.reasons import Code

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")
_CLAIM = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_LONGEST = 256
_MOST = 64


class NameRefusedError(GuardError):
    """The name is taken or not one."""

    default = Code.BAD_CONFIG


class Lifecycle:
    """Adds, rotates, revokes and lists agents; adds and removes approvers.

    The record of a step is written after the step: a crash between the two leaves an enrolment without
    its record, never a record of something that did not happen.
    """

    __slots__ = ("_clock", "_ledger", "_store")

    def __init__(self, store: Store, ledger: Ledger, clock: Clock) -> None:
        self._store, self._ledger, self._clock = store, ledger, clock

    # ------------------------------------------------------------------ agents

    def add_agent(
        self, name: str, *, owner: str = "", groups: Collection[str] = (), claims: Mapping[str, str] | None = None
    ) -> str:
        """Enrol an agent and return its first key, which is shown once and never stored.

        Raises:
            NameRefusedError: the name is malformed, or an agent or a person has it (revoked agents keep theirs).
        """
        check_name(name)
        described = _description(groups, claims or {})
        if self._approver_like(name) is not None:
            raise NameRefusedError(f"{name} is the name of an approver; an agent needs one of its own")
        if any(agent.name.casefold() == name.casefold() for agent in self._store.agents.all()):
            raise NameRefusedError(f"there is an agent {name} already; names are never used again")
        now = self._clock.now()
        agent = Agent(name=name, owner=owner, created=now, groups=described[0], claims=described[1])
        if not self._store.agents.add(agent):
            raise NameRefusedError(f"there is an agent {name} already; names are never used again")
        key, credential = self._issue(name, now)
        fields: dict[str, Json] = {"agent": name, "owner": owner, "credential": credential.thumbprint}
        self._ledger.append("agent.added", fields | _recorded(*described))
        return key

    def describe_agent(self, name: str, *, groups: Collection[str], claims: Mapping[str, str]) -> None:
        """Replace what policies may ask about an agent: its groups, and its claims by name.

        Raises:
            NotFoundError: there is no live agent of this name.
            NameRefusedError: a group or claim is malformed.
        """
        described = _description(groups, claims)
        if not self._store.agents.describe(name, groups=described[0], claims=described[1]):
            raise NotFoundError(f"there is no live agent {name}")
        fields: dict[str, Json] = {"agent": name, "groups": [], "claims": {}}
        self._ledger.append("agent.described", fields | _recorded(*described))

    def rotate_agent(self, name: str, *, overlap: float = 60.0, forgetting: bool = False) -> str:
        """Issue a new key; the old ones end `overlap` seconds from now. Returns the new key.

        `forgetting`: what the old ones taught is no longer normal for the agents of a server either.

        Raises:
            NotFoundError: there is no live agent of this name.
        """
        self.live_agent(name)
        now = self._clock.now()
        old = [one.thumbprint for one in self._store.agents.credentials(name)]
        key, credential = self._issue(name, now)
        self._store.agents.expire_credentials(name, now + overlap, but=credential.digest)
        self._ledger.append(
            "agent.rotated",
            {"agent": name, "credential": credential.thumbprint, "overlap_seconds": overlap, "forgetting": forgetting},
        )
        if forgetting:
            forget(self._store, old)
        return key

    def revoke_agent(self, name: str) -> None:
        """Revoke an agent, every key and every factor of it, at once and for good, and forget what it taught others.

        Raises:
            NotFoundError: there is no live agent of this name.
        """
        if not self._store.agents.revoke(name, self._clock.now()):
            raise NotFoundError(f"there is no live agent {name}")
        self._revoke_factors(name)
        self._ledger.append("agent.revoked", {"agent": name})
        forget(self._store, [one.thumbprint for one in self._store.agents.credentials(name)])

    def live_agent(self, name: str) -> Agent:
        """The agent of this name.

        Raises:
            NotFoundError: there is none, or it is revoked.
        """
        agent = self._store.agents.get(name)
        if agent is None or agent.revoked:
            raise NotFoundError(f"there is no live agent {name}")
        return agent

    def _issue(self, name: str, now: float) -> tuple[str, Credential]:
        key = new_key()
        credential = Credential(digest=key_digest(key), agent=name, created=now)
        self._store.agents.add_credential(credential)
        return key, credential

    # ------------------------------------------------------------------ people

    def add_approver(self, name: str, *, groups: Sequence[str] = ()) -> Approver:
        """Let a person consent in these groups (default: `approvers`); known people gain groups.

        Raises:
            NameRefusedError: the name is malformed, an agent has it, or it differs from a person's by case only.
        """
        for word in (name, *groups):
            check_name(word)
        if any(agent.name.casefold() == name.casefold() for agent in self._store.agents.all()):
            raise NameRefusedError(f"{name} is the name of an agent; agents cannot consent")
        known = self._approver_like(name)
        if known is not None and known.name != name:
            raise NameRefusedError(f"there is an approver {known.name} already; one person has one name")
        wanted = frozenset(groups) or frozenset({"approvers"})
        if known is None or known.removed:
            person = Approver(name=name, groups=wanted, created=self._clock.now())
        else:
            person = replace(known, groups=known.groups | wanted)
        self._store.approvers.put(person)
        self._ledger.append("approver.added", {"approver": name, "groups": sorted(person.groups)})
        return person

    def remove_approver(self, name: str) -> None:
        """Take a person's right to consent and to look, and revoke their factors.

        Raises:
            NotFoundError: there is no such person, or they were removed before.
        """
        known = self._store.approvers.get(name)
        if known is None or known.removed:
            raise NotFoundError(f"there is no approver {name}")
        self._store.approvers.put(replace(known, removed=self._clock.now()))
        self._revoke_factors(name)
        self._store.people.tickets.drop("invite", name)
        self._store.people.logins.close_all(name)
        self._ledger.append("approver.removed", {"approver": name})

    def _approver_like(self, name: str) -> Approver | None:
        """The person whose name equals this one without regard to case."""
        return next((p for p in self._store.approvers.all() if p.name.casefold() == name.casefold()), None)

    def _revoke_factors(self, subject: str) -> None:
        for factor in self._store.factors.of(subject):
            current = factor
            while not current.revoked and not self._store.factors.swap(
                current, replace(current, revoked=self._clock.now(), secret=b"", version=current.version + 1)
            ):
                current = self._store.factors.get(factor.id) or replace(current, revoked=self._clock.now())


def _description(
    groups: Collection[str], claims: Mapping[str, str]
) -> tuple[frozenset[str], tuple[tuple[str, str], ...]]:
    for group in groups:
        check_name(group)
    for name, value in claims.items():
        if not _CLAIM.fullmatch(name):
            raise NameRefusedError(f"{name!r} is not the name of a claim: letters, digits and _, at most 64")
        if not 0 < len(value) <= _LONGEST or not value.isprintable():
            raise NameRefusedError(f"the claim {name} is a printable text of 1 to {_LONGEST} characters")
    if len(groups) > _MOST or len(claims) > _MOST:
        raise NameRefusedError(f"an agent has at most {_MOST} groups and {_MOST} claims")
    return frozenset(groups), tuple(sorted(claims.items()))


def _recorded(groups: frozenset[str], claims: tuple[tuple[str, str], ...]) -> dict[str, Json]:
    fields: dict[str, Json] = {"groups": sorted(groups)} if groups else {}
    return fields | ({"claims": dict(claims)} if claims else {})


def check_name(name: str) -> None:
    """Refuse what is not the name of an agent, a person or a group.

    Raises:
        NameRefusedError: it is not one; it says what is.
    """
    if not _NAME.fullmatch(name):
        raise NameRefusedError(f"{name!r} is not a name: letters, digits and _ . @ + - (at most 64, no leading - or .)")

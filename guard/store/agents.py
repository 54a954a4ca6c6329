"""Agents and their credentials. Every change is durable: a revocation must survive a power cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from sqlalchemy import bindparam, insert, or_, select, update

from guard.ports import Agent, Credential
from guard.store.database import Database
from guard.store.prepared import Found
from guard.store.schema import agents, credentials

_AGENT: Final = select(
    agents.c.name, agents.c.owner, agents.c.created, agents.c.revoked, agents.c.groups, agents.c.claims
)
_CREDENTIAL: Final = select(
    credentials.c.digest, credentials.c.agent, credentials.c.created, credentials.c.expires, credentials.c.revoked
)

_AGENT_BY_NAME: Final = _AGENT.where(agents.c.name == bindparam("wanted"))
_CREDENTIALS_OF: Final = _CREDENTIAL.where(credentials.c.agent == bindparam("wanted")).order_by(
    credentials.c.seq.desc()
)
_CREDENTIAL_BY_DIGEST: Final = _CREDENTIAL.where(credentials.c.digest == bindparam("wanted"))


class SqlAgents:
    """`guard.ports.Agents` on SQL."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database

    def add(self, agent: Agent) -> bool:
        """Insert; False when the name is taken, even by a revoked agent."""
        written = asdict(agent) | _described(agent.groups, agent.claims)
        statement = self._database.insert(agents).values(written).on_conflict_do_nothing()
        with self._database.write(durable=True) as connection:
            return connection.execute(statement).rowcount == 1

    def get(self, name: str) -> Agent | None:
        """One agent, revoked or not."""
        return next(map(_agent, self._database.rows(_AGENT_BY_NAME, {"wanted": name})), None)

    def all(self) -> Sequence[Agent]:
        """Every agent by name."""
        with self._database.read() as connection:
            return tuple(_agent(row) for row in connection.execute(_AGENT.order_by(agents.c.name)).mappings())

    def describe(self, name: str, *, groups: frozenset[str], claims: tuple[tuple[str, str], ...]) -> bool:
        """Replace groups and claims of a live agent; False when there is none."""
        statement = update(agents).where(agents.c.name == name, agents.c.revoked == 0)
        with self._database.write(durable=True) as connection:
            return connection.execute(statement.values(_described(groups, claims))).rowcount == 1

    def revoke(self, name: str, at: float) -> bool:
        """Revoke the agent and every credential of it, in one transaction."""
        agent = update(agents).where(agents.c.name == name, agents.c.revoked == 0).values(revoked=at)
        theirs = update(credentials).where(credentials.c.agent == name, credentials.c.revoked == 0).values(revoked=at)
        with self._database.write(durable=True) as connection:
            if connection.execute(agent).rowcount != 1:
                return False
            connection.execute(theirs)
            return True

    def add_credential(self, credential: Credential) -> None:
        """Insert a credential; a digest that exists already is refused by the database."""
        with self._database.write(durable=True) as connection:
            connection.execute(insert(credentials).values(asdict(credential)))

    def expire_credentials(self, agent: str, at: float, *, but: str) -> None:
        """Bring forward the end of every live credential but one; an earlier end stays."""
        statement = (
            update(credentials)
            .where(
                credentials.c.agent == agent,
                credentials.c.digest != but,
                credentials.c.revoked == 0,
                or_(credentials.c.expires == 0, credentials.c.expires > at),
            )
            .values(expires=at)
        )
        with self._database.write(durable=True) as connection:
            connection.execute(statement)

    def credential(self, digest: str) -> Credential | None:
        """The credential with this digest, live or not."""
        found = self._database.rows(_CREDENTIAL_BY_DIGEST, {"wanted": digest})
        return Credential(**found[0]) if found else None

    def credentials(self, agent: str) -> Sequence[Credential]:
        """All credentials of an agent, newest first."""
        return tuple(Credential(**row) for row in self._database.rows(_CREDENTIALS_OF, {"wanted": agent}))


def _described(groups: frozenset[str], claims: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return {"groups": json.dumps(sorted(groups)), "claims": json.dumps(dict(claims), sort_keys=True)}


def _agent(row: Found) -> Agent:
    claims: dict[str, str] = json.loads(row["claims"])
    groups: list[str] = json.loads(row["groups"])
    return Agent(**(dict(row) | {"groups": frozenset(groups), "claims": tuple(sorted(claims.items()))}))

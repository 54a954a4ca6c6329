"""The tables, as SQLAlchemy Core sees them; `migrations/` builds exactly these.

The predicates of partial indexes stand here for SQLite alone: naming them for PostgreSQL as well, as the migrations do,
would load that dialect into every process.

Every table says what may be asked of it by its indexes. `seq` counts insertions, so that "newest" never
depends on two clocks agreeing. Times are Unix seconds, 0 meaning never.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

from guard.model import State

REVISION: Final = "0010"
"""The schema revision this version reads and writes: the head of `migrations/versions`."""

METADATA: Final = MetaData()

OPEN: Final = tuple(state for state in State if state.open)
"""The states in which a challenge can still take proofs or be consumed."""

OPEN_SQL: Final = "state IN ({})".format(", ".join(f"'{state}'" for state in OPEN))
"""The same as the predicate of the partial index; a literal, because planners match predicates by text."""

_SEQ: Final = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up INTEGER keys only

challenges: Final = Table(
    "challenges",
    METADATA,
    Column("seq", _SEQ, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("digest", String, nullable=False),
    Column("state", String, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("principal", String, nullable=False),
    Column("server", String, nullable=False),
    Column("name", String, nullable=False),
    Column("opened", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("body", Text, nullable=False),
    Column("arguments", LargeBinary, nullable=True),
    Column("approvers", String, nullable=False, server_default=text("''")),
    Column("asked", String, nullable=False, server_default=""),
    # Arguments are there exactly as long as somebody may still have to look at them.
    CheckConstraint(f"({OPEN_SQL}) = (arguments IS NOT NULL)", name="challenges_arguments_while_open"),
    Index("challenges_by_digest", "digest", "seq"),
    Index("challenges_by_state", "state", "principal"),
    # Covers what lists ask of every row, so that only the rows of one page are read.
    Index("challenges_listed", "state", "expires", "version"),
    Index("challenges_by_principal", "principal", "seq"),
)

one_open_challenge: Final = Index(
    "challenges_one_open",
    challenges.c.digest,
    unique=True,
    sqlite_where=text(OPEN_SQL),
)
"""At most one open challenge for a call digest, whoever inserts it and from whichever process."""

WAITING_SQL: Final = "asked <> ''"
"""Challenges that wait for people, as the predicate of a partial index; a literal as well.

`asked` is the group that is asked while a challenge is pending, else empty: a condition on `state` beside it would
make SQLite take the index of states.
"""

waiting_challenges: Final = Index(
    "challenges_waiting",
    challenges.c.opened,
    challenges.c.expires,
    challenges.c.asked,
    challenges.c.id,
    sqlite_where=text(WAITING_SQL),
)
"""What waits for people can be counted and looked through without touching the challenges themselves."""

challenge_groups: Final = Table(
    "challenge_groups",
    METADATA,
    Column("member", String, primary_key=True),
    Column("seq", _SEQ, primary_key=True, autoincrement=False),
    Column("first", Integer, nullable=False),
)
"""Whose members a challenge asks: the requirement's approvers (`first`), and every group its quorums name."""

agents: Final = Table(
    "agents",
    METADATA,
    Column("name", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("created", Double, nullable=False),
    Column("revoked", Double, nullable=False),
    Column("groups", Text, nullable=False, server_default=text("'[]'")),
    Column("claims", Text, nullable=False, server_default=text("'{}'")),
)

credentials: Final = Table(
    "credentials",
    METADATA,
    Column("seq", _SEQ, primary_key=True, autoincrement=True),
    Column("digest", String, nullable=False, unique=True),
    Column("agent", String, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("revoked", Double, nullable=False),
    Index("credentials_by_agent", "agent"),
)

approvers: Final = Table(
    "approvers",
    METADATA,
    Column("name", String, primary_key=True),
    Column("groups", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("removed", Double, nullable=False),
)

factors: Final = Table(
    "factors",
    METADATA,
    Column("seq", _SEQ, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("created", Double, nullable=False),
    Column("attestation", Integer, nullable=False),
    Column("public", Text, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("failures", Text, nullable=False),
    Column("locked", Double, nullable=False),
    Column("revoked", Double, nullable=False),
    Column("version", BigInteger, nullable=False),
    Index("factors_by_subject", "subject", "kind"),
)

notices: Final = Table(
    "notices",
    METADATA,
    Column("challenge", String, primary_key=True),
    Column("stage", String, primary_key=True),
    Column("taken", Double, nullable=False),
    Column("told", Double, nullable=False),
)

emergencies: Final = Table(
    "emergencies",
    METADATA,
    Column("challenge", String, primary_key=True),
    Column("subject", String, nullable=False),
    Column("at", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("ticket", Text, nullable=False),
    Column("reviewed", Double, nullable=False),
    Column("reviewer", String, nullable=False),
    Column("verdict", Text, nullable=False),
)

one_unreviewed_emergency: Final = Index(
    "emergencies_one_unreviewed",
    emergencies.c.reviewed,
    unique=True,
    sqlite_where=text("reviewed = 0"),
)
"""At most one broken glass that nobody has looked at, whichever process breaks it."""

intents: Final = Table(
    "intents",
    METADATA,
    Column("seq", _SEQ, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("agent", String, nullable=False),
    Column("server", String, nullable=False),
    Column("tool", String, nullable=False),
    Column("ends", Double, nullable=False),
    Column("published", Double, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("revoked", Double, nullable=False),
    Index("intents_by_call", "agent", "server", "tool"),
)

lanes: Final = Table(
    "lanes",
    METADATA,
    Column("name", String, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("root", String, nullable=False),
)

baselines: Final = Table(
    "baselines",
    METADATA,
    Column("key", String, primary_key=True),
    Column("snapshot", Text, nullable=False),
)

sessions: Final = Table(
    "sessions",
    METADATA,
    Column("server", String, primary_key=True),
    Column("session", String, primary_key=True),
    Column("subject", String, nullable=False),
    Column("bound", Double, nullable=False),
)

pins: Final = Table(
    "pins",
    METADATA,
    Column("server", String, primary_key=True),
    Column("tool", String, primary_key=True),
    Column("pinned", String, nullable=False),
    Column("seen", String, nullable=False),
    Column("pinned_text", Text, nullable=False, server_default=""),
    Column("seen_text", Text, nullable=False, server_default=""),
)

tickets: Final = Table(
    "tickets",
    METADATA,
    Column("digest", String, primary_key=True),
    Column("purpose", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("bound", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Index("tickets_by_purpose", "purpose", "subject"),
)

logins: Final = Table(
    "logins",
    METADATA,
    Column("digest", String, primary_key=True),
    Column("subject", String, nullable=False),
    Column("method", String, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Index("logins_by_subject", "subject"),
)

precedents: Final = Table(
    "precedents",
    METADATA,
    Column("server", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("approvers", String, nullable=False),
    Column("principal", String, nullable=False),
    Column("challenge", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("arguments", LargeBinary, nullable=False),
    Column("approved", Double, nullable=False),
    Column("expires", Double, nullable=False),
)

results: Final = Table(
    "results",
    METADATA,
    Column("digest", String, primary_key=True),
    Column("call_digest", String, nullable=False),
    Column("call_id", String, nullable=False),
    Column("principal", String, nullable=False),
    Column("server", String, nullable=False),
    Column("name", String, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("limits", Text, nullable=False),
    Column("band", Integer, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Index("results_by_call", "call_digest"),
)
"""Results of calls that ran, withheld until somebody consents; there only as long as somebody may."""

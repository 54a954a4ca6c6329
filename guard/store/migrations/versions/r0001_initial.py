"""The first schema: challenges, people, factors, and what the guard remembers between calls."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None

_SEQ: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_OPEN: Final = "state IN ('pending', 'satisfied')"


def upgrade() -> None:
    """Create every table."""
    _challenges()
    _people()
    _factors()
    _memory()


def _challenges() -> None:
    op.create_table(
        "challenges",
        sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("principal", sa.String, nullable=False),
        sa.Column("server", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("opened", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("arguments", sa.LargeBinary, nullable=True),
        sa.CheckConstraint(f"({_OPEN}) = (arguments IS NOT NULL)", name="challenges_arguments_while_open"),
    )
    op.create_index("challenges_by_digest", "challenges", ["digest", "seq"])
    op.create_index("challenges_by_state", "challenges", ["state", "principal"])
    op.create_index(
        "challenges_one_open",
        "challenges",
        ["digest"],
        unique=True,
        sqlite_where=sa.text(_OPEN),
        postgresql_where=sa.text(_OPEN),
    )


def _people() -> None:
    op.create_table(
        "agents",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("revoked", sa.Double, nullable=False),
    )
    op.create_table(
        "credentials",
        sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
        sa.Column("digest", sa.String, nullable=False, unique=True),
        sa.Column("agent", sa.String, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("revoked", sa.Double, nullable=False),
    )
    op.create_index("credentials_by_agent", "credentials", ["agent"])
    op.create_table(
        "approvers",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("groups", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("removed", sa.Double, nullable=False),
    )


def _factors() -> None:
    op.create_table(
        "factors",
        sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("attestation", sa.Integer, nullable=False),
        sa.Column("public", sa.Text, nullable=False),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Text, nullable=False),
        sa.Column("locked", sa.Double, nullable=False),
        sa.Column("revoked", sa.Double, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_index("factors_by_subject", "factors", ["subject", "kind"])


def _memory() -> None:
    op.create_table(
        "lanes",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("root", sa.String, nullable=False),
    )
    op.create_table(
        "baselines",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("snapshot", sa.Text, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("server", sa.String, primary_key=True),
        sa.Column("session", sa.String, primary_key=True),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("bound", sa.Double, nullable=False),
    )
    op.create_table(
        "pins",
        sa.Column("server", sa.String, primary_key=True),
        sa.Column("tool", sa.String, primary_key=True),
        sa.Column("pinned", sa.String, nullable=False),
        sa.Column("seen", sa.String, nullable=False),
    )

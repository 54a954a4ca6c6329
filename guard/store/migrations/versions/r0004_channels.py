"""Who was told of a challenge, broken glass and its reviews, and which group a challenge asks."""

from __future__ import annotations

import json
from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0004"
down_revision: Final = "0002"

_UNREVIEWED: Final = "reviewed = 0"
_WAITING: Final = "asked <> ''"


def upgrade() -> None:
    """Add two tables, a column and an index."""
    op.create_table(
        "notices",
        sa.Column("challenge", sa.String, primary_key=True),
        sa.Column("stage", sa.String, primary_key=True),
        sa.Column("taken", sa.Double, nullable=False),
        sa.Column("told", sa.Double, nullable=False),
    )
    op.create_table(
        "emergencies",
        sa.Column("challenge", sa.String, primary_key=True),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("ticket", sa.Text, nullable=False),
        sa.Column("reviewed", sa.Double, nullable=False),
        sa.Column("reviewer", sa.String, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
    )
    op.create_index(
        "emergencies_one_unreviewed",
        "emergencies",
        ["reviewed"],
        unique=True,
        sqlite_where=sa.text(_UNREVIEWED),
        postgresql_where=sa.text(_UNREVIEWED),
    )
    op.add_column("challenges", sa.Column("asked", sa.String, nullable=False, server_default=""))
    op.create_index("challenges_by_principal", "challenges", ["principal", "seq"])
    op.create_index(
        "challenges_waiting",
        "challenges",
        ["opened", "expires", "asked", "id"],
        sqlite_where=sa.text(_WAITING),
        postgresql_where=sa.text(_WAITING),
    )
    _fill_asked()


def _fill_asked() -> None:
    """Say of every challenge that still waits which group it asks; the others are asked no more."""
    table = sa.table("challenges", sa.column("id"), sa.column("state"), sa.column("body"), sa.column("asked"))
    connection = op.get_bind()
    for name, body in connection.execute(sa.select(table.c.id, table.c.body).where(table.c.state == "pending")).all():
        requirement = json.loads(body)["requirement"]
        if set(requirement["demands"]) - {"possession"}:
            asked = requirement["approvers"]
            connection.execute(sa.update(table).where(table.c.id == name).values(asked=asked))

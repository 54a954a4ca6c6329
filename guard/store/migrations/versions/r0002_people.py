"""The console: who may look (tickets, logins), the last approved call of a tool, and challenges by group."""

from __future__ import annotations

import json
from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"


def upgrade() -> None:
    """Create the tables, and give every challenge its group in a column."""
    op.add_column("challenges", sa.Column("approvers", sa.String, nullable=False, server_default=sa.text("''")))
    _fill()
    op.create_index("challenges_by_group", "challenges", ["approvers", "state", "expires", "version"])
    op.create_table(
        "tickets",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("bound", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
    )
    op.create_index("tickets_by_purpose", "tickets", ["purpose", "subject"])
    op.create_table(
        "logins",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("method", sa.String, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
    )
    op.create_index("logins_by_subject", "logins", ["subject"])
    op.create_table(
        "precedents",
        sa.Column("server", sa.String, primary_key=True),
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("approvers", sa.String, nullable=False),
        sa.Column("principal", sa.String, nullable=False),
        sa.Column("challenge", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("arguments", sa.LargeBinary, nullable=False),
        sa.Column("approved", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
    )


def _fill() -> None:
    """Copy the group out of the JSON of the challenges there are."""
    challenges = sa.table("challenges", sa.column("seq"), sa.column("body"), sa.column("approvers"))
    connection = op.get_bind()
    for seq, body in connection.execute(sa.select(challenges.c.seq, challenges.c.body)).all():
        group = json.loads(body)["requirement"]["approvers"]
        connection.execute(sa.update(challenges).where(challenges.c.seq == seq).values(approvers=group))

"""Every group a challenge asks, so that lists show it to all of them."""

from __future__ import annotations

import json
from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0009"
down_revision: Final = "0007"

_KEY: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add the table, fill it, and let one index serve lists of whatever groups."""
    op.create_table(
        "challenge_groups",
        sa.Column("member", sa.String, primary_key=True),
        sa.Column("seq", _KEY, primary_key=True, autoincrement=False),
        sa.Column("first", sa.Integer, nullable=False),
    )
    op.drop_index("challenges_by_group", "challenges")
    op.create_index("challenges_listed", "challenges", ["state", "expires", "version"])
    _fill()


def _fill() -> None:
    """Say of every challenge which groups it asks or asked."""
    table = sa.table("challenges", sa.column("seq"), sa.column("approvers"), sa.column("body"))
    groups = sa.table("challenge_groups", sa.column("member"), sa.column("seq"), sa.column("first"))
    connection = op.get_bind()
    for seq, approvers, body in connection.execute(sa.select(table.c.seq, table.c.approvers, table.c.body)).all():
        quorums = json.loads(body)["requirement"].get("quorums", [])
        named = {approvers, *(quorum["group"] for quorum in quorums if quorum["group"])}
        rows = [{"member": one, "seq": seq, "first": int(one == approvers)} for one in sorted(named)]
        connection.execute(sa.insert(groups), rows)

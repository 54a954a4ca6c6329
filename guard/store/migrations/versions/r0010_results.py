"""Results that are withheld until somebody consents."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0010"
down_revision: Final = "0009"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "results",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("call_digest", sa.String, nullable=False),
        sa.Column("call_id", sa.String, nullable=False),
        sa.Column("principal", sa.String, nullable=False),
        sa.Column("server", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("limits", sa.Text, nullable=False),
        sa.Column("band", sa.Integer, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
    )
    op.create_index("results_by_call", "results", ["call_digest"])

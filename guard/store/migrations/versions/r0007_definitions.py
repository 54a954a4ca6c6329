"""The texts of tool definitions beside their digests, so that a change can be shown word by word."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0007"
down_revision: Final = "0006"


def upgrade() -> None:
    """Add the columns; what was pinned before has no text until it is seen again."""
    op.add_column("pins", sa.Column("pinned_text", sa.Text, nullable=False, server_default=""))
    op.add_column("pins", sa.Column("seen_text", sa.Text, nullable=False, server_default=""))

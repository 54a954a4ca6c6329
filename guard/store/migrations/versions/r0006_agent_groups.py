"""Groups and claims of agents."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0006"
down_revision: Final = "0005"


def upgrade() -> None:
    """Add the columns; agents of before have none of either."""
    op.add_column("agents", sa.Column("groups", sa.Text, nullable=False, server_default=sa.text("'[]'")))
    op.add_column("agents", sa.Column("claims", sa.Text, nullable=False, server_default=sa.text("'{}'")))

"""A join token may name the gateway that is to send for its device."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; a registry that was made since has it."""
    known = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("join_tokens")}
    if "gateway" not in known:
        op.add_column("join_tokens", sa.Column("gateway", sa.String))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("join_tokens", "gateway")

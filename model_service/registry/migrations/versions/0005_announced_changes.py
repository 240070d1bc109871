"""Changes that people announce are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from model_service.registry.registry_tables import announced_changes

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table; a registry that was made since has it."""
    if not sa.inspect(op.get_bind()).has_table(announced_changes.name):
        announced_changes.create(op.get_bind())


def downgrade() -> None:
    """Drop the table."""
    announced_changes.drop(op.get_bind())

"""What each rollout brought is kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from model_service.registry.registry_tables import release_outcomes

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table; a registry that was made since has it."""
    if not sa.inspect(op.get_bind()).has_table(release_outcomes.name):
        release_outcomes.create(op.get_bind())


def downgrade() -> None:
    """Drop the table."""
    release_outcomes.drop(op.get_bind())

"""Permits for excerpts, and consent as devices say."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from model_service.registry.registry_tables import device_consents, excerpt_permits

revision = "0004"
down_revision = "0003"
_TABLES = (excerpt_permits, device_consents)


def upgrade() -> None:
    """Create the tables; a registry that was made since has them."""
    for table in _TABLES:
        if not sa.inspect(op.get_bind()).has_table(table.name):
            table.create(op.get_bind())


def downgrade() -> None:
    """Drop the tables."""
    for table in _TABLES:
        table.drop(op.get_bind())

"""Alembic's entry: runs migrations on the URL it is given."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine

from model_service.registry.registry_tables import metadata


def _run() -> None:
    engine = create_engine(context.config.get_main_option("sqlalchemy.url") or "")
    try:
        with engine.begin() as connection:
            context.configure(connection=connection, target_metadata=metadata)
            context.run_migrations()
    finally:
        engine.dispose()


_run()

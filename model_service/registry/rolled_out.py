"""Whether a model has reached its fleet."""

from __future__ import annotations

from sqlalchemy import Connection, select

from model_service.registry.registry_tables import rollouts

_DONE = ("completed", "completed_partial")


def is_rolled_out(connection: Connection, version: str) -> bool:
    """Whether a rollout of the version has completed: until then its place is not to be taken by another."""
    query = select(rollouts.c.rollout_id).where(rollouts.c.version == version, rollouts.c.state.in_(_DONE))
    return connection.execute(query.limit(1)).first() is not None

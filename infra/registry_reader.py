"""Reads the model registry beside its writers, for commands that need no running service."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import model_service
from model_service import ModelSettings, require_registry
from schemas.errors import RegistryError

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")

_SQLITE = "sqlite:///"


def read_registry(settings: ModelSettings, read: Callable[[Connection], T]) -> T:
    """What ``read`` returns, given one consistent snapshot of the registry.

    Raises:
        RegistryError: No model service ever ran here.
        DamagedFileError: Its file is missing or damaged.
    """
    if not settings.has_registry:
        require_registry(settings.database_url)
        raise RegistryError(f"no model service ever ran in {settings.root}: `edgeloop up`")
    registry = model_service.Registry(settings.database_url)
    try:
        with registry.reading() as connection:
            return read(connection)
    finally:
        registry.close()


def may_have_runs(settings: ModelSettings) -> bool:
    """Whether the registry may hold training runs that are not over; cheap, for most of the time it does not.

    Where that cannot be told so cheaply, it may: ``read_registry`` then says what is wrong.
    """
    return _may_have(settings, "runs", [str(state) for state in model_service.UNFINISHED])


def may_have_rollouts(settings: ModelSettings) -> bool:
    """Whether it may hold rollouts that have not ended; as cheap."""
    return _may_have(settings, "rollouts", ["draft", "running", "paused", "aborting"])


def _may_have(settings: ModelSettings, table: str, states: Sequence[str]) -> bool:
    """Whether the table has a row in one of these states, or cannot be looked at."""
    path = settings.database_url.removeprefix(_SQLITE)
    if path == settings.database_url:
        return True
    marks = ", ".join("?" * len(states))
    try:
        with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as connection:
            query = f"SELECT EXISTS (SELECT 1 FROM {table} WHERE state IN ({marks}))"  # noqa: S608  (constants)
            return bool(connection.execute(query, states).fetchone()[0])
    except sqlite3.Error:
        return True

"""Reads the model registry beside its writers, for commands that need no running service."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from model_service import ModelSettings, Registry, require_registry
from schemas.errors import RegistryError

T = TypeVar("T")


def read_registry(settings: ModelSettings, read: Callable[[Connection], T]) -> T:
    """What ``read`` returns, given one consistent snapshot of the registry.

    Raises:
        RegistryError: No model service ever ran here.
        DamagedFileError: Its file is missing or damaged.
    """
    if not settings.has_registry:
        require_registry(settings.database_url)
        raise RegistryError(f"no model service ever ran in {settings.root}: `edgeloop up`")
    registry = Registry(settings.database_url)
    try:
        with registry.reading() as connection:
            return read(connection)
    finally:
        registry.close()

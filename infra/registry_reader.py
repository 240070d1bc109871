"""Looks into the model registry beside its writers: what commands read without a running service."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from model_service import ModelSettings, Registry
from schemas.errors import RegistryError

T = TypeVar("T")


def look(settings: ModelSettings, read: Callable[[Connection], T]) -> T:
    """One consistent look.

    Raises:
        RegistryError: No model service ever ran here.
    """
    if not settings.has_registry:
        raise RegistryError(f"no model service ever ran in {settings.root}: `edgeloop up`")
    registry = Registry(settings.database_url)
    try:
        with registry.reading() as connection:
            return read(connection)
    finally:
        registry.close()

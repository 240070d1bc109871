"""The model service as commands meet it: its settings, and its registry beside the writers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra.cli.app import session

if TYPE_CHECKING:
    from collections.abc import Callable

    import typer
    from sqlalchemy import Connection

    from model_service import ModelSettings


def service_settings(ctx: typer.Context) -> ModelSettings:
    """Settings of the model service of the command's stack."""
    from infra.stack.model_settings import model_settings

    return model_settings(session(ctx).settings())


def look_up(ctx: typer.Context, read: Callable[[Connection], Any]) -> Any:
    """What ``read`` returns, given one snapshot of the registry; needs no service."""
    from infra.registry_reader import read_registry

    return read_registry(service_settings(ctx), read)

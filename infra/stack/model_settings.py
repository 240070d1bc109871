"""Settings of the model service's processes in a local stack."""

from __future__ import annotations

from infra.process.ports import LOOPBACK
from infra.settings import StackSettings
from model_service import ModelSettings


def model_settings(settings: StackSettings, bootstrap_servers: str = "") -> ModelSettings:
    """Settings of the stack's model service: its folder, the lake that it learns from, the broker.

    Args:
        settings: The stack's.
        bootstrap_servers: The stack's broker; empty: lifecycle events go to the lake only.
    """
    names: tuple[str, ...] = ("localhost", LOOPBACK)
    if settings.listen is not None:
        names = (*dict.fromkeys([*names, settings.listen]),)
    return ModelSettings(
        listen=settings.listen or "",
        names=names,
        root=settings.state_dir / "models",
        lake_root=settings.lake_root,
        bootstrap_servers=bootstrap_servers,
        namespace=settings.namespace,
    )

"""Keeps the join bundles of this machine's devices up to date when the model service gets other ports."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ValidationError

from model_service import Address, ModelSettings, read_address
from schemas.durable import DISK
from schemas.join import JoinBundle

log = logging.getLogger(__name__)


class JoinAddresses:
    """Follows the address file. Devices read their bundle again when the service does not answer for long.

    Args:
        models: Settings of the model service.
        edge_root: Folder of the edge processes' folders.
    """

    def __init__(self, models: ModelSettings, edge_root: Path) -> None:
        self._models, self._edge_root = models, edge_root
        self._address = read_address(models)

    def update(self) -> str:
        """Rewrite the bundles if the service moved; returns a line for people, empty if it did not."""
        before, now = self._address, read_address(self._models)
        if now is None:
            return ""
        self._address = now
        moved = {} if before is None else _moved(before, now)
        if not moved:
            return ""
        changed = sum(_rewrite(path, moved) for path in sorted(self._edge_root.glob("*/join/*.json")))
        where = ", ".join(f"{old} is now {new}" for old, new in moved.items())
        return (
            f"the model service moved: {where}; {changed} join bundles here say so, others have to be changed"
        )


def _moved(before: Address, now: Address) -> dict[str, str]:
    """New host:port of each old one."""
    pairs = (
        (f"{before.host}:{before.enrollment_port}", f"{now.host}:{now.enrollment_port}"),
        (f"{before.host}:{before.delivery_port}", f"{now.host}:{now.delivery_port}"),
    )
    return {old: new for old, new in pairs if old != new}


def _rewrite(path: Path, moved: dict[str, str]) -> bool:
    """Put the new addresses into a bundle; whether it had an old one."""
    try:
        bundle = JoinBundle.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return False  # no bundle: the device says so
    enrollment, delivery = (moved.get(at, at) for at in (bundle.enrollment, bundle.delivery))
    if (enrollment, delivery) == (bundle.enrollment, bundle.delivery):
        return False
    bundle = bundle.model_copy(update={"enrollment": enrollment, "delivery": delivery})
    try:
        DISK.write(path, bundle.model_dump_json().encode(), private=True)
    except OSError as exc:
        log.warning("the join bundle %s keeps an old address: %s", path, exc)
        return False
    return True

"""How factory models and fault banks are made: entry points of the group ``edgeloop.factories``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points

from model_service import BundleFiles, fault_bank

GROUP = "edgeloop.factories"


@dataclass(frozen=True)
class FactoryRecipe:
    """Makes what ships of one model family; the bytes are the same whenever it is called.

    Attributes:
        bundle: Makes the bundle.
        known_faults: Makes the bank of known faults; None: the family has none.
    """

    bundle: Callable[[], BundleFiles]
    known_faults: Callable[[], fault_bank.BankFile] | None = None


def recipes() -> dict[str, FactoryRecipe]:
    """The recipe of each model family that ships, by name."""
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return {point.name: point.load() for point in points}

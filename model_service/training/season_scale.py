"""What a champion's seasons say of the hours that a device was seen at, on its reference scale. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_service.models.calendar_season import expected, table_weights, tables_of
from schemas.calendar_features import Calendar
from schemas.manifest import Manifest
from schemas.profile import Profile

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

PartOfDevice = tuple[str, int]
"""A device, and a part of the time around an onset."""


class SeenHours(NamedTuple):
    """When a device was seen in one part of the time.

    Attributes:
        at_us: Instants, microseconds since 1970, each of many windows of like hour.
        windows: Their numbers.
        features: Which features they have, shape (F,) each.
    """

    at_us: list[int]
    windows: list[int]
    features: list[Flags]

    def by_feature(self) -> Array:
        """Windows of each feature at each instant, shape (n, F)."""
        return np.array(self.windows, dtype=np.float64)[:, None] * np.array(self.features)


@dataclass(frozen=True)
class SeasonScale:
    """The seasons of a champion's features.

    Attributes:
        tables: Shape (F, E), as in ``calendar_season``.
        calendar: The champion's.
        names: Its features.
        logged: Which features are compared by logarithm, shape (F,).
        spread: Of healthy windows, shape (F,).
    """

    tables: Array
    calendar: Calendar
    names: tuple[str, ...]
    logged: Flags
    spread: Array

    @classmethod
    def of(cls, champion: Manifest, profile: Profile, logged: Flags, spread: Array) -> SeasonScale | None:
        """The seasons of a manifest; None: it has none."""
        tables = tables_of(champion.seasons, profile.feature_names)
        if tables is None:
            return None
        return cls(tables, Calendar.of(champion), champion.calendar, logged, spread)

    def positions(self, seen: Mapping[PartOfDevice, SeenHours]) -> dict[PartOfDevice, Array]:
        """Where each device's mean over a part usually lies beside its mean over all hours, shape (F,)."""
        return {
            key: expected(self.tables, weights, hours.by_feature(), self.logged) / self.spread
            for key, hours in seen.items()
            if (weights := table_weights(self.names, self.calendar.rows(hours.at_us))) is not None
        }

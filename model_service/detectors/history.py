"""A history of feature rows as detectors are chosen and fitted on it: ordered, healthy or labelled, split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from schemas.recent_level import WindowTiming, recent_levels

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

FIT_SHARE = 0.6
"""First share of each device's rows that detectors are fitted on while they are compared."""
BLOCKS = 20
"""Blocks of time of the cross-fitting that sets the threshold: short ones, with healthy rows on both sides.
The threshold then follows how windows vary within a regime; a regime that moves on is the drift watch's."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureHistory:
    """Rows of features, of each device in the order of time.

    Attributes:
        features: Shape (n, F); NaN: missing.
        device: Number of each row's device, shape (n,); rows of a device stand together.
        faulty: Rows that a label calls a fault, shape (n,).
        excluded: Rows that a person left out: they neither fit nor judge, shape (n,).
        end_us: End of each row's window, microseconds since 1970, shape (n,); None: not known, and then no
            row follows another.
        timing: Of the windows; goes with ``end_us``.
    """

    features: Array
    device: NDArray[np.int64]
    faulty: Flags
    excluded: Flags
    end_us: NDArray[np.int64] | None = None
    timing: WindowTiming | None = None

    @property
    def healthy(self) -> Flags:
        """Complete rows that count as healthy, shape (n,)."""
        return np.asarray(np.isfinite(self.features).all(axis=1) & ~self.faulty & ~self.excluded)

    @property
    def labelled(self) -> Flags:
        """Complete rows with a labelled fault, shape (n,)."""
        return np.asarray(np.isfinite(self.features).all(axis=1) & self.faulty & ~self.excluded)

    def early(self, share: float = FIT_SHARE) -> Flags:
        """The first share of each device's rows, shape (n,)."""
        return np.asarray(self._place() < share)

    def blocks(self, count: int = BLOCKS) -> Iterator[Flags]:
        """Successive blocks of each device's rows; together they are all rows."""
        number = np.minimum((self._place() * count).astype(int), count - 1)
        for block in range(count):
            yield number == block

    def by_device(self, values: Array, chosen: Flags) -> list[Array]:
        """Values (n,) of the chosen rows, one array a device that has any."""
        numbers = np.unique(self.device[chosen])
        return [values[chosen & (self.device == number)] for number in numbers]

    def part(self, chosen: Flags) -> FeatureHistory:
        """Only the chosen rows."""
        ends = None if self.end_us is None else self.end_us[chosen]
        return FeatureHistory(
            self.features[chosen],
            self.device[chosen],
            self.faulty[chosen],
            self.excluded[chosen],
            ends,
            self.timing,
        )

    def rows(self, weight: float, *, healthy_only: bool = False) -> Array:
        """Rows as a detector reads them: the features, and with a weight their recent levels behind.

        Args:
            weight: Of the newest window in recent levels; 0: the detector reads none.
            healthy_only: Recent levels are made of healthy windows alone, as a fit wants them; else of all
                windows, as a device makes them.

        Returns:
            Shape (n, F), or (n, 2F); NaN where a level is not known.
        """
        if not weight:
            return self.features
        recent, counted = np.full_like(self.features, np.nan), np.ones(len(self.features), dtype=bool)
        if healthy_only:
            counted = self.healthy
        if self.end_us is not None and self.timing is not None:
            for number in np.unique(self.device):
                mine = self.device == number
                given = self.features[mine], self.end_us[mine]
                recent[mine] = recent_levels(*given, weight, self.timing, counted[mine])
        return np.hstack([self.features, recent])

    def without(self, chosen: Flags) -> FeatureHistory:
        """The same rows, the chosen ones excluded."""
        return replace(self, excluded=self.excluded | chosen)

    def _place(self) -> Array:
        """Where each row stands among its device's rows that are not excluded, in [0, 1]."""
        place = np.empty(len(self.device))
        for number in np.unique(self.device):
            mine = self.device == number
            counts = ~self.excluded[mine]
            place[mine] = (np.cumsum(counts) - counts) / max(int(counts.sum()), 1)
        return place

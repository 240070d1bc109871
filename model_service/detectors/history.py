"""A history of feature rows as detectors are chosen and fitted on it: ordered, healthy or labelled, split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

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
    """

    features: Array
    device: NDArray[np.int64]
    faulty: Flags
    excluded: Flags

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
        return FeatureHistory(
            self.features[chosen], self.device[chosen], self.faulty[chosen], self.excluded[chosen]
        )

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

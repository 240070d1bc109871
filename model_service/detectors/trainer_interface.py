"""What a trainer of a user's own is, and what it is given. See docs/writing-a-trainer.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

GROUP = "edgeloop.trainers"
"""Group of entry points."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainerInput:
    """What a trainer fits to.

    Attributes:
        features: Rows of healthy windows, shape (n, F), finite, each device's in the order of time.
        names: Of the features, ``<channel>_<kind>``, in the order of the columns.
        seed: For whatever it draws: the gate fits again with the same one, and must get the same bytes.
    """

    features: NDArray[np.float32]
    names: tuple[str, ...]
    seed: int


class FeatureTrainer(Protocol):
    """A trainer; the entry point names its class, which is made without arguments."""

    def fit(self, given: TrainerInput) -> bytes:
        """An ONNX graph: features (n, F) to one distance a window, 0 or more, larger where less healthy."""
        ...

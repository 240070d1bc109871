"""What a source hands over and what a model gives back: the two seams of the sensing loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.row_schemas import TimeQuality

Samples = NDArray[np.float32]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One device's complete window of raw samples.

    Attributes:
        samples: Shape (W, C), float32, oldest first, columns in ``Profile.channel_names`` order;
            NaN means missing. Not to be changed by anyone after it was handed over.
        end: Event time: UTC instant at which the window was complete, by the device's clock.
        mono_ns: Monotonic clock of the device at that instant, ns.
        due_s: Seconds since the start of the source at which the window is complete;
            0 where the source runs flat out.
    """

    device_id: str
    samples: Samples
    end: datetime
    mono_ns: int
    time_quality: TimeQuality
    due_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SourcePause:
    """No window before ``due_s`` (seconds since the source's start): other work may be done."""

    due_s: float


class WindowSource(Protocol):
    """Where windows come from.

    Attributes:
        counts: What the source read and refused so far, by name: ``samples``, ``blank``,
            ``duplicate``, ``out_of_order``, ``absurd``, ``gaps``, ``unparsable`` and whatever else
            it has a name for. Only grows; a sample counts under every name that fits it.
    """

    @property
    def counts(self) -> Mapping[str, int]: ...  # noqa: D102  (described above)

    def windows(self) -> Iterator[Window | SourcePause]:
        """Windows of all devices in the order in which they are due. Called once.

        Pacing is the runner's work: the iterator itself never waits.

        Raises:
            SourceError: The input cannot be read as the profile says.
        """
        ...


class Predictor(Protocol):
    """A model from raw window to features and score.

    Attributes:
        version: Model version as stated in rows.
        featureset: Feature set and version, ``name@n``.
        bin_edges: Ascending inner edges of bins by feature name; may be empty.
    """

    @property
    def version(self) -> str: ...  # noqa: D102  (described above)

    @property
    def featureset(self) -> str: ...  # noqa: D102

    @property
    def bin_edges(self) -> Mapping[str, NDArray[np.float64]]: ...  # noqa: D102

    def score(self, device_id: str, samples: Samples) -> tuple[Floats, float | None]:
        """Features and score of one window.

        Args:
            device_id: Whose window: a predictor may keep a reference per device.
            samples: Shape (W, C) as in ``Window.samples``.

        Returns:
            Features, shape (F,), float32, in ``Profile.feature_names`` order, NaN where missing; and
            the score in [0, 1], or None where there is no usable one.
        """
        ...

    def take_over(self, device_id: str, predecessor: Predictor) -> None:
        """Go on where the device's earlier model stopped: keep its reference of the device, if it has one."""
        ...

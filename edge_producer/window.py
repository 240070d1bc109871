"""The two interfaces of the sensing loop: a source gives windows, a predictor gives scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from schemas.row_schemas import TimeQuality

Samples = NDArray[np.float32] | NDArray[np.float64]
"""float64 where a channel of the profile is wide, else float32."""
Floats = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One device's complete window of raw samples.

    Attributes:
        samples: Shape (W, C), float32 (float64 if a channel is wide), oldest first, columns in
            ``Profile.channel_names`` order; NaN means missing, an infinity a value outside the channel's
            range. Must not be changed after the source has yielded the window.
        end: Event time: UTC instant at which the window was complete, by the device's clock.
        mono_ns: Monotonic clock of the device at that instant, ns.
        due_s: Seconds since the start of the source at which the window is complete;
            0 where the source runs flat out.
        arrived_ns: Monotonic clock of this machine when the sample came that completed the window, ns; 0: the
            source does not say, and the time counts at which the window is taken up.

    Example:
        Two samples of one channel; the second one is missing.

        >>> from datetime import UTC
        >>> samples = np.array([[20.5], [np.nan]], dtype=np.float32)
        >>> end = datetime(2026, 3, 1, 12, tzinfo=UTC)
        >>> window = Window("press-1", samples, end, mono_ns=0, time_quality=TimeQuality.SYNCHRONISED)
        >>> window.samples.shape
        (2, 1)
    """

    device_id: str
    samples: Samples
    end: datetime
    mono_ns: int
    time_quality: TimeQuality
    due_s: float = 0.0
    arrived_ns: int = 0


@dataclass(frozen=True, slots=True)
class SourcePause:
    """No window is due before ``due_s``, seconds since the source's start: other work may be done."""

    due_s: float


@dataclass(frozen=True, slots=True)
class SourceWait:
    """Nothing has come from a live source: other work may be done, and then waited for it.

    Attributes:
        due_s: Seconds since the source's start.
        most_s: Longest wait after which the source is to be asked again, whatever has come.
        wait: Returns when something has come, or after so many seconds.
        preview: Makes the window that the next sample completes, as if that were like the one before; None:
            more than a sample is missing.
    """

    due_s: float
    most_s: float
    wait: Callable[[float], None]
    preview: Callable[[], Window | None] | None = None


class WindowSource(Protocol):
    """Gives the windows of devices.

    Attributes:
        counts: What the source read and refused so far, by name: ``samples``, ``blank``, ``duplicate``,
            ``out_of_order``, ``absurd``, ``gaps``, ``unparsable`` and others of its own. Counts only grow; a
            sample counts under every name that applies to it.
    """

    @property
    def counts(self) -> Mapping[str, int]: ...  # noqa: D102  (described above)

    def windows(self) -> Iterator[Window | SourcePause | SourceWait]:
        """Windows of all devices in the order in which they are due. Called once.

        The iterator never waits: the runner paces it, or waits where it is told to.

        Raises:
            SourceError: The input cannot be read as the profile describes it.
        """
        ...


@runtime_checkable
class ReportsState(Protocol):
    """A source that runs by itself, and says how it does: a JSON value for the status file."""

    @property
    def state(self) -> Mapping[str, Any]: ...  # noqa: D102  (described above)


class Predictor(Protocol):
    """A model from raw window to features and score.

    Attributes:
        version: Model version as stated in rows.
        featureset: Feature set and version, ``name@n``.
        bin_edges: Ascending inner edges of bins by feature name; may be empty.

    Example:
        A predictor whose only feature, and score, is the mean of the window.

        >>> class Mean:
        ...     version, featureset, bin_edges = "mean-0.00000000", "mean@1", {}
        ...
        ...     def score(self, device_id, samples, at=None):
        ...         mean = np.float32([np.nanmean(samples)])
        ...         return mean, float(mean[0])
        ...
        ...     def take_over(self, device_id, predecessor):
        ...         pass  # it keeps no reference per device
        >>> model: Predictor = Mean()
        >>> model.score("press-1", np.array([[0.25], [0.75]], dtype=np.float32))[1]
        0.5
    """

    @property
    def version(self) -> str: ...  # noqa: D102  (described above)

    @property
    def featureset(self) -> str: ...  # noqa: D102

    @property
    def bin_edges(self) -> Mapping[str, NDArray[np.float64]]: ...  # noqa: D102

    def score(
        self, device_id: str, samples: Samples, at: datetime | None = None
    ) -> tuple[Floats, float | None]:
        """Numbers and score of one window.

        Args:
            device_id: The window's device: a predictor may keep a reference per device.
            samples: Shape (W, C) as in ``Window.samples``.
            at: ``Window.end``; given where the profile has calendar features or a history.

        Returns:
            Numbers, float32, in ``Profile.row_columns`` order, that is features and then the model's further
            outputs, NaN where missing; and the score in [0, 1], or None where there is no usable one.
        """
        ...

    def take_over(self, device_id: str, predecessor: Predictor) -> None:
        """Continue where the device's earlier model stopped: copy its reference of the device, if any."""
        ...


@runtime_checkable
class LearnsReference(Protocol):
    """A predictor that learns what is usual for each device, and can hand that over as a JSON value."""

    @property
    def version(self) -> str: ...  # noqa: D102  (as ``Predictor.version``)

    def export_reference(self, device_id: str) -> dict[str, Any] | None:
        """What it has learnt of the device; None where it has not begun, or keeps nothing."""
        ...

    def restore_reference(self, device_id: str, state: Mapping[str, Any]) -> None:
        """Take up what was exported.

        Raises:
            ValueError: It cannot be read, or is of other features.
        """
        ...

    def relearn(self, device_id: str) -> None:
        """Forget the device: it warms up anew."""
        ...

    def frozen(self, device_id: str) -> tuple[int, int]:
        """Number of the device's features that no longer learn, and of all that it compares."""
        ...


@runtime_checkable
class KeepsInputs(Protocol):
    """A predictor that keeps what a device has measured before, whichever model is in force."""

    def export_kept(self, device_id: str) -> dict[str, Any]:
        """What is kept of the device, by name, as JSON values; without what has not begun."""
        ...

    def restore_kept(self, device_id: str, name: str, state: Mapping[str, Any]) -> None:
        """Take up one part of what was exported.

        Raises:
            ValueError: It cannot be read, or is of other sums of features.
        """
        ...

    def go_on_from(self, device_id: str, predecessor: Predictor) -> None:
        """Take over what another model keeps of the device, where that is newer."""
        ...

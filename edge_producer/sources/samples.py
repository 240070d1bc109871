"""The one interface of every source: it gives samples, and ours is what becomes of them.

Recorded sources (`simulate`, `replay`) give blocks of consecutive samples at the profile's rate, which are
cut into windows as they are. Live sources (`mqtt`, `sparkplug`, `opcua`, `stdin`, a user's
own) give samples as they come, of one channel or several, which are aligned first (`alignment.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_producer.window import Samples
from schemas.instants import to_us
from schemas.row_schemas import TimeQuality


@dataclass(frozen=True, slots=True)
class Sample:
    """Values of one or more channels of one device at one instant.

    Attributes:
        values: By channel, in the channel's unit; NaN where the sensor says that it has none. A channel
            that is not named has nothing to say.
        time: When it was measured, aware; None: when it came.
        device_id: Whose it is; empty where the process runs one device.
        void: Channels whose earlier values are not to be held any longer: their source says that it does not
            know them, as of a sensor that broke.

    Example:
        >>> Sample({"pressure": 4.2})
        Sample(values={'pressure': 4.2}, time=None, device_id='', void=())
    """

    values: Mapping[str, float]
    time: datetime | None = None
    device_id: str = ""
    void: tuple[str, ...] = ()

    @property
    def us(self) -> int | None:
        """Its time, µs since 1970."""
        return None if self.time is None else to_us(self.time)


@dataclass(frozen=True, slots=True, eq=False)
class SampleBlock:
    """Consecutive samples of one device at the profile's rate, from a source that is paced.

    Attributes:
        us: Time of each sample, µs since 1970, shape (n,).
        values: Shape (n, C), in the order of the profile's channels; NaN is missing, an infinity a value
            outside the channel's range.
        quality: What is known of those times.
        clock_error_us: By how much the device's clock is ahead of them.
    """

    device_id: str
    us: NDArray[np.int64]
    values: Samples
    quality: TimeQuality
    clock_error_us: int = 0


class SampleSource(Protocol):
    """Where samples come from. A live one runs in a thread of its own, and may wait in ``samples``.

    Attributes:
        counts: What it read and refused so far, by name. Counts only grow.

    Example:
        A source of three samples. ``docs/sources.md`` has one to install.

        >>> class Three:
        ...     counts = {}
        ...     def samples(self):
        ...         yield from (Sample({"pressure": p}) for p in (4.1, 4.2, 4.3))
        ...     def close(self):
        ...         pass
        >>> source: SampleSource = Three()
        >>> [sample.values["pressure"] for sample in source.samples()]
        [4.1, 4.2, 4.3]
    """

    @property
    def counts(self) -> Mapping[str, int]: ...  # noqa: D102  (described above)

    def samples(self) -> Iterator[Sample | SampleBlock]:
        """Samples in the order in which they come; called once. Its end is the end of the source.

        Raises:
            PipelineError: The source failed. Whatever a live one raises, another is opened after a while.
        """
        ...

    def close(self) -> None:
        """Let ``samples`` end soon; called from another thread, at any time, more than once."""
        ...


@dataclass(slots=True)
class SourceState:
    """How a live source does, for the status file.

    Attributes:
        phase: ``opening``, ``running``, ``failed`` (another try follows) or ``ended``.
        error: Why it failed last; empty once it has given a sample again.
        restarts: How often it was opened again.
        silent_s: Time since the newest sample, or since the start.
    """

    address: str
    phase: str = "opening"
    error: str = ""
    restarts: int = 0
    silent_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

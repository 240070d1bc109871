"""Replays a recording as a device would have sensed it; counts whatever is wrong in it by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.cells import Instants, Numbers, instants, numbers
from edge_producer.sources.recorded_windows import PacedSource
from edge_producer.sources.recording import Recording, RecordingBlock
from edge_producer.sources.samples import SampleBlock
from edge_producer.window import Samples
from schemas.errors import SourceError
from schemas.instants import to_us
from schemas.profile import Channel, Profile
from schemas.row_schemas import TimeQuality

MOSTLY = 0.5
"""If more than this share of a column's first cells is unreadable, the profile must be wrong."""


class ReplaySource(PacedSource):
    """Samples, and windows, of one recording.

    ``rows = samples + duplicate + out_of_order + unreadable_time + malformed``, exactly, and
    ``samples = in_windows + outside_windows`` once all windows were taken. ``blank``, ``unparsable`` and
    ``absurd`` count cells, which become missing samples.

    Args:
        path: CSV or Parquet.
        profile: Channels, sampling and ``[replay]``.
        device_id: The device that the windows are attributed to.
        start: UTC time of the first sample where the recording has no time column.
    """

    def __init__(self, path: Path, profile: Profile, device_id: str, start: datetime) -> None:
        super().__init__(profile, (device_id,))
        self._path = path
        self._profile = profile
        self._device_id = device_id
        self._start_us = to_us(start)
        self._recording = Recording(path, profile)
        self._dtype = np.dtype(np.float64 if any(profile.wide) else np.float32)
        self._first_us: int | None = None
        names = ("rows", "unreadable_time", "unclear_time", "blank", "unparsable", "absurd")
        self._counts: Counter[str] = Counter(dict.fromkeys(names, 0))

    @property
    def counts(self) -> Mapping[str, int]:
        """Numbers of rows and cells read and refused so far, by name."""
        malformed = self._recording.counts["malformed"]
        rows = self._counts["rows"] + malformed
        return {**self._counts, "rows": rows, "malformed": malformed, **self.framed_counts()}

    def streams(self) -> Mapping[str, Iterator[SampleBlock]]:
        """The recording's samples, in its order.

        Raises:
            SourceError: The file cannot be read as the profile says.
        """
        return {self._device_id: self._blocks()}

    def origins_us(self) -> tuple[int, int]:
        """Both clocks count from the first sample."""
        origin = self._first_us or 0
        return origin, origin

    def _blocks(self) -> Iterator[SampleBlock]:
        recorded = bool(self._profile.replay.time_column)
        quality = TimeQuality.RECORDED if recorded else TimeQuality.UNKNOWN
        for block in self._recording.blocks():
            us, values = self._rows(block)
            if self._first_us is None and len(us):
                self._first_us = int(us[0])
            yield SampleBlock(self._device_id, us, values, quality)
        if not self._counts["rows"]:
            raise SourceError(f"{self._path}: has a header but no rows that could be read")

    def _rows(self, block: RecordingBlock) -> tuple[NDArray[np.int64], Samples]:
        """Times and samples of the rows whose time can be read."""
        count = len(block.cells[0])
        first = self._counts["rows"] == 0
        times = self._times(block, count)
        if first:
            self._check_times(times)
        self._counts["rows"] += count
        self._counts["unreadable_time"] += int((~times.readable).sum())
        self._counts["unclear_time"] += times.unclear
        values: Samples = np.empty((int(times.readable.sum()), len(block.cells)), dtype=self._dtype)
        for position, (channel, cells) in enumerate(zip(self._profile.channels, block.cells, strict=True)):
            column = numbers(cells.filter(times.readable), self._profile.replay)
            if first:
                self._check_numbers(channel, column)
            values[:, position] = self._plausible(channel, column)
        return times.us[times.readable], values

    def _times(self, block: RecordingBlock, count: int) -> Instants:
        if block.times is not None:
            return instants(block.times, self._profile.replay)
        step_us = 1e6 / self._profile.sampling.rate_hz
        position = self._counts["rows"] + np.arange(count)
        us = self._start_us + np.round(position * step_us).astype(np.int64)
        return Instants(us, np.ones(count, dtype=np.bool_))

    def _plausible(self, channel: Channel, column: Numbers) -> NDArray[np.float64]:
        below, above = column.values < channel.min, column.values > channel.max
        self._counts["blank"] += column.blank
        self._counts["unparsable"] += column.unparsable
        self._counts["absurd"] += int((below | above).sum())
        # Infinities of their side: missing to every model, and a run of them is seen.
        return np.where(above, np.inf, np.where(below, -np.inf, column.values))

    def _check_times(self, times: Instants) -> None:
        if len(times.readable) and times.readable.mean() < MOSTLY:
            replay = self._profile.replay
            raise SourceError(
                f"{self._path}: column '{replay.time_column}' holds no times in format "
                f"'{replay.time_format}' (first: {times.first_unreadable!r}); set replay.time_format to "
                "iso, epoch_s, epoch_ms or a strptime format"
            )

    def _check_numbers(self, channel: Channel, column: Numbers) -> None:
        given = len(column.values) - column.blank
        if given and column.unparsable > MOSTLY * given:
            replay = self._profile.replay
            other = "," if replay.decimal == "." else "."
            name = replay.columns.get(channel.name, channel.name)
            raise SourceError(
                f"{self._path}: column '{name}' holds no numbers with decimal mark {replay.decimal!r} "
                f'(first: {column.first_unparsable!r}); try replay.decimal = "{other}", or map channel '
                f"'{channel.name}' to another column in replay.columns"
            )

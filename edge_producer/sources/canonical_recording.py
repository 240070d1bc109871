"""Reads canonical recordings: Parquet files with sorted times and a column a channel, one file a device.

`edgeloop replay` writes them after it has decided how a file is to be read; nothing is left to decide here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edge_producer.sources.recorded_windows import PacedSource
from edge_producer.sources.samples import SampleBlock
from schemas.errors import SourceError
from schemas.profile import Profile
from schemas.row_schemas import TimeQuality

FORMAT_KEY = b"edgeloop.recording"
FORMAT_VERSION = b"1"
TIME_KEY = b"edgeloop.time_quality"
TIME_COLUMN = "time"
BLOCK_ROWS = 8192


class CanonicalSource(PacedSource):
    """Samples, and windows, of canonical recordings, of all devices in the order in which they are due.

    ``rows = samples + duplicate + out_of_order``, exactly, and ``samples = in_windows + outside_windows``
    once all windows were taken. ``blank`` and ``absurd`` count cells, which become missing samples; an absurd
    one is an infinity of its side.

    Args:
        folder: Holds ``<device id>.parquet`` for each device.
        profile: Channels and sampling.
        devices: Their ids.

    Raises:
        SourceError: A file is missing, or is no canonical recording of the profile's channels.
    """

    def __init__(self, folder: Path, profile: Profile, devices: Sequence[str]) -> None:
        super().__init__(profile, devices)
        self._devices = {device: _Device(folder / f"{device}.parquet", profile, device) for device in devices}
        starts = [d.first_us for d in self._devices.values() if d.first_us is not None]
        self._origin = min(starts, default=0)

    @property
    def counts(self) -> Mapping[str, int]:
        """Numbers of rows and cells read and refused so far, by name."""
        total: Counter[str] = Counter(
            {"unreadable_time": 0, "unclear_time": 0, "unparsable": 0, "malformed": 0}
        )
        for device in self._devices.values():
            for name, n in device.counts().items():
                total[name] += n
        return {**total, **self.framed_counts()}

    def streams(self) -> Mapping[str, Iterator[SampleBlock]]:
        """Each device's samples.

        Raises:
            SourceError: A file cannot be read.
        """
        return {name: device.blocks() for name, device in self._devices.items()}

    def origins_us(self) -> tuple[int, int]:
        """Both clocks count from the first sample of all."""
        return self._origin, self._origin


class _Device:
    """One device's file, read block by block."""

    def __init__(self, path: Path, profile: Profile, device_id: str) -> None:
        self._path = path
        self._profile = profile
        self._device_id = device_id
        self._dtype = np.dtype(np.float64 if any(profile.wide) else np.float32)
        self._cells: Counter[str] = Counter(rows=0, blank=0, absurd=0)
        try:
            with pq.ParquetFile(path) as file:
                schema, statistics = file.schema_arrow, _first_time(file)
        except FileNotFoundError as exc:
            raise SourceError(f"{path}: no recording of this device") from exc
        except (pa.ArrowInvalid, OSError) as exc:
            raise SourceError(f"{path}: is no Parquet file that can be read: {exc}") from exc
        metadata = schema.metadata or {}
        missing = [c for c in (TIME_COLUMN, *profile.channel_names) if c not in schema.names]
        if metadata.get(FORMAT_KEY) != FORMAT_VERSION or missing:
            lacks = f" and lacks {', '.join(missing)}" if missing else ""
            raise SourceError(f"{path}: is no canonical recording{lacks}: let `edgeloop replay` write it")
        self.first_us = statistics
        self.quality = TimeQuality(int(metadata.get(TIME_KEY, b"0")))
        self._low = np.array([c.min for c in profile.channels])
        self._high = np.array([c.max for c in profile.channels])

    def counts(self) -> Mapping[str, int]:
        return self._cells

    def blocks(self) -> Iterator[SampleBlock]:
        names = [TIME_COLUMN, *self._profile.channel_names]
        try:
            with pq.ParquetFile(self._path, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=names, use_threads=False):
                    yield self._block(batch, names)
        except (pa.ArrowInvalid, OSError) as exc:
            raise SourceError(f"{self._path}: {exc}") from exc

    def _block(self, batch: pa.RecordBatch, names: Sequence[str]) -> SampleBlock:
        us = batch.column(names[0]).cast(pa.int64()).to_numpy(zero_copy_only=False)
        values = np.column_stack([batch.column(n).to_numpy(zero_copy_only=False) for n in names[1:]])
        below, above = values < self._low, values > self._high
        self._cells["rows"] += len(us)
        self._cells["blank"] += int(np.isnan(values).sum())
        self._cells["absurd"] += int(below.sum() + above.sum())
        # Infinities of their side: missing to every model, and a run of them is seen.
        values[above], values[below] = np.inf, -np.inf
        return SampleBlock(self._device_id, us, values.astype(self._dtype), self.quality)


def is_canonical(path: Path) -> bool:
    """Whether a path is a folder of canonical recordings."""
    return path.is_dir()


def _first_time(file: pq.ParquetFile) -> int | None:
    for batch in file.iter_batches(batch_size=1, columns=[TIME_COLUMN]):
        return int(batch.column(0).cast(pa.int64())[0].as_py())
    return None

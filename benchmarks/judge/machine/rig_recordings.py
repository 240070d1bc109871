"""Recordings of judged machines, which edgeloop reads by its source `replay`, opened as a device opens it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edge_producer.settings import EdgeSettings
from edge_producer.sources.opening import open_source
from edge_producer.window import Window
from schemas.instants import to_us
from schemas.profile import Profile

Array = NDArray[np.float64]
MARKS = {b"edgeloop.recording": b"1", b"edgeloop.time_quality": b"2"}
"""What says that a Parquet file is a recording at the profile's rate with nothing left to decide."""


def write_device(
    folder: Path, device: str, start: datetime, rate_hz: float, channels: Mapping[str, Array]
) -> None:
    """One device's recording: sample k is of ``(k + 1) / rate_hz`` seconds after the start.

    Args:
        folder: Of the fleet.
        device: Its id.
        start: UTC.
        rate_hz: Samples a second.
        channels: Values by channel, shape (n,).
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = len(next(iter(channels.values())))
    us = to_us(start) + np.round((np.arange(size) + 1) / rate_hz * 1e6).astype(np.int64)
    fields = [pa.field("time", pa.timestamp("us", "UTC"), nullable=False)]
    schema = pa.schema([*fields, *(pa.field(name, pa.float64()) for name in channels)], MARKS)
    columns = [pa.array(us).cast(schema.field(0).type), *(pa.array(v) for v in channels.values())]
    table = pa.Table.from_arrays(columns, schema=schema)
    pq.write_table(table, folder / f"{device}.parquet", compression="lz4", use_dictionary=False)


def sensed_windows(folder: Path, profile: Profile, devices: tuple[str, ...]) -> Iterator[Window]:
    """Windows of a fleet's recordings, as the edge process gets them from ``EDGE_SOURCE=replay``.

    Raises:
        SourceError: A recording is missing or does not fit the profile.
    """
    settings = EdgeSettings(
        name="judge",
        state_dir=folder,
        profile=profile.name,
        devices=devices,
        source="replay",
        recording=folder,
    )
    for given in open_source(settings, profile, devices).windows():
        if isinstance(given, Window):
            yield given

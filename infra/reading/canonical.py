"""Writes a recording as canonical Parquet: one file a device, as the edge's `replay` source takes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edge_producer.sources.canonical_recording import FORMAT_KEY, FORMAT_VERSION, TIME_COLUMN, TIME_KEY
from infra.reading.device_rows import DeviceRows
from infra.reading.recording_reader import ReadRecording
from schemas.profile import Profile
from schemas.row_schemas import TimeQuality

GROUP_ROWS = 16_384


def write_canonical(read: ReadRecording, profile: Profile, ids: Mapping[str, str], folder: Path) -> None:
    """Write ``<device id>.parquet`` for each device.

    Args:
        read: The recording.
        profile: Its channels are the columns.
        ids: Device id by the name in the file.
        folder: It is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_name = {c.name.strip(): c for c in read.columns}
    wanted = [by_name[profile.replay.columns.get(c, c).strip()] for c in profile.channel_names]
    quality = TimeQuality.RECORDED if read.record.recorded else TimeQuality.UNKNOWN
    fields = [pa.field(TIME_COLUMN, pa.timestamp("us", "UTC"), nullable=False)]
    fields += [pa.field(name, pa.float64()) for name in profile.channel_names]
    schema = pa.schema(fields, {FORMAT_KEY: FORMAT_VERSION, TIME_KEY: str(int(quality)).encode()})
    for name, rows in read.devices.items():
        path = folder / f"{ids[name]}.parquet"
        with pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as writer:
            for first in range(0, len(rows.us), GROUP_ROWS):
                writer.write_table(_group(rows, first, [c.values for c in wanted], schema))


def _group(rows: DeviceRows, first: int, values: list[np.ndarray], schema: pa.Schema) -> pa.Table:
    us = rows.us[first : first + GROUP_ROWS]
    places = rows.places[first : first + GROUP_ROWS]
    times = pa.array(us, pa.int64()).cast(schema.field(0).type)
    return pa.Table.from_arrays([times, *(pa.array(v[places], pa.float64()) for v in values)], schema=schema)

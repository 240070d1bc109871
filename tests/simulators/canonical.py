"""Writes canonical recordings, as `edgeloop replay` does once it has read a file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edge_producer.sources.canonical_recording import FORMAT_KEY, FORMAT_VERSION, TIME_KEY
from schemas.row_schemas import TimeQuality


def write_canonical(folder: Path, device: str, start: datetime, rate_hz: float, columns: dict) -> Path:
    """One device's recording: a column of samples a channel, the first at ``start``; returns the folder."""
    folder.mkdir(exist_ok=True)
    n = len(next(iter(columns.values())))
    us = np.round(np.arange(n) * 1e6 / rate_hz).astype(np.int64) + round(start.timestamp() * 1e6)
    table = pa.table({"time": pa.array(us, pa.timestamp("us", "UTC")), **columns})
    marks = {FORMAT_KEY: FORMAT_VERSION, TIME_KEY: str(int(TimeQuality.SYNCHRONISED)).encode()}
    pq.write_table(table.replace_schema_metadata(marks), folder / f"{device}.parquet")
    return folder

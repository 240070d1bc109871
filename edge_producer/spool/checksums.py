"""Checksums of what the spool keeps unsealed, so that a damaged value is noticed and never sent.

Sealed messages need none: their digest and signature say the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from edge_producer.sensed_rows import Row, StoredRow
from edge_producer.summaries import Summary


def checksum(blob: bytes, *values: Any) -> int:
    """CRC-32 over bytes and plain values: int, float, str or None, each as SQLite gives it back."""
    return zlib.crc32(repr(values).encode(), zlib.crc32(blob))


def row_checksum(device: int, row: Row | StoredRow, features: bytes, pi: float, u: float) -> int:
    """Checksum of an unsealed row, as sensed or as the spool gives it back.

    ``sensed_s`` is left out, because a restart may set it back.
    """
    score = None if row.score is None else float(row.score)
    whole = (device, row.boot_id, row.seq, row.event_us, row.mono_ns, row.time_quality, row.reasons)
    numbers = (score, float(row.sample_p), float(pi), float(u))
    own = () if row.calibration is None else (str(row.calibration),)  # sums of before hold
    return checksum(features, *map(int, whole), *numbers, str(row.decision), str(row.model_version), *own)


def summary_checksum(summary: Summary) -> int:
    """Checksum of a closed summary."""
    boot_id, model, period_us, period_s, part, value, raw = summary
    return checksum(value, boot_id, model, period_us, float(period_s), part, raw)


def device_checksum(state: str | None, held: int, opened: Sequence[Any]) -> int:
    """Checksum of what is kept of a device.

    Args:
        state: JSON of decisions and filter.
        held: Rows in it.
        opened: Its open summary as columns, in the order of ``Summary``, or seven times None.
    """
    *plain, value, raw = opened
    return checksum((state or "").encode() + (value or b""), held, *plain, raw)

"""Measures decision latency, and the bytes that sending every row would take."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from datasketches import kll_floats_sketch

from edge_producer.sensed_rows import Row, StoredRow, wire_batch
from schemas.envelope import encode_rows
from schemas.profile import Profile
from schemas.row_schemas import telemetry_layout

LATENCY_K = 400
ENVELOPE_BYTES = 225
"""Headers of one message, signature included."""


class Meters:
    """Meters of one process, shared by its devices; latencies are written by the sensing thread only.

    Args:
        profile: Profile of the devices.
        message_rows: Most rows in one message.
    """

    def __init__(self, profile: Profile, message_rows: int = 500) -> None:
        self._decide_ms = kll_floats_sketch(LATENCY_K)
        self._pickup_ms = kll_floats_sketch(LATENCY_K)
        self._layout = telemetry_layout(profile)
        self._message_rows = message_rows

    def decided(self, nanoseconds: int) -> None:
        """Record the latency from a complete window to its decision."""
        self._decide_ms.update(nanoseconds / 1e6)

    def picked_up(self, late_ms: float) -> None:
        """Record how long a complete window waited for the sensing loop."""
        self._pickup_ms.update(late_ms)

    def unfiltered_bytes(self, device_id: str, rows: Sequence[Row]) -> int:
        """Size of the messages that would have carried these rows, had all of them been sent.

        Args:
            device_id: Part of each message.
            rows: Everything that the device sensed since its last commit, which would be sent together.
        """
        total = 0
        for start in range(0, len(rows), self._message_rows):
            part = [_as_stored(row) for row in rows[start : start + self._message_rows]]
            value, _ = encode_rows(wire_batch(device_id, part, self._layout))
            total += len(value) + ENVELOPE_BYTES + len(device_id)
        return total

    def decide_ms(self) -> dict[str, Any]:
        """Quantiles of the latency from a complete window to its decision, since the start."""
        return _quantiles(self._decide_ms)

    def pickup_ms(self) -> dict[str, Any]:
        """Quantiles of how late the loop picked up windows that were due, since the start."""
        return _quantiles(self._pickup_ms)


def _as_stored(row: Row) -> StoredRow:
    return StoredRow(
        0,
        0,
        row.boot_id,
        row.seq,
        row.event_us,
        row.mono_ns,
        row.time_quality,
        row.features.tobytes(),
        row.score,
        row.decision,
        row.reasons,
        row.sample_p,
        row.pi,
        row.model_version,
        row.sensed_s,
        row.calibration,
    )


def _quantiles(sketch: kll_floats_sketch) -> dict[str, Any]:
    """Quantiles in ms, and the sketch itself in base64, to be merged over processes."""
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    known = {} if sketch.is_empty() else {n: round(sketch.get_quantile(r), 4) for n, r in ranks.items()}
    return {"n": sketch.n, **known, "sketch": base64.b64encode(sketch.serialize()).decode("ascii")}

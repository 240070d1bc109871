"""What an edge process measures of itself: decision latency, and what sending everything would cost."""

from __future__ import annotations

import base64
from typing import Any

from datasketches import kll_floats_sketch

from edge_producer.rows import Row, StoredRow, wire_batch
from schemas.envelope import encode_rows
from schemas.profile import Profile
from schemas.rows import telemetry_rows

LATENCY_K = 400
METERED_ROWS = 256


class Meters:
    """Shared by the devices of one process; written by the sensing thread only.

    Args:
        profile: Vertical of the devices.
    """

    def __init__(self, profile: Profile) -> None:
        self._decide_ms = kll_floats_sketch(LATENCY_K)
        self._schema = telemetry_rows(profile)
        self._rows: list[StoredRow] = []
        self._feature_bytes = 0

    def decided(self, nanoseconds: int) -> None:
        """Take one latency from a complete window to its decision."""
        self._decide_ms.update(nanoseconds / 1e6)

    def row(self, row: Row) -> None:
        """Take a sensed row, sent or not: the yardstick of the filter.

        Every row counts at its size in large compressed batches, which is the least that sending all of
        them would take.
        """
        self._rows.append(
            StoredRow(
                0, 0, row.boot_id, row.seq, row.event_us, row.mono_ns, row.time_quality,
                row.features.tobytes(), row.score, row.decision, row.reasons, row.sample_p, row.pi,
                row.model_version, row.sensed_s,
            )
        )  # fmt: skip
        if len(self._rows) >= METERED_ROWS:
            self.close()

    def close(self) -> None:
        """Measure the rows that do not fill a batch yet."""
        if self._rows:
            self._feature_bytes += len(encode_rows(wire_batch("all", self._rows, self._schema))[0])
            self._rows.clear()

    def take_feature_bytes(self) -> int:
        """Bytes of the batches measured since the last call."""
        taken, self._feature_bytes = self._feature_bytes, 0
        return taken

    def latency(self) -> dict[str, Any]:
        """Quantiles of window-to-decision latency in ms since the start, and the mergeable sketch."""
        sketch = self._decide_ms
        quantiles = {} if sketch.is_empty() else {
            name: round(sketch.get_quantile(rank), 4)
            for name, rank in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0))
        }  # fmt: skip
        return {"n": sketch.n, **quantiles, "sketch": base64.b64encode(sketch.serialize()).decode("ascii")}

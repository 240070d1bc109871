"""Each device's totals, in the spool or read beside the process that has it open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_producer.spool.spool_file import reading


@dataclass(frozen=True)
class DeviceBooks:
    """One device's totals since its spool was made.

    ``pending`` is counted from the rows themselves: held, unsealed and sealed ones.
    """

    sensed: int = 0
    acked: int = 0
    filtered: int = 0
    evicted: int = 0
    refused: int = 0
    pending: int = 0
    pending_bytes: int = 0

    @property
    def balanced(self) -> bool:
        """Whether every sensed row is accounted for."""
        return self.sensed == self.acked + self.filtered + self.evicted + self.refused + self.pending


TOTALS = """
SELECT d.device_id,
    d.held + coalesce(t.sensed, 0) + coalesce(b.sensed, 0), coalesce(t.acked, 0) + coalesce(b.acked, 0),
    coalesce(t.filtered, 0) + coalesce(b.filtered, 0), coalesce(t.evicted, 0) + coalesce(b.evicted, 0),
    coalesce(t.refused, 0) + coalesce(b.refused, 0), d.held + coalesce(r.n, 0) + coalesce(m.n, 0),
    coalesce(r.size, 0) + coalesce(m.size, 0)
FROM devices d LEFT JOIN totals t ON t.device = d.no
LEFT JOIN (SELECT device, sum(sensed) AS sensed, sum(acked) AS acked, sum(filtered) AS filtered,
    sum(evicted) AS evicted, sum(refused) AS refused FROM books GROUP BY device) b ON b.device = d.no
LEFT JOIN (SELECT device, count(*) AS n, sum(length(features)) AS size FROM rows GROUP BY device) r
    ON r.device = d.no
LEFT JOIN (SELECT device, sum(n_rows) AS n, sum(size) AS size FROM messages GROUP BY device) m
    ON m.device = d.no
ORDER BY d.device_id
"""
"""Totals of each device, in the order of the fields of ``DeviceBooks``, the device's id before them."""


def read_books(path: Path) -> dict[str, DeviceBooks]:
    """Each device's totals, read beside the running process; one consistent snapshot.

    Raises:
        SpoolError: The file is missing or no spool.
    """
    with reading(path) as connection:
        return {device: DeviceBooks(*counts) for device, *counts in connection.execute(TOTALS)}

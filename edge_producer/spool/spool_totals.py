"""Each device's totals, in the spool or read beside the process that has it open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_producer.spool.spool_file import reading
from edge_producer.spool.spool_tallies import COUNTED, has_tallies


@dataclass(frozen=True)
class DeviceBooks:
    """One device's totals since its spool was made.

    ``pending`` comes from the rows themselves, held, unsealed and sealed ones; the lines of the books do not
    enter into it.
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


_OF_DEVICES = """
SELECT d.device_id,
    d.held + coalesce(t.sensed, 0) + coalesce(y.sensed, 0), coalesce(t.acked, 0) + coalesce(y.acked, 0),
    coalesce(t.filtered, 0) + coalesce(y.filtered, 0), coalesce(t.evicted, 0) + coalesce(y.evicted, 0),
    coalesce(t.refused, 0) + coalesce(y.refused, 0),
    d.held + coalesce(y.rows, 0) + coalesce(y.message_rows, 0) + coalesce(c.rows, 0),
    coalesce(y.row_bytes, 0) + coalesce(y.message_bytes, 0) + coalesce(c.bytes, 0)
FROM devices d LEFT JOIN totals t ON t.device = d.no LEFT JOIN {tallies} y ON y.device = d.no
LEFT JOIN (
    -- What a gateway has sealed, by device: so many messages as are in flight, however much waits unsealed.
    SELECT b.device AS device, sum(m.n) AS rows, sum(m.size * m.n / m.n_rows) AS bytes
    FROM (
        SELECT json_extract(e.value, '$[0]') AS line, json_extract(e.value, '$[1]') AS n, size, n_rows
        FROM messages, json_each(messages.books) e
        WHERE messages.device = (
            SELECT no FROM devices JOIN meta ON meta.value = device_id WHERE meta.key = 'gateway')
    ) m JOIN books b ON b.id = m.line GROUP BY b.device
) c ON c.device = d.no
WHERE d.device_id NOT IN (SELECT value FROM meta WHERE key = 'gateway')
ORDER BY d.device_id
"""
TOTALS = _OF_DEVICES.format(tallies="tallies")
"""Totals of each device, in the order of the fields of ``DeviceBooks``, the device's id before them."""
_COUNTED_TOTALS = _OF_DEVICES.format(tallies=f"({COUNTED})")


def read_books(path: Path) -> dict[str, DeviceBooks]:
    """Each device's totals, read beside the running process; one consistent snapshot.

    Raises:
        SpoolError: The file is missing or no spool.
    """
    with reading(path) as connection:
        query = TOTALS if has_tallies(connection) else _COUNTED_TOTALS
        return {device: DeviceBooks(*counts) for device, *counts in connection.execute(query)}

"""What a spool file says beside its totals, read beside the process that has it open."""

from __future__ import annotations

from pathlib import Path

from edge_producer.spool.spool_file import reading


def read_counters(path: Path) -> dict[str, int]:
    """What the process measured since the file was made, by name.

    Raises:
        SpoolError: The file is missing or no spool.
    """
    with reading(path) as connection:
        return dict(connection.execute("SELECT name, value FROM counters").fetchall())


def read_states(path: Path) -> dict[str, str | None]:
    """What the last update of each device stored, read beside whoever has the file open.

    Raises:
        SpoolError: The file is missing or no spool.
    """
    with reading(path) as connection:
        return dict(connection.execute("SELECT device_id, state FROM devices").fetchall())

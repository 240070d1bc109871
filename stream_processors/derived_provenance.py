"""Provenance of rows that a job derives: they come from a commit, not from a message."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from stream_processors.job import Batch


def derived_provenance(batch: Batch, now: datetime) -> dict[str, Any]:
    """Columns known_at, _partition and _offset of derived rows; ``_row`` is the row's index in the commit.

    known_at is the commit's clock, ``_partition`` the task's number (-1 where its name ends in none) and
    ``_offset`` the commit's number: with ``_row`` they are the event id in columns.
    """
    number = batch.task.rpartition("-")[2]
    partition = int(number) if number.isdigit() and len(number) < 10 else -1
    return {"known_at": now, "_partition": partition, "_offset": batch.n}

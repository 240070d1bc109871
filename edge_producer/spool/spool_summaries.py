"""Closed summaries in the spool, as they were stored."""

from __future__ import annotations

import sqlite3

from edge_producer.spool.checksums import summary_checksum
from edge_producer.summaries import Summary
from schemas.columns import RowLayout

Waiting = list[tuple[int, Summary]]
"""Summaries with their ids, in the order they closed."""


def devices_with_summaries(connection: sqlite3.Connection, below_s: float) -> list[int]:
    """Devices with unsealed summaries of periods shorter than this."""
    query = (
        "SELECT no FROM devices WHERE EXISTS"
        " (SELECT 1 FROM summaries WHERE device = no AND period_s < ?) ORDER BY no"
    )
    return [no for (no,) in connection.execute(query, (below_s,))]


def read_summaries(
    connection: sqlite3.Connection, device: int, limit: int, below_s: float, layout: RowLayout
) -> tuple[Waiting, Waiting]:
    """Summaries of a device of periods shorter than this: whole ones, and those that cannot be read.

    One of 0.2.0 has no checksum, and says itself what it is about.
    """
    found = connection.execute(
        "SELECT id, crc, boot_id, model, period_us, period_s, part, value, raw_bytes FROM summaries"
        " WHERE device = ? AND period_s < ? ORDER BY id LIMIT ?",
        (device, below_s, limit),
    )
    whole, damaged = Waiting(), Waiting()
    for id_, crc, *values in found:
        summary = Summary(*values)
        holds = crc in (None, summary_checksum(summary)) and summary.is_of(layout)
        (whole if holds else damaged).append((id_, summary))
    return whole, damaged


def insert_summary(connection: sqlite3.Connection, device: int, summary: Summary) -> None:
    """Store a closed summary."""
    connection.execute(
        "INSERT INTO summaries (device, boot_id, model, period_us, period_s, part, value, raw_bytes, crc)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (device, *summary, summary_checksum(summary)),
    )

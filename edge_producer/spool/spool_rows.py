"""Selected rows that wait in the spool to be sealed, and their thinning when it is full."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import floor
from typing import Any, NamedTuple

from edge_producer.books import BookKey
from edge_producer.sensed_rows import Row, StoredRow, joined_decision, parted_decision
from edge_producer.spool.checksums import row_checksum
from edge_producer.spool.salvage_plan import FoundRow
from edge_producer.spool.spool_books import SpoolBooks
from edge_producer.spool.spool_file import AS_SAMPLED, one
from edge_producer.spool.spool_tallies import total
from schemas.row_schemas import CONTEXT, GIVES_WAY, RULES, Stratum

log = logging.getLogger(__name__)

ROW_OVERHEAD = 160
"""Bytes that a row takes in the file besides its features, indexes included."""

_DECISION = 9
"""Place of the decision among the columns that are read."""

_PI = "CASE r.pi WHEN 0 THEN r.sample_p ELSE r.pi END"

_INSERT = (
    "INSERT INTO rows (device, book, seq, event_us, mono_ns, time_quality, features, score, decision,"
    " reasons, sample_p, pi, u, sensed_s, crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class ThinnedBlock(NamedTuple):
    """Names a block: the rows that are thinned together."""

    device: int
    period_us: int
    stratum: str


class SpoolRows:
    """Unsealed rows of all devices. Every change happens inside the spool's transaction.

    Attributes:
        bytes: Estimated size of all rows.
    """

    def __init__(self, connection: sqlite3.Connection, books: SpoolBooks) -> None:
        self._connection = connection
        self._books = books
        blocks = connection.execute("SELECT device, period_us, stratum, tau FROM blocks")
        self._tau: dict[ThinnedBlock, float] = {ThinnedBlock(d, p, s): tau for d, p, s, tau in blocks}
        self.bytes = 0
        self.measure()

    def measure(self) -> None:
        """Set ``bytes`` to what the file's sums say."""
        self.bytes = total(self._connection, "row_bytes") + ROW_OVERHEAD * total(self._connection, "rows")

    def insert(self, device: int, rows: Iterable[Row], books: Mapping[BookKey, int]) -> None:
        """Store selected rows; a row of a thinned block only if thinning would have kept it."""
        kept = []
        for row in rows:
            stratum = row.stratum.value
            book = books[BookKey(*row.period, stratum)]
            if self._tau and row.u >= row.pi * self.tau(ThinnedBlock(device, row.period_us, stratum)):
                self._books.settle(book, 1, "evicted", row.sensed_s)
                continue
            features = row.features.tobytes()
            self.bytes += len(features) + ROW_OVERHEAD
            crc = row_checksum(device, row, features, row.pi, row.u)
            # Whole seconds, which SQLite stores in four bytes, and once more in the index.
            sensed_s = float(floor(row.sensed_s))
            kept.append(
                (
                    device,
                    book,
                    row.seq,
                    row.event_us,
                    row.mono_ns,
                    row.time_quality,
                    features,
                    row.score,
                    joined_decision(row),
                    row.reasons,
                    row.sample_p,
                    _stored_pi(row.pi, row.sample_p),
                    row.u,
                    sensed_s,
                    crc,
                )
            )
        self._connection.executemany(_INSERT, kept)

    def take_over(self, block: ThinnedBlock, found: FoundRow, book: int) -> None:
        """Store an unsealed row of another spool under a line of this one, if thinning would have kept it."""
        device, (_, row, pi, u) = block.device, found
        if u >= pi * self.tau(block):
            self._books.settle(book, 1, "evicted", row.sensed_s)
            return
        crc = row_checksum(device, row, row.features, pi, u)
        self.bytes += len(row.features) + ROW_OVERHEAD
        values = (device, book, row.seq, row.event_us, row.mono_ns, row.time_quality, row.features, row.score)
        pi = _stored_pi(pi, row.sample_p)
        more = (joined_decision(row), row.reasons, row.sample_p, pi, u, row.sensed_s, crc)
        self._connection.execute(_INSERT, (*values, *more))

    def oldest_s(self) -> dict[int, float]:
        """Time at which the oldest unsealed row was sensed (steady clock), by device."""
        # One search of an index for each device: grouped, the query would read the whole index.
        found = self._connection.execute(
            "SELECT no, (SELECT min(sensed_s) FROM rows WHERE device = no) AS oldest FROM devices"
        )
        return {device: oldest for device, oldest in found if oldest is not None}

    def waits_without_rule(self, device: int, limit: int) -> bool:
        """Whether fewer unsealed rows of a device wait than this, and no rule has selected one of them."""
        rows, urgent = self._connection.execute(
            "SELECT count(*), coalesce(max(reasons & ? != 0), 0) FROM"
            " (SELECT reasons FROM rows WHERE device = ? LIMIT ?)",
            (RULES | CONTEXT, device, limit),
        ).fetchone()
        return bool(rows < limit and not urgent)

    def read(self, device: int, from_s: float, before_s: float, limit: int) -> list[StoredRow]:
        """Rows sensed in the half-open span, oldest first, with their inclusion probability as thinned.

        A damaged row is given up, so fewer than there are may come.
        """
        found = self._connection.execute(
            "SELECT r.id, r.book, b.boot_id, r.seq, r.event_us, r.mono_ns, r.time_quality, r.features,"  # noqa: S608  (constants)
            " r.score, r.decision, r.reasons, r.sample_p,"
            f" CASE WHEN r.reasons & ? THEN NULL ELSE {_PI} * coalesce(k.tau, 1.0) END, b.model, r.sensed_s,"
            f" {_PI}, r.u, r.crc FROM rows r JOIN books b ON b.id = r.book LEFT JOIN blocks k"
            " ON k.device = b.device AND k.period_us = b.period_us AND k.stratum = b.stratum"
            " WHERE r.device = ? AND r.sensed_s >= ? AND r.sensed_s < ? ORDER BY r.sensed_s, r.id LIMIT ?",
            (CONTEXT, device, from_s, before_s, limit),
        )
        whole: list[StoredRow] = []
        damaged: list[StoredRow] = []
        for *values, pi, u, crc in found:
            row = _row_of(*values)
            (
                whole if crc is None or crc == row_checksum(device, row, row.features, pi, u) else damaged
            ).append(row)
        if damaged:
            self._give_up(damaged, device)
        return whole

    def _give_up(self, rows: Sequence[StoredRow], device: int) -> None:
        """Remove rows that are not what was stored, and count them as lost."""
        log.error("%d damaged rows of device %d are given up", len(rows), device)
        self.remove(rows)
        for row in rows:
            self._books.lose(row.book, 1, row.sensed_s)

    def remove(self, rows: Sequence[StoredRow]) -> None:
        """Remove rows that a sealed message holds, which is stored in the same transaction."""
        self._connection.executemany("DELETE FROM rows WHERE id = ?", [(row.id,) for row in rows])
        self.bytes -= sum(len(row.features) + ROW_OVERHEAD for row in rows)

    def last_id(self) -> int:
        """Highest id of a row; 0 where there is none."""
        return int(one(self._connection, "SELECT max(id) FROM rows"))

    def age(self, after: int, last: int, now_s: float) -> None:
        """Set times ahead of ``now_s``, from before a restart, back to it, in rows of these ids."""
        self._connection.execute(
            "UPDATE rows SET sensed_s = ? WHERE id > ? AND id <= ? AND sensed_s > ?",
            (now_s, after, last, now_s),
        )

    def forget_blocks(self) -> None:
        """Remove what is known of blocks no line of which remains."""
        gone = self._connection.execute(
            "DELETE FROM blocks WHERE NOT EXISTS (SELECT 1 FROM books b WHERE b.device = blocks.device"
            " AND b.period_us = blocks.period_us AND b.stratum = blocks.stratum)"
            " RETURNING device, period_us, stratum"
        ).fetchall()
        for block in gone:
            self._tau.pop(ThinnedBlock(*block), None)

    def oldest_blocks(self, limit: int) -> list[ThinnedBlock]:
        """The oldest blocks with a line that was never stated and that has unsealed rows."""
        found = self._connection.execute(
            "SELECT DISTINCT b.device, b.period_us, b.stratum FROM books b WHERE b.closed = 1"
            " AND b.pending > 0 AND b.revision = 0 AND b.statement IS NULL"
            " AND EXISTS (SELECT 1 FROM rows r WHERE r.book = b.id) ORDER BY b.period_us LIMIT ?",
            (limit,),
        )
        return [ThinnedBlock(*row) for row in found]

    def tau(self, block: ThinnedBlock) -> float:
        """Thinning factor in force; 0 where the block was given up."""
        return self._tau.get(block, 1.0)

    def blocks(self) -> list[ThinnedBlock]:
        """Blocks that can be thinned, in the order in which they are.

        The least thinned first, then the oldest, then by stratum as ``GIVES_WAY`` says. A block that lost
        all its rows to thinning keeps its place in the order: whether a block is thinned or given up must
        not depend on the u of its rows.
        """
        found = self._connection.execute(
            "SELECT DISTINCT b.device, b.period_us, b.stratum FROM books b"
            " WHERE b.evicted > 0 OR EXISTS (SELECT 1 FROM rows r WHERE r.book = b.id)"
        )
        blocks = [ThinnedBlock(*row) for row in found]
        return sorted(
            (block for block in blocks if self.tau(block)),
            key=lambda block: (
                -self.tau(block),
                block.period_us,
                GIVES_WAY.index(Stratum(block.stratum)),
                block.device,
            ),
        )

    def thin(self, block: ThinnedBlock, tau: float, now_s: float) -> int:
        """Keep the block's unsealed rows with u < pi * tau; returns how many were removed.

        Args:
            block: Rows that come for it later are thinned in the same way.
            tau: New thinning factor; 0 gives up the block, which the books state as a gap.
            now_s: Steady clock.
        """
        removed = self._connection.execute(
            "DELETE FROM rows AS r WHERE book IN (SELECT id FROM books WHERE device = ? AND period_us = ?"  # noqa: S608  (constants)
            f" AND stratum = ?) AND u >= {_PI} * ? RETURNING book, length(features)",
            (*block, tau),
        ).fetchall()
        for book, n in Counter(book for book, _ in removed).items():
            self._books.settle(book, n, "evicted", now_s)
        self.bytes -= sum(size + ROW_OVERHEAD for _, size in removed)
        self._tau[block] = tau
        self._connection.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?)", (*block, tau))
        return len(removed)


def _stored_pi(pi: float, sample_p: float) -> float:
    return AS_SAMPLED if pi == sample_p else pi


def _row_of(*values: Any) -> StoredRow:
    """The row of columns as ``read`` asks for them."""
    decision, calibration = parted_decision(values[_DECISION])
    known = [*values, calibration]
    known[_DECISION] = decision
    return StoredRow(*known)

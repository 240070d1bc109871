"""The lines of the books in the spool: counted, stated when they change, removed when they are settled."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from edge_producer.books import BookChange, BookKey, BookLine, CoMoments
from edge_producer.device_update import REWIND_PERIODS
from edge_producer.spool.boot_terms import SpoolBoots
from edge_producer.spool.salvage_plan import FoundLine
from edge_producer.spool.spool_file import one
from edge_producer.spool.spool_tallies import total

Outcome = Literal["acked", "evicted", "refused"]
FORGET_PERIODS = 2 * REWIND_PERIODS
"""A settled line this many periods behind the newest may be removed: no row can come for it."""
_FOLDABLE = (
    "b.closed = 1 AND b.pending = 0 AND b.acked = 0 AND b.refused = 0 AND b.revision = 0"
    " AND b.statement IS NULL AND (b.boot_id != d.boot_id OR b.period_us < d.newest_us - ?)"
    " AND b.id NOT IN (SELECT value FROM json_each(?))"
)
"""Lines that the cloud has never heard of, rows of theirs included, and to which no row can come any more."""
ACKNOWLEDGED = 0
"""Value of ``books.statement`` once the newest statement arrived; before, the id of the message with it."""


_SETTLED = "b.dirty = 1 AND b.closed = 1 AND b.pending = 0 AND b.stated_s <= ?"
_WAITING = "b.dirty = 1 AND b.closed = 1 AND b.pending <> 0 AND b.changed_s <= ? AND b.stated_s <= ?"
"""Lines that are due: those whose rows all have their final count, and those with pending rows."""
LINES_AT_ONCE = 512
"""Lines that are read at once, to be stated in one message."""
LINE_BYTES = 600
"""What a line takes without its moments, indexes and block included."""


class DueLine(NamedTuple):
    """A line to be stated now."""

    id: int
    device: int
    line: BookLine


class SpoolBooks:
    """Lines of all devices' books. Every change happens inside the spool's transaction.

    Attributes:
        awaited: Ids of lines of which another spool still holds rows or messages, to be taken over.

    Args:
        connection: The spool's.
        period_s: Length of a period in the profile.
        boots: Length of a period by boot.
    """

    def __init__(self, connection: sqlite3.Connection, period_s: float, boots: SpoolBoots) -> None:
        self._connection = connection
        self._period_s = period_s
        self._boots = boots
        self._earlier: dict[tuple[int, int], float] = {}
        self.awaited: set[int] = set()

    def keep_period(self, period_s: float) -> None:
        """The profile has another period; lines that are there, and later ones of their boots, keep this."""
        self._connection.execute("UPDATE books SET period_s = ? WHERE period_s IS NULL", (period_s,))
        boots = self._connection.execute("SELECT DISTINCT device, boot_id, period_s FROM books")
        self._earlier = {(device, boot): length for device, boot, length in boots}

    def change(self, device: int, key: BookKey, change: BookChange, now_s: float) -> int:
        """Count rows that the filter released; returns the line's id."""
        pending = change.sensed - change.filtered - change.lost
        counts = (change.sensed, change.filtered, pending, change.lost, change.lost)
        terms = self._boots.of(key.boot_id)
        period_s = self._earlier.get((device, key.boot_id)) if terms is None else terms.period_s
        id_, moments = self._connection.execute(
            "INSERT INTO books (device, boot_id, period_us, model, stratum, sensed, filtered, pending,"
            " evicted, lost, changed_s, period_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET"
            " sensed = sensed + excluded.sensed, filtered = filtered + excluded.filtered,"
            " pending = pending + excluded.pending, evicted = evicted + excluded.evicted,"
            " lost = lost + excluded.lost,"
            " changed_s = CASE dirty WHEN 1 THEN changed_s ELSE excluded.changed_s END, dirty = 1"
            " RETURNING id, moments",
            (device, *key, *counts, now_s, period_s),
        ).fetchone()
        if change.moments is not None:
            total = change.moments if moments is None else CoMoments.from_bytes(moments) | change.moments
            self._connection.execute("UPDATE books SET moments = ? WHERE id = ?", (total.to_bytes(), id_))
        return int(id_)

    def close(self, device: int, keys: Iterable[BookKey]) -> None:
        """Mark lines whose period is over, so that they may be stated."""
        self._connection.executemany(
            "UPDATE books SET closed = 1 WHERE device = ? AND boot_id = ? AND period_us = ? AND model = ?"
            " AND stratum = ?",
            [(device, *key) for key in keys],
        )

    def close_all(self) -> None:
        """Close the lines that an earlier start left open."""
        self._connection.execute("UPDATE books SET closed = 1 WHERE closed = 0")

    def last_id(self) -> int:
        """Highest id of a line; 0 where there is none."""
        return int(one(self._connection, "SELECT max(id) FROM books"))

    def age(self, after: int, last: int, now_s: float) -> None:
        """Set times ahead of ``now_s``, from before a restart, back to it, in lines of these ids."""
        self._connection.execute(
            "UPDATE books SET changed_s = min(changed_s, ?), stated_s = 0 WHERE id > ? AND id <= ?"
            " AND (changed_s > ? OR stated_s != 0)",
            (now_s, after, last, now_s),
        )

    def settle(self, book: int, n: int, outcome: Outcome, now_s: float) -> None:
        """Move n rows of a line from pending to their final count."""
        self._connection.execute(
            f"UPDATE books SET {outcome} = {outcome} + ?, pending = pending - ?,"  # noqa: S608  (a Literal)
            " changed_s = CASE dirty WHEN 1 THEN changed_s ELSE ? END, dirty = 1 WHERE id = ?",
            (n, n, now_s, book),
        )

    def settle_total(self, device: int, n: int, outcome: Outcome) -> None:
        """Give n rows that no line counts, and that were sensed already, their final count."""
        self._connection.execute(
            f"UPDATE totals SET {outcome} = {outcome} + ? WHERE device = ?",  # noqa: S608  (a Literal)
            (n, device),
        )

    def lose(self, book: int, n: int, now_s: float) -> None:
        """Move n rows of a line from pending to evicted, and have the line state a gap: they are damaged."""
        self.settle(book, n, "evicted", now_s)
        self._connection.execute("UPDATE books SET lost = lost + ? WHERE id = ?", (n, book))
        self._connection.execute(
            "INSERT INTO counters VALUES ('rows_damaged', ?)"
            " ON CONFLICT DO UPDATE SET value = value + excluded.value",
            (n,),
        )

    def take_over(self, device: int, line: FoundLine, lost: int, now_s: float) -> int:
        """Add a line of another spool without what waits in it; returns the line's id here.

        Args:
            device: Number of the device here.
            line: The line.
            lost: Rows of it that wait nowhere any more.
            now_s: Steady clock.
        """
        sensed, acked, filtered, evicted, refused = line.counts
        stated = line.stated and not lost
        counts = (sensed - line.pending + lost, acked, filtered, evicted + lost, refused, lost)
        state = (line.closed, not stated, now_s, line.revision, ACKNOWLEDGED if stated else None)
        (id_,) = self._connection.execute(
            "INSERT INTO books (device, boot_id, period_us, model, stratum, sensed, acked, filtered, evicted,"
            " refused, lost, closed, dirty, changed_s, revision, statement)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " sensed = sensed + excluded.sensed, acked = acked + excluded.acked,"
            " filtered = filtered + excluded.filtered, evicted = evicted + excluded.evicted,"
            " refused = refused + excluded.refused, lost = lost + excluded.lost, dirty = 1,"
            " revision = max(revision, excluded.revision) RETURNING id",
            (device, *line.key, *counts, *state),
        ).fetchone()
        return int(id_)

    def add_pending(self, book: int, n: int) -> None:
        """Count n more rows as sensed and pending: a message with them was taken over."""
        self._connection.execute(
            "UPDATE books SET sensed = sensed + ?, pending = pending + ? WHERE id = ?", (n, n, book)
        )

    def add_totals(self, device: int, counts: Sequence[int]) -> None:
        """Add sensed, acked, filtered, evicted and refused rows that no line counts to a device's totals."""
        self._connection.execute(
            "INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " sensed = sensed + excluded.sensed, acked = acked + excluded.acked,"
            " filtered = filtered + excluded.filtered, evicted = evicted + excluded.evicted,"
            " refused = refused + excluded.refused",
            (device, *counts),
        )

    def devices_due(
        self, now_s: float, interval_s: float, *, settled_only: bool, gather_s: float = 0.0
    ) -> list[int]:
        """Devices with a line that is due; see ``due``.

        Args:
            now_s: Steady clock.
            interval_s: As for ``due``.
            settled_only: As for ``due``.
            gather_s: How long a line waits for later ones, from its first change on: then all are stated
                together. A message costs more than the lines in it.
        """
        settled, waiting = self._bounds(now_s, interval_s, settled_only=settled_only)
        since = now_s - gather_s
        found = self._connection.execute(
            f"SELECT no FROM devices WHERE EXISTS (SELECT 1 FROM books b WHERE b.device = no AND {_SETTLED}"  # noqa: S608  (constants)
            f" AND b.changed_s <= ?) OR EXISTS (SELECT 1 FROM books b WHERE b.device = no AND {_WAITING}"
            " AND b.changed_s <= ?) ORDER BY no",
            (*settled, since, *waiting, since),
        )
        return [no for (no,) in found]

    def due(
        self, device: int, now_s: float, interval_s: float, *, settled_only: bool, limit: int = LINES_AT_ONCE
    ) -> list[DueLine]:
        """Closed lines of a device that changed since they were stated, those first that are due longest.

        Args:
            device: Number of the device.
            now_s: Steady clock.
            interval_s: Shortest time between two statements of a line. A line with pending rows also waits
                so long after its first change, because most acknowledgements come soon.
            settled_only: Leave out lines with pending rows.
            limit: Most lines; those that were stated make room for the next call.
        """
        settled, waiting = self._bounds(now_s, interval_s, settled_only=settled_only)
        lines = self._lines(f"{_SETTLED} ORDER BY b.stated_s, b.id", (device, *settled), limit)
        if len(lines) < limit:
            order = f"{_WAITING} ORDER BY b.changed_s, b.id"
            lines += self._lines(order, (device, *waiting), limit - len(lines))
        return lines

    def _bounds(
        self, now_s: float, interval_s: float, *, settled_only: bool
    ) -> tuple[tuple[float], tuple[float, float]]:
        """Arguments of ``_SETTLED`` and ``_WAITING``."""
        # With pending rows a line would soon change again, so it waits from its first change, which
        # changed_s keeps until it is stated.
        before = now_s - interval_s
        return (before,), (float("-inf") if settled_only else before, before)

    def _lines(self, which: str, args: Sequence[float], limit: int) -> list[DueLine]:
        # A block that ``blocks`` does not list was never thinned: its tau is 1.
        found = self._connection.execute(
            "SELECT b.id, b.device, b.boot_id, b.period_us, b.model, b.stratum, b.revision + 1, b.sensed,"  # noqa: S608  (constants)
            " b.acked, b.filtered, b.evicted, b.refused, b.pending, b.lost, coalesce(k.tau, 1.0), b.moments,"
            " coalesce(b.period_s, ?)"
            " FROM books b LEFT JOIN blocks k"
            " ON k.device = b.device AND k.period_us = b.period_us AND k.stratum = b.stratum"
            f" WHERE b.device = ? AND {which} LIMIT ?",
            (self._period_s, *args, limit),
        )
        # A block that was given up (tau 0), or rows of it that could not be kept: the line states a gap.
        return [
            DueLine(id_, device, BookLine._make([*counts, lost > 0 or not tau, tau, moments, period_s]))
            for id_, device, *counts, lost, tau, moments, period_s in found
        ]

    def stated(self, lines: Sequence[DueLine], message: int, now_s: float) -> None:
        """Record that a sealed message states these lines."""
        self._connection.executemany(
            "UPDATE books SET dirty = 0, revision = ?, stated_s = ?, statement = ? WHERE id = ?",
            [(due.line.revision, now_s, message, due.id) for due in lines],
        )

    def unstate(self, message: int) -> None:
        """Have the lines that a message states, and that no later one does, stated anew."""
        self._connection.execute(
            "UPDATE books SET dirty = 1, statement = NULL WHERE statement = ?", (message,)
        )

    def has_moments(self, message: int) -> bool:
        """Whether a line that a message states has moments, which could be left out."""
        query = "SELECT EXISTS (SELECT 1 FROM books WHERE statement = ? AND moments IS NOT NULL)"
        return bool(one(self._connection, query, message))

    def ids(self, device: int, ids: Iterable[int]) -> dict[BookKey, int]:
        """Those of the lines that are the device's, by what they count."""
        wanted = list(ids)
        marks = ", ".join("?" * len(wanted))
        found = self._connection.execute(
            f"SELECT boot_id, period_us, model, stratum, id FROM books WHERE device = ? AND id IN ({marks})",  # noqa: S608  (only question marks)
            (device, *wanted),
        )
        return {BookKey(*key): int(id_) for *key, id_ in found}

    def acknowledged(self, message: int) -> None:
        """Record that the statements of a message arrived, or were refused for good."""
        self._connection.execute(
            "UPDATE books SET statement = ? WHERE statement = ?", (ACKNOWLEDGED, message)
        )

    def unstated(self) -> int:
        """Number of lines whose newest counts are not stated yet."""
        return total(self._connection, "unstated")

    def forget_settled(self, period_us: int) -> None:
        """Move lines that can no longer change, and whose last statement arrived, into the totals."""
        # A line of an earlier boot gets no more rows; one of this boot gets none once the clock cannot step
        # back so far within the boot (``REWIND_PERIODS``). Totals first, so that the books stay balanced.
        settled = (
            " FROM books b JOIN devices d ON d.no = b.device WHERE b.statement = ? AND b.dirty = 0"
            " AND b.closed = 1 AND b.pending = 0"
            " AND (b.boot_id != d.boot_id OR b.period_us < d.newest_us - ?)"
            " AND b.id NOT IN (SELECT value FROM json_each(?))"
        )
        args = (ACKNOWLEDGED, FORGET_PERIODS * period_us, json.dumps(list(self.awaited)))
        self._connection.execute(
            "INSERT INTO totals SELECT b.device, sum(b.sensed), sum(b.acked), sum(b.filtered),"
            f" sum(b.evicted), sum(b.refused){settled} GROUP BY b.device ON CONFLICT DO UPDATE SET"
            " sensed = sensed + excluded.sensed, acked = acked + excluded.acked,"
            " filtered = filtered + excluded.filtered, evicted = evicted + excluded.evicted,"
            " refused = refused + excluded.refused",
            args,
        )
        self._connection.execute(f"DELETE FROM books WHERE id IN (SELECT b.id{settled})", args)  # noqa: S608  (constants)

    def count(self) -> int:
        """Number of lines."""
        return total(self._connection, "lines")

    def fold(self, limit: int, period_us: int) -> int:
        """Add up the oldest lines that were never stated and wait for nothing, each kind into one line.

        For books that take too much room. What the periods had apart is lost, no row is. If each kind has one
        line only, boots and models are added up too.

        Args:
            limit: Most lines that go.
            period_us: Length of a period. Lines to which a row may still come are left alone.

        Returns:
            The number of lines that are gone.
        """
        bounds = (FORGET_PERIODS * period_us, json.dumps(list(self.awaited)))
        gone = 0
        for kind in ("b.device, b.stratum, b.boot_id, b.model", "b.device, b.stratum"):
            names = kind.split(", ")
            groups = self._connection.execute(
                f"SELECT count(*), {kind} FROM books b JOIN devices d ON d.no = b.device"  # noqa: S608  (constants)
                f" WHERE {_FOLDABLE} GROUP BY {kind} HAVING count(*) > 1",
                bounds,
            ).fetchall()
            total = sum(n for n, *_ in groups)
            for n, *values in groups:
                share = min(-(-n * limit // total), limit - gone) + 1
                if share > 1:
                    gone += self._add_up(names, values, bounds, share)
            if gone:
                break
        return gone

    def _add_up(self, names: Sequence[str], values: Sequence[Any], bounds: Sequence[Any], limit: int) -> int:
        """Add the oldest lines of a kind up into one: the first that states a gap, so that the sum does."""
        lines = self._connection.execute(
            "SELECT b.id, b.lost > 0 OR coalesce(k.tau, 1.0) = 0.0 FROM books b"  # noqa: S608  (constants)
            " JOIN devices d ON d.no = b.device LEFT JOIN blocks k"
            " ON k.device = b.device AND k.period_us = b.period_us AND k.stratum = b.stratum"
            f" WHERE {_FOLDABLE} AND {' AND '.join(f'{name} = ?' for name in names)}"
            " ORDER BY b.period_us, b.id LIMIT ?",
            (*bounds, *values, limit),
        ).fetchall()
        target = next((line for line in lines if line[1]), lines[0])[0]
        for id_, *_ in lines:
            if id_ != target:
                self._connection.execute(
                    "UPDATE books SET (sensed, filtered, evicted, lost, moments) ="
                    " (SELECT books.sensed + o.sensed, books.filtered + o.filtered,"
                    " books.evicted + o.evicted, books.lost + o.lost, NULL FROM books o WHERE o.id = ?)"
                    " WHERE id = ?",
                    (id_, target),
                )
                self._connection.execute("DELETE FROM books WHERE id = ?", (id_,))
        return len(lines) - 1

    def strip_moments(self, max_bytes: int, limit: int = -1) -> int:
        """Remove the oldest moments beyond ``max_bytes``; returns the number of lines that lost theirs.

        Args:
            max_bytes: What all moments may take.
            limit: Most lines that lose theirs; negative: all that must.
        """
        if total(self._connection, "moment_bytes") <= max_bytes:
            return 0
        # The window sum adds up the sizes from the newest line back: what lies beyond the limit is older.
        changed = self._connection.execute(
            "UPDATE books SET moments = NULL WHERE id IN (SELECT id FROM (SELECT id,"
            " sum(length(moments)) OVER (ORDER BY period_us DESC, id DESC) AS newer FROM books"
            " WHERE moments IS NOT NULL) WHERE newer > ? LIMIT ?)",
            (max_bytes, limit),
        )
        return int(changed.rowcount)

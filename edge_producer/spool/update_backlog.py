"""What devices did and the spool has not taken yet: in memory, bounded, and never silently less. Pure.

While the spool works, an update waits here for less than a second. While it does not, updates are merged.
Beyond a number of rows the oldest lines lose theirs: the rows stay counted as sensed, and as lost. Beyond a
number of lines, lines lose their moments, and then the oldest are added up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from edge_producer.books import BookChange, BookKey, LedgerChanges
from edge_producer.device_update import DeviceUpdate
from edge_producer.sensed_rows import Row
from edge_producer.spool.spool_books import LINE_BYTES
from edge_producer.spool.spool_rows import ROW_OVERHEAD
from schemas.row_schemas import GIVES_WAY, Stratum

UNKEPT_ALERTS, UNKEPT_SUMMARIES, UNKEPT_MOMENTS = "alerts_unkept", "summaries_unkept", "moments_dropped"
"""Names of the counters of what could not be kept; rows are counted from the lines."""
UNWEIGHED = "rows_unweighed"
"""Counts rows that are not in ``feature_bytes``."""
LEAST_ENTRY = 32 * 1024
"""Bytes of updates that are taken where there is no room: counts alone, which mostly change what is there."""
_ALERT_BYTES, _SUMMARY_BYTES = 1500, 250
"""What an alert takes once it is sealed, and a summary besides its value."""
UNMERGED = 8
"""Updates of one device that wait as they are; more are merged."""
_COUNTS_SHARE = 0.5
"""Share of the room that all but the rows of an update may take before it gives way instead of rows."""
_RELIEF = 0.9
"""Share of a bound to which what waits is brought down, so that the bound is not met again at once."""


@dataclass(frozen=True)
class BacklogLimits:
    """Most of each that waits in memory, over all devices."""

    rows: int = 20_000
    lines: int = 10_000
    summaries: int = 5_000
    alerts: int = 1_000


class UpdateBacklog:
    """Updates by device, in order. Used under the writer's lock.

    Args:
        limits: Bounds.

    Attributes:
        updates: Number of updates that wait.
        rows: Number of selected rows in them.
    """

    def __init__(self, limits: BacklogLimits | None = None) -> None:
        self._limits = limits or BacklogLimits()
        self._waiting: dict[str, list[DeviceUpdate]] = {}
        self.updates = 0
        self.rows = 0

    def add(self, updates: Iterable[DeviceUpdate]) -> None:
        """Append updates, each behind those of the same device."""
        crowded = False
        for update in updates:
            waiting = self._waiting.setdefault(update.device_id, [])
            waiting.append(update)
            self.updates += 1
            self.rows += len(update.rows)
            crowded = crowded or len(waiting) > UNMERGED
        if crowded or self.rows > self._limits.rows:
            self._shrink()

    def put_back(self, updates: Iterable[DeviceUpdate]) -> None:
        """Put updates from ``take`` back, before those that came since."""
        since = self.take()
        self.add(updates)
        self.add(since)

    def take(self, room_bytes: float = float("inf"), at_once: float = float("inf")) -> list[DeviceUpdate]:
        """What waits, in order within each device, as far as there is room; the rest goes on waiting.

        Args:
            room_bytes: Each may need so much in the spool; what does not fit is left out, and counts as not
                kept.
            at_once: Together they may need so much, or ``LEAST_ENTRY``; the first is taken in any case.
        """
        taken: list[DeviceUpdate] = []
        left = max(min(room_bytes, at_once), LEAST_ENTRY)
        for device in list(self._waiting):
            waiting = self._waiting[device]
            while waiting:
                update = fitted(waiting[0], room_bytes)
                size = spool_bytes(update)
                if taken and size > left:
                    return self._taken(taken)
                taken.append(update)
                del waiting[0]
                left -= size
            del self._waiting[device]
        return self._taken(taken)

    def _taken(self, taken: list[DeviceUpdate]) -> list[DeviceUpdate]:
        left = [update for waiting in self._waiting.values() for update in waiting]
        self.updates, self.rows = len(left), sum(len(update.rows) for update in left)
        return taken

    def drop_rows(self) -> None:
        """Keep the counts alone: rows and alerts are counted as lost."""
        bare = BacklogLimits(rows=0, lines=self._limits.lines, summaries=0, alerts=0)
        self._bound(bare)

    def _shrink(self) -> None:
        self._bound(self._limits)

    def _bound(self, limits: BacklogLimits) -> None:
        merged = [merge_updates(waiting) for waiting in self._waiting.values()]
        merged = _bound_sensed(_bound_rows(merged, limits.rows), limits.rows)
        merged = _bound_lines(merged, limits.lines)
        merged = _bound_events(merged, limits)
        self._waiting = {update.device_id: [update] for update in merged}
        self.updates = len(merged)
        self.rows = sum(len(update.rows) for update in merged)


def merge_updates(updates: list[DeviceUpdate]) -> DeviceUpdate:
    """One update that does what these do one after the other. All of one device; at least one."""
    if len(updates) == 1:
        return updates[0]
    lines: dict[BookKey, BookChange] = {}
    meters: Counter[str] = Counter()
    for update in updates:
        meters.update(update.meters)
        for key, change in update.books.lines.items():
            lines[key] = _added(lines[key], change) if key in lines else change
    return replace(
        updates[-1],
        rows=[row for update in updates for row in update.rows],
        books=LedgerChanges(lines, [key for update in updates for key in update.books.closed]),
        closed=[summary for update in updates for summary in update.closed],
        alerts=[alert for update in updates for alert in update.alerts],
        meters=dict(meters),
        boots={boot_id: terms for update in updates for boot_id, terms in update.boots.items()},
        sensed=[row for update in updates for row in update.sensed],
    )


def without_rows(update: DeviceUpdate, dropped: Iterable[BookKey]) -> DeviceUpdate:
    """The update without the rows of some lines, which count them as lost."""
    keys = set(dropped)
    lost = Counter(line_of(row) for row in update.rows if line_of(row) in keys)
    lines = dict(update.books.lines)
    for key, n in lost.items():
        lines[key] = replace(lines[key], lost=lines[key].lost + n)
    return replace(
        update,
        rows=[row for row in update.rows if line_of(row) not in keys],
        books=LedgerChanges(lines, update.books.closed),
    )


def counts_alone(update: DeviceUpdate) -> DeviceUpdate:
    """The update without any row: all count as lost."""
    return without_rows(update, {line_of(row) for row in update.rows})


def spool_bytes(update: DeviceUpdate) -> int:
    """About what an update adds to the spool."""
    moments = [change.moments for change in update.books.lines.values()]
    return (
        sum(_row_bytes(row) for row in update.rows)
        + sum(LINE_BYTES + (0 if m is None else len(m.to_bytes())) for m in moments)
        + sum(_SUMMARY_BYTES + len(summary.value) for summary in update.closed)
        + _ALERT_BYTES * len(update.alerts)
    )


def fitted(update: DeviceUpdate, room_bytes: float) -> DeviceUpdate:
    """The update with no more than there is room for.

    Moments give way, then summaries, then as many of the oldest rows as must; at last all but the counts.
    """
    for without in (lambda one: one, _without_moments, _without_summaries):
        update = without(update)
        size = spool_bytes(update)
        if size <= room_bytes:
            return update
        rows = sum(_row_bytes(row) for row in update.rows)
        if rows and size - rows <= room_bytes * _COUNTS_SHARE:
            (cut,) = _bound_rows([update], int(len(update.rows) * (room_bytes - size + rows) / rows))
            if spool_bytes(cut) <= room_bytes:
                return cut
    (bare,) = _bound_events([counts_alone(update)], BacklogLimits(summaries=0, alerts=0))
    return bare


def _row_bytes(row: Row) -> int:
    return ROW_OVERHEAD + row.features.nbytes


def _without_moments(update: DeviceUpdate) -> DeviceUpdate:
    lines = {key: replace(change, moments=None) for key, change in update.books.lines.items()}
    stripped = sum(change.moments is not None for change in update.books.lines.values())
    books = LedgerChanges(lines, update.books.closed)
    return replace(update, books=books, meters=_counted(update, UNKEPT_MOMENTS, stripped))


def _without_summaries(update: DeviceUpdate) -> DeviceUpdate:
    return replace(update, closed=[], meters=_counted(update, UNKEPT_SUMMARIES, len(update.closed)))


def line_of(row: Row) -> BookKey:
    """The line of the books that counts a row."""
    return BookKey(*row.period, row.stratum.value)


def _bound_rows(updates: list[DeviceUpdate], limit: int) -> list[DeviceUpdate]:
    """Drop rows of whole lines, by stratum as ``GIVES_WAY`` says, the oldest first."""
    sizes: Counter[tuple[int, BookKey]] = Counter()
    for number, update in enumerate(updates):
        sizes.update((number, line_of(row)) for row in update.rows)
    excess = sizes.total() - round(limit * _RELIEF)
    if sizes.total() <= limit:
        return updates
    dropped: dict[int, list[BookKey]] = {}
    order = sorted(sizes, key=lambda one: (GIVES_WAY.index(Stratum(one[1].stratum)), one[1].period_us))
    for number, key in order:
        if excess <= 0:
            break
        dropped.setdefault(number, []).append(key)
        excess -= sizes[number, key]
    return [without_rows(update, dropped.get(n, ())) for n, update in enumerate(updates)]


def _bound_sensed(updates: list[DeviceUpdate], limit: int) -> list[DeviceUpdate]:
    """Leave unweighed, and count, the oldest of the rows that wait to be weighed."""
    if sum(len(update.sensed) for update in updates) <= limit:
        return updates
    share = round(limit * _RELIEF) // len(updates)
    return [
        replace(
            update,
            sensed=update.sensed[len(update.sensed) - min(share, len(update.sensed)) :],
            meters=_counted(update, UNWEIGHED, max(len(update.sensed) - share, 0)),
        )
        for update in updates
    ]


def _bound_lines(updates: list[DeviceUpdate], limit: int) -> list[DeviceUpdate]:
    total = sum(len(update.books.lines) for update in updates)
    if total <= limit:
        return updates
    share = max(round(limit * _RELIEF) // len(updates), 2)
    return [_fewer_lines(update, share) for update in updates]


def _fewer_lines(update: DeviceUpdate, limit: int) -> DeviceUpdate:
    """The update with its oldest lines added up, boot by boot, into the oldest of their kind."""
    keys = sorted(update.books.lines, key=lambda key: key.period_us)
    folded = keys[: max(len(keys) - limit, 0)]
    if not folded:
        return update
    update = without_rows(update, folded)
    lines = {key: replace(update.books.lines[key], moments=None) for key in folded}
    into: dict[tuple[int, str, str], BookKey] = {}
    kept: dict[BookKey, BookChange] = {}
    for key in folded:
        first = into.setdefault((key.boot_id, key.model_version, key.stratum), key)
        kept[first] = _added(kept[first], lines[key]) if first in kept else lines[key]
    kept |= {key: update.books.lines[key] for key in keys if key not in lines}
    closed = [key for key in update.books.closed if key in kept]
    return replace(update, books=LedgerChanges(kept, closed + list(into.values())))


def _bound_events(updates: list[DeviceUpdate], limits: BacklogLimits) -> list[DeviceUpdate]:
    """Drop the oldest summaries and alerts beyond the limits, device by device."""
    count = max(len(updates), 1)
    bounded = []
    for update in updates:
        closed, alerts = update.closed, update.alerts
        if sum(len(u.closed) for u in updates) > limits.summaries:
            closed = closed[len(closed) - min(len(closed), limits.summaries // count) :]
        if sum(len(u.alerts) for u in updates) > limits.alerts:
            alerts = alerts[len(alerts) - min(len(alerts), limits.alerts // count) :]
        meters = _counted(update, UNKEPT_SUMMARIES, len(update.closed) - len(closed))
        meters = _counted(replace(update, meters=meters), UNKEPT_ALERTS, len(update.alerts) - len(alerts))
        bounded.append(replace(update, closed=closed, alerts=alerts, meters=meters))
    return bounded


def _added(one: BookChange, other: BookChange) -> BookChange:
    moments = one.moments or other.moments
    if one.moments is not None and other.moments is not None:
        moments = one.moments | other.moments
    return BookChange(
        one.sensed + other.sensed, one.filtered + other.filtered, one.lost + other.lost, moments
    )


def _counted(update: DeviceUpdate, name: str, n: int) -> dict[str, int]:
    return {**update.meters, name: update.meters.get(name, 0) + n} if n else update.meters

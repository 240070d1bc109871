"""Makes room when the spool is full: thins rows, merges summaries, and keeps it all on record."""

from __future__ import annotations

import logging
from itertools import groupby

from edge_producer.spool.spool import Spool
from edge_producer.spool.spool_rows import ThinnedBlock
from edge_producer.summaries import MERGED_PART, Summary, merge_summaries
from schemas.profile import Profile

log = logging.getLogger(__name__)

SUMMARY_SHARE = 0.5
"""Share of the spool from which summaries are evicted before rows."""
MOMENTS_SHARE = 0.25
"""Share of the spool that the moments in the books may take."""
RELIEF = 0.95
"""Share of the limit to which the spool is brought down, so that it is not full again at once."""
MERGE_AT_ONCE = 512
LINES_SHARE = 0.25
"""Share of the spool that lines of the books may take before those that were never stated are added up."""
LINE_BYTES = 400
"""What a line takes, indexes and block included."""
EVICT_AT_ONCE, LEAST_AT_ONCE = 2000, 50


class Eviction:
    """Keeps a spool below a size.

    Whole blocks (device, period, stratum) are thinned, the oldest first, and each once before any a second
    time: the block's thinning factor tau is halved, and its unsealed rows with u >= pi * tau are removed.
    Below the policy's floor the whole block is removed, and the books state a gap. Which block is next must
    not depend on the u of a row, or estimates would be biased.

    Args:
        spool: The spool.
        profile: Gives the thinning floor and the length of merged summaries.
        max_bytes: Size above which something is evicted.
        at_once: Rows, blocks and summaries removed in one transaction: a larger one would need as much room
            again for the log of what it changes. The next transaction goes on where this one stopped.
    """

    def __init__(self, spool: Spool, profile: Profile, max_bytes: int, at_once: int = EVICT_AT_ONCE) -> None:
        self._spool = spool
        self._floor = profile.filter.thinning_floor
        self._longest_s = profile.drift.window_s
        self._max_bytes = max_bytes
        self._target = max_bytes * RELIEF
        self._at_once = max(at_once, LEAST_AT_ONCE)
        self._books_due_s = 0.0
        self._left = 0

    def relieve(self, now_s: float, allowed: float = float("inf")) -> None:
        """Make room if the spool is too large. Call it inside the spool's transaction.

        Args:
            now_s: Steady clock.
            allowed: What the disk allows the payload to be, if less than the limit.
        """
        self._bound_books(now_s)
        spool = self._spool
        limit = min(float(self._max_bytes), allowed)
        self._target = limit * RELIEF
        if spool.bytes <= limit:
            return
        self._left = self._at_once
        while spool.bytes > self._target and spool.summary_bytes > SUMMARY_SHARE * limit and self._left > 0:
            if not self._relieve_summaries():
                break
        while spool.bytes > self._target and self._left > 0 and self._thin(now_s):
            pass
        while spool.bytes > self._target and self._left > 0 and self._relieve_summaries():
            pass

    def _thin(self, now_s: float) -> bool:
        """Thin every block once, until there is room; False where there are no blocks."""
        blocks = self._spool.rows.blocks()
        for block in blocks:
            if self._spool.bytes <= self._target or self._left <= 0:
                break
            self._left -= 1 + self._halve(block, now_s)
        return bool(blocks)

    def _halve(self, block: ThinnedBlock, now_s: float) -> int:
        """Thin a block once more, or give it up; returns the number of rows removed."""
        tau = self._spool.rows.tau(block) / 2
        if tau >= self._floor:
            return self._spool.rows.thin(block, tau, now_s)
        removed = self._spool.rows.thin(block, 0.0, now_s)
        name = self._spool.names[block.device]
        log.warning("spool full: %d rows of one block given up", removed, extra={"device_id": name})
        return removed

    def _relieve_summaries(self) -> bool:
        return self._merge_summaries() or self._drop_summary()

    def _merge_summaries(self) -> bool:
        """Merge one device's short periods into periods of a drift window; False where there are none."""
        for device in self._spool.devices_with_summaries():
            waiting = self._spool.summaries(device, max(min(MERGE_AT_ONCE, self._left), 2))
            merged = False
            for _, group in groupby(sorted(waiting, key=self._merge_key), key=self._merge_key):
                members = list(group)
                if len(members) > 1:
                    self._replace(device, members)
                    merged = True
            if merged:
                return True
        return False

    def _replace(self, device: int, members: list[tuple[int, Summary]]) -> None:
        part = MERGED_PART + members[0][0]
        part = part if members[0][1].part >= 0 else -part  # a shadow's parts stay negative
        self._left -= len(members)
        self._spool.remove_summaries(members)
        merged = merge_summaries([summary for _, summary in members], self._longest_s, part)
        self._spool.add_summary(device, merged)
        self._spool.count({"summaries_merged": len(members)})

    def _merge_key(self, waiting: tuple[int, Summary]) -> tuple[int, str, bool, int]:
        summary = waiting[1]
        return (
            summary.boot_id,
            summary.model_version,
            summary.part < 0,
            summary.period_us - summary.period_us % round(self._longest_s * 1e6),
        )

    def _drop_summary(self) -> bool:
        for device in self._spool.devices_with_summaries():
            oldest = self._spool.summaries(device, 1)
            self._spool.remove_summaries(oldest)
            self._left -= 1
            self._spool.count({"summaries_dropped": len(oldest)})
            log.warning("spool full: a summary given up", extra={"device_id": self._spool.names[device]})
            return True
        return False

    def _bound_books(self, now_s: float) -> None:
        """Keep the books, of which nothing is evicted, to their share."""
        if now_s >= self._books_due_s:
            self._books_due_s = now_s + 60.0
            books = self._spool.books
            stripped = books.strip_moments(int(MOMENTS_SHARE * self._max_bytes))
            folded = books.fold() if books.count() * LINE_BYTES > LINES_SHARE * self._max_bytes else 0
            self._spool.count({"moments_dropped": stripped, "lines_folded": folded})

"""Makes room when the spool is full: thins rows, merges summaries, and keeps it all on record."""

from __future__ import annotations

import logging
from collections import deque
from itertools import groupby

from edge_producer.spool.spool import Spool
from edge_producer.spool.spool_books import LINE_BYTES
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
LINES_RELIEF = 0.9
"""Share of that to which they are brought down."""
BOOKS_EVERY_S, CROWDED_EVERY_S = 60.0, 5.0
"""Time between two looks at the books' size, which take a second where they are large; and without room."""
EVICT_AT_ONCE, LEAST_AT_ONCE = 2000, 20
EMPTY_BLOCK = 0.1
"""What thinning a block without rows counts of ``at_once``: it changes no row."""


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
    """

    def __init__(self, spool: Spool, profile: Profile, max_bytes: int) -> None:
        self._spool = spool
        self.follow(profile)
        self._max_bytes = max_bytes
        self._target = max_bytes * RELIEF
        self._looked_s = float("-inf")
        self._left = 0.0
        self._order: deque[ThinnedBlock] = deque()

    def follow(self, profile: Profile) -> None:
        """Go by another profile from here on; rows of earlier boots keep the floor that they have."""
        self._floor = profile.filter.thinning_floor
        self._longest_s = profile.drift.window_s
        self._period_us = round(profile.summaries.period_s * 1e6)

    def is_due(self, now_s: float, allowed: float = float("inf")) -> bool:
        """Whether ``relieve`` may have something to do."""
        crowded = allowed < float("inf") or self._spool.bytes > self._max_bytes
        return crowded or now_s - self._looked_s >= BOOKS_EVERY_S

    def relieve(
        self,
        now_s: float,
        allowed: float = float("inf"),
        room: float = float("inf"),
        at_once: int = EVICT_AT_ONCE,
    ) -> bool:
        """Make room if the spool is too large. Call it inside the spool's transaction.

        Args:
            now_s: Steady clock.
            allowed: What the disk allows the payload to be, if less than the limit.
            room: What the spool may take in all, if less than the limit.
            at_once: Rows, blocks, lines and summaries changed: each changes a few pages, and the log must
                hold them. The next call goes on where this one stopped.

        Returns:
            Whether anything changed; a block without rows that is thinned counts.
        """
        at_once = max(at_once, LEAST_AT_ONCE)
        crowded = max(allowed, room) < float("inf")
        self._left = at_once / 2 if crowded else at_once
        before = self._left
        self._relieve_payload(now_s, min(float(self._max_bytes), allowed))
        changed = self._left < before
        every_s = CROWDED_EVERY_S if crowded else BOOKS_EVERY_S
        only_books = crowded and not changed  # nothing else can give way
        if only_books or now_s - self._looked_s >= every_s:
            space = min(float(self._max_bytes), room)
            changed = self._bound_books(now_s, space, at_once // 2, crowded=crowded) or changed
        return changed

    def _relieve_payload(self, now_s: float, limit: float) -> None:
        spool = self._spool
        self._target = limit * RELIEF
        if spool.bytes <= limit:
            return
        # Merging costs nobody a row, and the drift watch nothing: its windows are that long.
        while spool.bytes > self._target and self._left > 0 and self._merge_summaries():
            pass
        while spool.bytes > self._target and spool.summary_bytes > SUMMARY_SHARE * limit and self._left > 0:
            if not self._drop_summary():
                break
        while spool.bytes > self._target and self._left > 0 and self._thin(now_s):
            pass
        while spool.bytes > self._target and self._left > 0 and self._drop_summary():
            pass
        if spool.bytes <= self._target:
            self._order.clear()

    def _thin(self, now_s: float) -> bool:
        """Thin every block once, until there is room; False where there are no blocks.

        Their order takes a while to find: the next call goes on with it, until there was room.
        """
        if not self._order:
            self._order.extend(self._spool.rows.blocks())
        found = bool(self._order)
        while self._order and self._spool.bytes > self._target and self._left > 0:
            block = self._order.popleft()
            if self._spool.rows.tau(block):
                self._left -= EMPTY_BLOCK + self._halve(block, now_s)
        return found

    def _halve(self, block: ThinnedBlock, now_s: float) -> int:
        """Thin a block once more, or give it up; returns the number of rows removed."""
        tau = self._spool.rows.tau(block) / 2
        if tau >= max(self._floor, self._spool.boots.floor):
            return self._spool.rows.thin(block, tau, now_s)
        return self._give_up(block, now_s)

    def _give_up(self, block: ThinnedBlock, now_s: float) -> int:
        removed = self._spool.rows.thin(block, 0.0, now_s)
        if removed:
            name = self._spool.names[block.device]
            log.warning("spool full: %d rows of one block given up", removed, extra={"device_id": name})
        return removed

    def merge(self, at_once: int = EVICT_AT_ONCE) -> bool:
        """Merge some summaries, whether there is room or not; False where none can be merged any more.

        Args:
            at_once: About how many. Call it inside the spool's transaction.
        """
        self._left = at_once
        return self._merge_summaries()

    def _merge_summaries(self) -> bool:
        """Merge one device's short periods into periods of a drift window; False where there are none.

        A window to which more comes is left alone: it would be merged in two parts.
        """
        limit = max(min(MERGE_AT_ONCE, int(self._left)), 2)
        for device in self._spool.devices_with_summaries(self._longest_s):
            waiting = self._spool.summaries(device, limit, self._longest_s)
            ends = {s.boot_id: 0 for _, s in waiting}
            for _, s in waiting:
                ends[s.boot_id] = max(ends[s.boot_id], s.period_us + round(s.period_s * 1e6))
            newest_boot = waiting[-1][1].boot_id if waiting else 0
            merged = False
            for key, group in groupby(sorted(waiting, key=self._merge_key), key=self._merge_key):
                members = list(group)
                is_over = key[0] != newest_boot or ends[key[0]] >= key[3] + round(self._longest_s * 1e6)
                if len(members) > 1 and is_over:
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
        parts = [summary for _, summary in members]
        self._spool.add_summary(device, merge_summaries(parts, self._longest_s, part, self._spool.layout))
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

    def _bound_books(self, now_s: float, room: float, at_once: int, *, crowded: bool) -> bool:
        """Keep the books, which hold what became of every row, to their share.

        Args:
            now_s: Steady clock.
            room: What the spool may take.
            at_once: Most lines that change.
            crowded: It takes that: lines that cannot be added up because rows of theirs wait lose those.
        """
        books = self._spool.books
        stripped = books.strip_moments(int(MOMENTS_SHARE * room), at_once)
        most = int(LINES_SHARE * room / LINE_BYTES)
        excess = books.count() - most
        folded = given_up = 0
        if excess > 0:
            wanted = min(excess + round((1 - LINES_RELIEF) * most), at_once)
            folded = books.fold(max(wanted, 2), self._period_us)
            self._spool.rows.forget_blocks()
            if crowded and folded < min(excess, at_once) // 2:
                given_up = self._give_up_oldest(now_s, min(excess, at_once))
        self._spool.count({"moments_dropped": stripped, "lines_folded": folded})
        if stripped < at_once and not folded and not given_up:
            self._looked_s = now_s
        return bool(stripped or folded or given_up)

    def _give_up_oldest(self, now_s: float, limit: int) -> int:
        """Give up what waits of the oldest periods: only then can their lines be added up."""
        removed = 0
        for block in self._spool.rows.oldest_blocks(limit):
            if removed >= limit:
                break
            removed += self._give_up(block, now_s)
        return removed

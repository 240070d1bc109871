"""Takes over into the spool what a spool that was set aside still holds, a part at a time, each part once.

Messages keep their spool id and number, so the cloud drops those that had arrived. Rows are numbered anew
when they are sealed: so only one spool takes them over, which the report beside the copy names beforehand.

Step 1  the report says into which spool (a crash after it: that spool goes on; any other takes messages only)
Step 2  one transaction: devices, totals, counters (small, wanted before the first window of a start)
Step 3  one transaction: the lines of the books, and what of them is lost
Step 4  rows, then summaries, then messages, some in each transaction, as long as there is room
Step 5  the report says what was taken over
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from edge_producer.spool.damaged_file import DamagedSpoolFile
from edge_producer.spool.salvage_plan import (
    FoundLine,
    FoundMessage,
    FoundRow,
    FoundState,
    FoundSummary,
    SalvagePlan,
    found_messages,
    found_rows,
    found_summaries,
    plan_salvage,
)
from edge_producer.spool.spool import ALL_SALVAGED, COMMITS, SPOOLS_SET_ASIDE, Spool
from edge_producer.spool.spool_rows import ROW_OVERHEAD, ThinnedBlock
from edge_producer.spool.spool_set_aside import AsideCopy, SalvageState
from schemas.durable import DISK, Disk
from schemas.envelope import MessageVerifier

log = logging.getLogger(__name__)

CHUNK_BYTES, LEAST_CHUNK_BYTES = 4 * 1024**2, 32 * 1024
"""What is taken over in one transaction of step 4; of a small room an eighth."""
ROWS, SUMMARIES, MESSAGES, ALL = "rows", "summaries", "messages", ALL_SALVAGED
_FOLLOWING = {ROWS: SUMMARIES, SUMMARIES: MESSAGES, MESSAGES: ALL}

Found = FoundRow | FoundSummary | FoundMessage


class CopyOrigin(StrEnum):
    """Whose state a copy holds."""

    NEXT_START = "next start"
    """Of an earlier process; this one has not sensed yet, and goes on from it."""
    THIS_PROCESS = "this process"
    """Of this process, which has it in memory too."""
    EARLIER = "earlier"
    """Of an earlier process, and this one senses already: what devices held back is lost."""


@dataclass
class _Progress:
    """How far a copy was taken over; kept in the spool's ``meta``, in the same transaction as the content.

    Attributes:
        part: What step 4 takes next; empty before step 3.
        after: Id of the last one that was taken, in the copy.
        lines: Id in the spool of each line of the copy.
        counted: For the report, by name.
    """

    part: str = ""
    after: int = 0
    lines: dict[int, int] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)

    def to_text(self) -> str:
        """As text."""
        return json.dumps([self.part, self.after, list(self.lines.items()), self.counted])

    @classmethod
    def from_text(cls, text: str) -> _Progress:
        """From ``to_text``."""
        part, after, lines, counted = json.loads(text)
        return cls(part, after, dict(lines), Counter(counted))


class Salvage:
    """One copy on its way into the spool.

    Args:
        copy: The copy; must not be done.
        spool: Open; outside a transaction between the calls.
        verifiers: Public key of each device whose key is known, by device id.
        origin: Whose state it holds.
        disk: Writes the report.

    Raises:
        OSError: The report cannot be written.
        SpoolError: The spool cannot be written.
    """

    def __init__(
        self,
        copy: AsideCopy,
        spool: Spool,
        verifiers: Mapping[str, MessageVerifier],
        origin: CopyOrigin,
        disk: Disk = DISK,
    ) -> None:
        self._copy = copy
        self._spool = spool
        self._verifiers = verifiers
        self._origin = origin
        self._disk = disk
        self._may_take_rows = self._begin()
        self._file = DamagedSpoolFile.open(copy.path)
        devices = list(spool.devices)
        self._plan = SalvagePlan() if self._file is None else plan_salvage(self._file, devices, verifiers)
        self._take_state()

    @property
    def spool_id(self) -> str:
        """Id of the copy; empty where it cannot be read."""
        return self._plan.spool_id

    @property
    def commits(self) -> int | None:
        """Transactions of the copy; None where that cannot be read."""
        return self._plan.counters.get(COMMITS)

    def take(self, room_bytes: int, now_s: float) -> bool:
        """Steps 3 to 5 as far as there is room; False where something is left for later.

        Args:
            room_bytes: By how much the spool may grow.
            now_s: Steady clock.
        """
        if not self._progress.part:
            self._take_lines(now_s)
        chunk = max(min(CHUNK_BYTES, room_bytes // 8), LEAST_CHUNK_BYTES)
        while self._progress.part != ALL:
            if room_bytes < 2 * chunk:
                return False
            room_bytes -= self._take_some(chunk)
        self._end()
        return True

    def close(self) -> None:
        """Close the copy."""
        if self._file is not None:
            self._file.close()

    def _begin(self) -> bool:
        """Step 1; returns whether rows may be taken over."""
        report = self._copy.report()
        if report.state is SalvageState.WAITING:
            report = report.model_copy(update={"state": SalvageState.BEGUN, "into": self._spool.spool_id})
            self._copy.write(report, self._disk)
        return report.into == self._spool.spool_id and not report.stale

    def _take_state(self) -> None:
        """Step 2, if it was not done."""
        plan, spool = self._plan, self._spool
        known = spool.salvage_noted(self._copy.path.name)
        if known is not None:
            self._progress = _Progress.from_text(known)
            return
        self._progress = _Progress()
        with spool.transaction():
            spool.boots.remember(plan.boots)
            if self._may_take_rows:
                for name, counts in plan.totals.items():
                    spool.books.add_totals(spool.devices[name], counts)
                spool.count({n: v for n, v in plan.counters.items() if n != COMMITS})
            for state in plan.states:
                if state.device_id in spool.devices:
                    self._take_device(state)
            spool.count({SPOOLS_SET_ASIDE: 1})
            spool.note_earlier(plan.spool_id)
            self._save()

    def _take_device(self, state: FoundState) -> None:
        number = self._spool.devices[state.device_id]
        if self._origin is CopyOrigin.NEXT_START and state.whole and self._may_take_rows:
            self._spool.restore_device(number, state)
        elif self._origin is not CopyOrigin.THIS_PROCESS:
            self._lose(number, state.held)

    def _take_lines(self, now_s: float) -> None:
        """Step 3. Of a copy whose rows are not taken, a line's waiting rows are lost."""
        plan, spool, progress = self._plan, self._spool, self._progress
        with spool.transaction():
            for line in plan.lines.values():
                device = spool.devices[line.device_id]
                if self._may_take_rows:
                    progress.lines[line.id] = self._take_line(line, device, now_s)
                else:
                    self._lose(device, line.pending - plan.message_rows[line.id])
            for (name, period_us, stratum), tau in plan.taus.items() if self._may_take_rows else ():
                block = ThinnedBlock(spool.devices[name], period_us, stratum)
                if tau < spool.rows.tau(block):  # rows of it that are here already are thinned alike
                    spool.rows.thin(block, tau, now_s)
            spool.books.awaited.update(progress.lines.values())
            progress.part = ROWS if self._may_take_rows else MESSAGES
            self._save()

    def _take_line(self, line: FoundLine, device: int, now_s: float) -> int:
        """The line without what waits; rows and messages add theirs when they are taken."""
        lost = self._plan.lost(line)
        ends = self._origin is not CopyOrigin.THIS_PROCESS
        closed = line._replace(closed=line.closed or ends)
        self._progress.counted.update(lines=1, rows_lost=lost)
        self._spool.count({"rows_damaged": lost})
        return self._spool.books.take_over(device, closed, lost, now_s)

    def _take_some(self, chunk: int) -> int:
        """One transaction of step 4; returns the bytes taken."""
        progress, part, size, taken = self._progress, self._progress.part, 0, 0
        with self._spool.transaction():
            for id_, found in self._left():
                progress.after = id_
                if found is not None and self._take(found):
                    taken += 1
                    size += _size(found)
                    if size >= chunk:
                        break
            else:
                progress.part, progress.after = _FOLLOWING[part], 0
            progress.counted[part] += taken
            self._spool.count({f"{part}_salvaged": taken})
            self._save()
        return size

    def _left(self) -> Iterator[tuple[int, Found | None]]:
        """What is still to be taken of the part that is under way."""
        if self._file is None:
            return iter(())
        names, after = self._plan.names, self._progress.after
        if self._progress.part == ROWS:
            return found_rows(self._file, names, self._plan.lines, after)
        if self._progress.part == SUMMARIES:
            return found_summaries(self._file, names, after)
        return found_messages(self._file, names, self._verifiers, after)

    def _take(self, found: Found) -> bool:
        device = self._spool.devices[found.device_id]
        if isinstance(found, FoundRow):
            return self._take_row(device, found)
        if isinstance(found, FoundSummary):
            self._spool.add_summary(device, found.summary)
            return True
        return self._take_message(device, found)

    def _take_row(self, device: int, found: FoundRow) -> bool:
        line = found.row.book
        if not self._plan.rows[line]:  # more of the line wait than its counts say
            return False
        key = self._plan.lines[line].key
        self._spool.books.add_pending(self._progress.lines[line], 1)
        block = ThinnedBlock(device, key.period_us, key.stratum)
        self._spool.rows.take_over(block, found, self._progress.lines[line])
        return True

    def _take_message(self, device: int, found: FoundMessage) -> bool:
        spool, books = self._spool, Counter[int]()
        if not self._may_take_rows and spool.messages.holds(device, found.lane, found.headers):
            return False
        for line, n in found.books.items():
            books[self._progress.lines.get(line, 0)] += n
        for line, n in books.items():
            if line:
                spool.books.add_pending(line, n)
            else:
                spool.books.add_totals(device, (n, 0, 0, 0, 0))
        spool.messages.take_over(device, found.lane, found.message, books)
        return True

    def _lose(self, device: int, n: int) -> None:
        """Count rows that no line counts, and that are lost. Call it inside a transaction."""
        if n > 0:
            self._spool.books.add_totals(device, (n, 0, 0, n, 0))
            self._spool.count({"rows_damaged": n})
            self._progress.counted["rows_lost"] += n

    def _save(self) -> None:
        self._spool.note_salvage(self._copy.path.name, self._progress.to_text())

    def _end(self) -> None:
        """Step 5."""
        self._spool.books.awaited.difference_update(self._progress.lines.values())
        found = {
            "state": SalvageState.DONE,
            "spool_id": self._plan.spool_id,
            "messages_damaged": self._plan.messages_damaged,
            "unreadable": 0 if self._file is None else self._file.unreadable,
        }
        report = self._copy.report().model_copy(update={**found, **self._progress.counted})
        self._copy.write(report, self._disk)
        log.warning("%s: taken over %s", self._copy.path.name, dict(self._progress.counted) or "nothing")


def _size(found: Found) -> int:
    if isinstance(found, FoundMessage):
        return found.message.size
    return ROW_OVERHEAD + len(found.row.features if isinstance(found, FoundRow) else found.summary.value)

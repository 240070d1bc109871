"""Spools set aside: renamed with the time, with a report beside each of what was taken over from it.

    spool-aside-<UTC time>.db, .db-wal   the damaged spool, as it was
    spool-aside-<UTC time>.head          its first page, where another one had to be lent to it
spool-aside-<UTC time>.json          why, and what was taken over (``SalvageReport``)

A copy whose content has not been taken over is never removed. Of the others the newest ``KEPT`` stay, as long
as they do not take more than their share of the spool's size. The reports stay; of many, the newest.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_producer.spool.spool_file import SHARED, WAL
from schemas.durable import DISK, Disk

log = logging.getLogger(__name__)

KEPT = 3
"""Copies that stay once their content was taken over."""
REPORTS_KEPT = 100
"""Reports that stay of copies that were removed."""
COPIES_SHARE = 0.25
"""Share of the spool's size that such copies may take together."""
_PREFIX, _SUFFIX = "spool-aside-", ".db"


class SalvageState(StrEnum):
    """How far the content of a copy was taken over."""

    WAITING = "waiting"
    BEGUN = "begun"
    DONE = "done"


class SalvageReport(BaseModel):
    """What is known about a copy, in the file beside it.

    Attributes:
        set_aside: UTC instant.
        reason: What was found.
        stale: The spool was whole, but older than it had been: its rows may have been sent.
        state: How far it was taken over.
        into: Id of the spool that takes it over. No other takes its rows: they could be sent twice.
        spool_id: Of the copy; empty where it could not be read.
        messages, rows, summaries, lines: Taken over.
        messages_damaged: Found, but their digest or signature does not hold.
        rows_lost: Rows that the copy counted as waiting, and that could not be taken over.
        unreadable: Parts of the file that could not be read at all.
    """

    model_config = ConfigDict(extra="ignore")

    set_aside: datetime
    reason: str
    stale: bool = False
    state: SalvageState = SalvageState.WAITING
    into: str = ""
    spool_id: str = ""
    messages: int = 0
    rows: int = 0
    summaries: int = 0
    lines: int = 0
    messages_damaged: int = 0
    rows_lost: int = 0
    unreadable: int = 0


@dataclass(frozen=True)
class AsideCopy:
    """One spool that was set aside."""

    path: Path

    @property
    def report_path(self) -> Path:
        """File with the report."""
        return self.path.with_suffix(".json")

    @property
    def files(self) -> Sequence[Path]:
        """The copy's database files."""
        return (
            self.path,
            self.path.with_suffix(".head"),
            _beside(self.path, WAL),
            _beside(self.path, SHARED),
        )

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(size_of(path) for path in (*self.files, self.report_path))

    def report(self) -> SalvageReport:
        """The report; where it is missing or unreadable, one that lets no row be taken over again."""
        with suppress(OSError, ValidationError):
            return SalvageReport.model_validate_json(self.report_path.read_bytes())
        at = datetime.fromtimestamp(self.path.stat().st_mtime, UTC)
        return SalvageReport(set_aside=at, reason="its report is missing", state=SalvageState.BEGUN)

    def write(self, report: SalvageReport, disk: Disk) -> None:
        """Replace the report.

        Raises:
            OSError: The disk does not take it.
        """
        disk.write(self.report_path, report.model_dump_json(indent=1).encode())


def set_aside(
    path: Path, reason: str, *, stale: bool, disk: Disk = DISK, now: datetime | None = None
) -> AsideCopy:
    """Rename a closed spool, its log included, and say why.

    Step 1: the report. Step 2: the log gets its new name. Step 3: the spool does. A crash between 2 and 3 is
    finished by ``finish``: without its log the spool would be an older one.

    Raises:
        OSError: The disk does not allow it; nothing has changed, or ``finish`` goes on.
    """
    now = now or datetime.now(UTC)
    copy = AsideCopy(path.with_name(f"{_PREFIX}{now:%Y%m%dT%H%M%S.%fZ}{_SUFFIX}"))
    copy.write(SalvageReport(set_aside=now, reason=reason[:2000], stale=stale), disk)
    log.error("%s is set aside as %s: %s", path, copy.path.name, reason)
    if _beside(path, WAL).exists():
        disk.rename(_beside(path, WAL), _beside(copy.path, WAL))
    disk.rename(path, copy.path)
    disk.remove(_beside(path, SHARED))
    return copy


def finish(path: Path, disk: Disk = DISK) -> None:
    """Finish what a crash broke off, before the spool ``path`` is opened.

    Raises:
        OSError: The disk does not allow it.
    """
    for report in sorted(path.parent.glob(f"{_PREFIX}*.json")):
        copy = AsideCopy(report.with_suffix(_SUFFIX))
        if copy.path.exists():
            continue
        if _beside(copy.path, WAL).exists() and path.exists():
            disk.rename(path, copy.path)
            disk.remove(_beside(path, SHARED))
        elif not _beside(copy.path, WAL).exists() and _is_waiting(copy):
            disk.remove(report)  # the crash came before anything was renamed


def _is_waiting(copy: AsideCopy) -> bool:
    """Whether nothing of a copy that is not there was taken over; also where its report cannot be read."""
    try:
        return copy.report().state is SalvageState.WAITING
    except OSError:
        return True


def copies(folder: Path) -> list[AsideCopy]:
    """All copies in the folder, the oldest first."""
    return [AsideCopy(path) for path in sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"))]


def trim(folder: Path, max_bytes: int, disk: Disk = DISK) -> int:
    """Remove the oldest copies whose content was taken over, beyond number and share; returns how many."""
    done = [copy for copy in copies(folder) if copy.report().state is SalvageState.DONE]
    removed = 0
    while done and (len(done) > KEPT or sum(c.bytes for c in done) > max_bytes * COPIES_SHARE):
        oldest = done.pop(0)
        log.warning("%s is removed: what could be read was taken over", oldest.path.name)
        for path in oldest.files:
            disk.remove(path)
        removed += 1
    reports = sorted(folder.glob(f"{_PREFIX}*.json"))
    for report in reports[:-REPORTS_KEPT]:
        if not report.with_suffix(_SUFFIX).exists():
            disk.remove(report)
    return removed


def size_of(path: Path) -> int:
    """Size of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)

"""The file with a device's update record, and beside it the number that must survive damage to that file."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

from edge_producer.updates.update_states import UNCHANGED, UpdateRecord, parse_record
from schemas.durable import Disk
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked, with_digest
from schemas.updates import UpdateState

log = logging.getLogger(__name__)

MAX_NUMBER = 2**63 - 1
"""Largest number that a report can carry (int64)."""
SANE_SEQ = 2**40
"""No fleet gets so many channel documents: a larger number is damage, and would lock out every later one."""
_NEEDS_ATTEMPT = UNCHANGED | {UpdateState.COMMITTED, UpdateState.WATCH}


class Journal:
    """One device's update record on disk.

    Args:
        folder: The device's own folder.
        disk: Reads and writes it.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._path = folder / "state.json"
        self._seq_path = folder / "accepted.json"
        self._disk = disk
        disk.make_folder(folder, private=True)

    def load(self) -> UpdateRecord | None:
        """The record on disk; None where it is unreadable: then the device must restore an earlier set."""
        record = parse_record(self._disk.read(self._path))
        if record is None or not _makes_sense(record):
            return None
        return record.model_copy(update={"seq": max(record.seq, self.accepted())})

    def save(self, record: UpdateRecord) -> UpdateRecord:
        """Persist a record; returns it."""
        # The number first: a record that is damaged later must not let an older channel document in.
        if record.seq > self.accepted():
            self._disk.write(self._seq_path, with_digest(json.dumps({"seq": record.seq}).encode()))
        self._disk.write(self._path, with_digest(record.model_dump_json().encode()))
        return record

    def try_save(self, record: UpdateRecord) -> UpdateRecord:
        """Persist a record if the disk has room; returns it in any case."""
        try:
            return self.save(record)
        except OSError:
            log.exception("%s is not persisted: %s", record.state, self._path)
            return record

    def accepted(self) -> int:
        """Number of the newest channel document ever accepted; also known where the record is damaged."""
        try:
            seq = int(checked(self._disk.read(self._seq_path) or b"{}", str(self._seq_path)).get("seq", 0))
        except DamagedLakeError as exc:
            log.warning("%s; the number in the record of updates counts", exc)
            return 0
        except (ValueError, TypeError, OverflowError):
            return 0
        return seq if 0 <= seq <= SANE_SEQ else 0


def _makes_sense(record: UpdateRecord) -> bool:
    """Whether the numbers fit into a report, and a state that needs an attempt has one."""
    attempt = record.attempt
    if attempt is None and record.state in _NEEDS_ATTEMPT:
        return False
    numbers = [record.seq, *(f.seq for f in record.failed.values())]
    if attempt is not None:
        numbers += [attempt.seq, attempt.transitions, attempt.crashes]
    times = (f.not_before for f in record.failed.values())
    return all(0 <= n <= MAX_NUMBER for n in numbers) and all(math.isfinite(t) for t in times)

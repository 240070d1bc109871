"""The file that remembers where a device's update stands, and beside it what must outlive its damage."""

from __future__ import annotations

import json
from pathlib import Path

from edge_producer.updates.disk import Disk
from edge_producer.updates.machine import Record, parse_record


class Journal:
    """One device's record; persisted before anything that it says is done.

    Args:
        folder: The device's own.
        disk: Writes it.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._path = folder / "state.json"
        self._seq_path = folder / "accepted.json"
        self._disk = disk
        disk.make_folder(folder)

    def load(self) -> Record | None:
        """The record as kept; None: unreadable, so restore."""
        record = parse_record(self._disk.read(self._path))
        if record is None:
            return None
        return record.model_copy(update={"seq": max(record.seq, self.accepted())})

    def save(self, record: Record) -> Record:
        """Persist a record; returns it."""
        if record.seq > self.accepted():
            self._disk.write(self._seq_path, json.dumps({"seq": record.seq}).encode())
        self._disk.write(self._path, record.model_dump_json().encode())
        return record

    def accepted(self) -> int:
        """Newest channel ever accepted, also where the record is damaged: no replay gets in through that."""
        try:
            return int(json.loads(self._disk.read(self._seq_path) or b"{}").get("seq", 0))
        except (ValueError, AttributeError, TypeError):
            return 0

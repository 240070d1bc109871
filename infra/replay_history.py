"""What was replayed before: recognises a recording that comes again, and retires what it replaces."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge_producer.spool.spool_file import reading
from feature_store.lake import Lake
from feature_store.replay_registry import Boot, ReplayRecord, ReplayRegistry, new_replay_id
from infra.printing import instant
from infra.reading.decoding import opened
from infra.reading.file_set import expanded
from infra.reading.recording_reader import ReadRecording
from schemas.errors import RepeatedRecordingError, SpoolError
from schemas.instants import from_us, utc_now

_BLOCK = 1 << 20


def content_digest(paths: Sequence[Path]) -> str:
    """SHA-256 over what the files hold, decompressed, in whatever order and under whatever names.

    Raises:
        SourceError: A file cannot be read.
    """
    digests = []
    for path in expanded(paths):
        digest = hashlib.sha256()
        with opened(path) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        digests.append(digest.hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


@dataclass
class ReplayHistory:
    """One replay among those that the lake knows of.

    Attributes:
        content: As ``content_digest`` gives it.
        files: Names of the files.
        ids: Device id by the name in the file.
        replaced: Earlier replays that no longer count once this one is complete; set by ``check``.
    """

    lake: Lake
    profile: str
    content: str
    files: Sequence[Path]
    ids: Mapping[str, str]
    read: ReadRecording
    replaced: tuple[ReplayRecord, ...] = ()
    _id: str = field(default_factory=new_replay_id)
    _noted: set[Boot] = field(default_factory=set)

    def check(self, *, replaces: bool, force: bool) -> None:
        """Find the earlier replays that this one replaces.

        Args:
            replaces: Whether a person wants that.
            force: Whether a person wants rows of other files over the same time to stay beside these.

        Raises:
            RepeatedRecordingError: There are some, and nobody wants to replace them.
        """
        earlier = [
            r
            for r in ReplayRegistry(self.lake).replays()
            if r.device_id in self.ids.values() and r.profile == self.profile
        ]
        same = [r for r in earlier if r.content == self.content]
        over = [r for r in earlier if r.content != self.content and self._overlaps(r)]
        if replaces:
            self.replaced = (*same, *over)
            return
        if same:
            first = same[0]
            done = "were replayed" if first.complete else "were begun, and not finished,"
            raise RepeatedRecordingError(
                f"these files {done} as device {first.device_id} with profile {first.profile}: nothing was "
                "sent. --replace lets what came then no longer count; --device names another device"
            )
        if over and not force:
            first = over[0]
            raise RepeatedRecordingError(
                f"device {first.device_id} has rows of {', '.join(json.loads(first.files))} from "
                f"{instant(first.first_time)} to {instant(first.last_time)} already, over the same time: "
                "nothing was sent. --device names another device, --replace lets those no longer count, "
                "--force keeps both"
            )

    def note(self, spool: Path) -> bool:
        """Record starts of the devices that are not recorded yet; whether there are any.

        Where the replay replaces others, their rows do not count before it is complete.
        """
        fresh = _boots(spool) - self._noted
        if fresh:
            registry = ReplayRegistry(self.lake)
            if self.replaced:
                registry.retire(fresh, self.profile, f"replay {self._id} is not complete yet")
            registry.record([self._record(boot, complete=False) for boot in sorted(fresh)])
            self._noted |= fresh
        return bool(self._noted)

    def complete(self, spool: Path) -> None:
        """Record that every row can be queried: in one cut these begin to count and the replaced ones end."""
        records = [self._record(boot, complete=True) for boot in sorted(_boots(spool) | self._noted)]
        files = ", ".join(path.name for path in self.files)
        reason = f"replaced by replay {self._id} of {files} at {utc_now().isoformat()}"
        earlier = [(r.device_id, r.boot_id) for r in self.replaced]
        ReplayRegistry(self.lake).replace(records, earlier, self.profile, reason)

    def _record(self, boot: Boot, *, complete: bool) -> ReplayRecord:
        names = {device: name for name, device in self.ids.items()}
        rows = self.read.devices.get(names.get(boot[0], ""))
        us = np.empty(0, dtype=np.int64) if rows is None else rows.us
        return ReplayRecord(
            replay_id=self._id,
            content=self.content,
            files=json.dumps([path.name for path in self.files], ensure_ascii=False),
            profile=self.profile,
            device_id=boot[0],
            boot_id=boot[1],
            rows=len(us),
            first_time=from_us(int(us[0])) if len(us) else None,
            last_time=from_us(int(us[-1])) if len(us) else None,
            complete=complete,
        )

    def _overlaps(self, record: ReplayRecord) -> bool:
        names = {device: name for name, device in self.ids.items()}
        rows = self.read.devices.get(names.get(record.device_id, ""))
        if rows is None or not len(rows.us) or record.first_time is None or record.last_time is None:
            return False
        first, last = from_us(int(rows.us[0])), from_us(int(rows.us[-1]))
        return first <= record.last_time and record.first_time <= last


def _boots(spool: Path) -> set[Boot]:
    """Starts of the devices that a spool knows."""
    try:
        with reading(spool) as connection:
            rows = connection.execute(
                "SELECT DISTINCT d.device_id, b.boot_id FROM books b JOIN devices d ON d.no = b.device"
                " UNION SELECT device_id, boot_id FROM devices WHERE boot_id <> 0"
            )
            return {(str(device), int(boot)) for device, boot in rows}
    except SpoolError:  # the process has not made it yet
        return set()

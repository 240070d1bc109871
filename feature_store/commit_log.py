"""The commit log: one record per task and commit number, and who wrote it first.

``<lake>/_commits/<task>/<n>.json`` by put-if-absent is the only commit point of the pipeline.
Snapshots of a task's whole state are stored beside the records, and bound what recovery reads.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from schemas.durable import DISK

RECORD = ".json"
SNAPSHOT = ".snapshot"
APPLIED = "applied"
_KEEP_SNAPSHOTS = 2


class CommitLog:
    """Records of all tasks of one lake.

    Args:
        root: The lake's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / "_commits"

    def put_if_absent(self, task: str, n: int, payload: bytes) -> bool:
        """Decide commit n of the task, durably.

        Returns:
            False: another writer owns the task, because n exists or the task is past n already. Past n counts
            even if n itself was pruned: a writer that was suspended meanwhile must not win.
        """
        if not DISK.put_if_absent(self.path(task, n, RECORD), payload):
            return False
        # Checked after the link, not before: other writers may act between a check and the link.
        return self._newest(task) == n

    def read(self, task: str, n: int) -> bytes:
        """Record n.

        Raises:
            FileNotFoundError: n was never decided, or is pruned.
        """
        return self.path(task, n, RECORD).read_bytes()

    def latest(self, task: str) -> int | None:
        """Number of the newest record; None: the task has none yet."""
        return max(self.numbers(task), default=None)

    def numbers(self, task: str) -> list[int]:
        """Numbers of the records that are not pruned, ascending and dense."""
        return sorted(self._numbers(task, RECORD))

    def records_from(self, task: str, start: int) -> list[bytes]:
        """Records ``start`` and later, in order."""
        return [self.read(task, n) for n in self.numbers(task) if n >= start]

    def write_snapshot(self, task: str, n: int, payload: bytes) -> None:
        """Store the task's whole state after commit n, and drop what no recovery needs any more.

        Two snapshots stay, and the records after the older one.
        """
        DISK.write(self.path(task, n, SNAPSHOT), payload)
        self._prune(task)

    def latest_snapshot(self, task: str) -> bytes | None:
        """Content of the newest snapshot; recovery goes on with the records after it."""
        newest = max(self._numbers(task, SNAPSHOT), default=None)
        return None if newest is None else self.path(task, newest, SNAPSHOT).read_bytes()

    def snapshots(self, task: str) -> list[int]:
        """Numbers of the snapshots, the newest first."""
        return sorted(self._numbers(task, SNAPSHOT), reverse=True)

    def read_snapshot(self, task: str, n: int) -> bytes:
        """Snapshot n.

        Raises:
            FileNotFoundError: There is none, or it is pruned.
        """
        return self.path(task, n, SNAPSHOT).read_bytes()

    def newest(self, task: str) -> int:
        """Number of the newest decided commit, by records and snapshots; -1: none."""
        return self._newest(task)

    def mark_applied(self, task: str, n: int) -> None:
        """Record that all tables hold the task's commits up to n. Not durable: applying is idempotent."""
        DISK.write(self._root / task / APPLIED, b"%d %s" % (n, _digest(b"%d" % n)), sync=False)

    def applied(self, task: str) -> int | None:
        """Newest commit marked applied; None: none, or the mark is damaged or did not survive a power cut."""
        try:
            number, _, digest = (self._root / task / APPLIED).read_bytes().partition(b" ")
        except OSError:
            return None
        sound = number.isdigit() and digest in (b"", _digest(number))  # release 0.2.0 wrote no digest
        return int(number) if sound else None

    def tasks(self) -> list[str]:
        """Tasks that have decided anything."""
        if not self._root.is_dir():
            return []
        return sorted(p.name for p in self._root.iterdir() if p.is_dir())

    def _newest(self, task: str) -> int:
        return max([*self._numbers(task, RECORD), *self._numbers(task, SNAPSHOT)], default=-1)

    def _numbers(self, task: str, suffix: str) -> list[int]:
        try:
            names = [p.name for p in (self._root / task).iterdir()]
        except FileNotFoundError:
            return []
        stems = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
        return [int(stem) for stem in stems if stem.isdigit()]

    def _prune(self, task: str) -> None:
        snapshots = sorted(self._numbers(task, SNAPSHOT))
        if len(snapshots) < _KEEP_SNAPSHOTS:
            return
        floor = snapshots[-_KEEP_SNAPSHOTS]
        # Snapshots last: while any record is missing, a snapshot at or above it proves it was decided.
        for suffix, limit in ((RECORD, floor + 1), (SNAPSHOT, floor)):
            for n in self._numbers(task, suffix):
                if n < limit:
                    self.path(task, n, suffix).unlink(missing_ok=True)

    def path(self, task: str, n: int, suffix: str = RECORD) -> Path:
        """File of record or snapshot n."""
        return self._root / task / f"{n:012d}{suffix}"


def ever_concluded(root: Path) -> bool:
    """Whether any commit of the lake in this folder was ever shown in a cut."""
    folder = root / "_commits"
    return any(folder.glob(f"*/{APPLIED}")) or any(folder.glob(f"*/*{SNAPSHOT}"))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:16].encode()

"""A disk that loses at a power cut whatever was not synced, and dies after a given number of writes.

It works on a real folder. What fsync made durable is remembered by inode (contents of files, entries of
folders); a power cut puts the folder back to exactly that.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from edge_producer.updates.disk import Disk

FOREIGN = ("time.json", "lock")
"""Files that others write, durably, past this disk."""


class PowerCut(BaseException):
    """The device is off: nothing of the product may catch this."""


class LossyDisk(Disk):
    """Args: root, the folder that the disk holds; die_after, renames until the power goes (None: never)."""

    def __init__(self, root: Path, die_after: int | None = None) -> None:
        self.root = root
        self.die_after = die_after
        self.renames = 0
        self.journal: list[str] = []
        self._contents: dict[int, bytes] = {}
        self._entries: dict[int, dict[str, tuple[int, bool]]] = {}
        self._open: dict[int, int] = {}  # keeps inodes from being given to other files
        root.mkdir(parents=True, exist_ok=True)
        self._learn(root)

    def sync(self, handle: int, path: Path) -> None:
        self._alive()
        self._contents[self._hold(path)] = path.read_bytes()

    def sync_folder(self, path: Path) -> None:
        self._alive()
        self._note_entries(path)

    def rename(self, source: Path, target: Path) -> None:
        self._alive()
        super().rename(source, target)
        self.renames += 1
        self.journal.append(target.name)
        if self.renames == self.die_after:
            raise PowerCut

    def write(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        self._alive()
        super().write(path, data, mode)

    def append(self, path: Path, data: bytes) -> None:
        self._alive()
        super().append(path, data)

    def remove(self, path: Path) -> None:
        self._alive()
        super().remove(path)

    def power_cut(self) -> None:
        """Put the folder back to what is durable, and be a fresh disk."""
        kept = self.root.with_name(self.root.name + ".kept")
        self._rebuild(self.root.stat().st_ino, kept)
        for handle in self._open.values():
            os.close(handle)
        shutil.rmtree(self.root)
        kept.rename(self.root)
        self.__init__(self.root)

    def close(self) -> None:
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()

    def _alive(self) -> None:
        if self.die_after is not None and self.renames >= self.die_after:
            raise PowerCut

    def _learn(self, folder: Path) -> None:
        """Everything that is there when the disk is plugged in is durable."""
        self._note_entries(folder)
        for path in folder.iterdir():
            if path.is_dir():
                self._learn(path)
            else:
                self._contents[self._hold(path)] = path.read_bytes()

    def _note_entries(self, folder: Path) -> None:
        for name in FOREIGN:
            if (folder / name).exists():
                self._contents[self._hold(folder / name)] = (folder / name).read_bytes()
        entries = {p.name: (self._hold(p), p.is_dir()) for p in folder.iterdir()}
        self._entries[self._hold(folder)] = entries

    def _hold(self, path: Path) -> int:
        inode = path.stat().st_ino
        if inode not in self._open:
            self._open[inode] = os.open(path, os.O_RDONLY)
        return inode

    def _rebuild(self, inode: int, target: Path) -> None:
        target.mkdir()
        for name, (child, is_folder) in self._entries.get(inode, {}).items():
            if is_folder:
                self._rebuild(child, target / name)
            else:
                (target / name).write_bytes(self._contents.get(child, b""))

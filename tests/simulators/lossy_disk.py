"""A disk that loses at a power cut whatever was not synced, and dies at a given step.

It works on a real folder. What a sync made durable is remembered by inode (contents of files, entries of
folders); a power cut puts the folder back to exactly that. A real disk may also write names earlier than it
must: ``power_cut(names_stay=True)`` keeps every name, and of its content what was synced.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from schemas.durable import Disk

FOREIGN = ("lock",)
"""Files that others write, durably, past this disk."""


class PowerCut(BaseException):
    """The device is off: nothing of the product may catch this."""


class LossyDisk(Disk):
    """A folder on a disk that loses its power.

    Args:
        root: The folder that the disk holds.
        die_after: Renames until the power goes, right after the last of them; None: never.
        die_before: Step before which the power goes, from 1 on: a sync, a rename, a link, a removal or an
            append; None: never.
    """

    def __init__(self, root: Path, die_after: int | None = None, die_before: int | None = None) -> None:
        self.root = root
        self.die_after = die_after
        self.die_before = die_before
        self.renames = self.steps = 0
        self.journal: list[str] = []
        self._contents: dict[int, bytes] = {}
        self._entries: dict[int, dict[str, tuple[int, bool]]] = {}
        self._open: dict[int, int] = {}  # keeps inodes from being given to other files
        root.mkdir(parents=True, exist_ok=True)
        self._learn(root)

    def sync(self, handle: int, path: Path) -> None:
        self._step()
        self._contents[self._hold(path)] = path.read_bytes()

    def sync_folder(self, path: Path) -> None:
        self._step()
        self._note_entries(path)

    def rename(self, source: Path, target: Path, *, sync: bool = True) -> None:
        self._step()
        super().rename(source, target, sync=sync)
        self.renames += 1
        self.journal.append(target.name)
        if self.renames == self.die_after:
            raise PowerCut

    def link(self, source: Path, target: Path, *, sync: bool = True) -> None:
        self._step()
        super().link(source, target, sync=sync)

    def append(self, path: Path, data: bytes) -> None:
        self._step()
        super().append(path, data)

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)

    def power_cut(self, *, names_stay: bool = False) -> None:
        """Put the folder back to what is durable, and be a fresh disk."""
        if names_stay:
            for folder in (self.root, *(p for p in self.root.rglob("*") if p.is_dir())):
                self._note_entries(folder)
        kept = self.root.with_name(self.root.name + ".kept")
        self._rebuild(self.root.stat().st_ino, kept)
        self.close()
        shutil.rmtree(self.root)
        kept.rename(self.root)
        self.__init__(self.root)

    def close(self) -> None:
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()

    def _step(self) -> None:
        """One more step, unless the power is gone."""
        self.steps += 1
        if self.die_after is not None and self.renames >= self.die_after:
            raise PowerCut
        if self.die_before is not None and self.steps >= self.die_before:
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

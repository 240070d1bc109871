"""Copies a state folder in two passes: while the stack runs, then what changed while it is frozen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from schemas.durable import is_temporary

SKIPPED_FOLDERS = ("logs", "previous-demo", "kafka/tmp", "lake/_faust")
"""Not part of the state: logs, an earlier demo, and what is made anew at every start."""
SKIPPED_NAMES = ("stack.json", "stack.lock", ".lock", ".kafka_cleanshutdown")
SKIPPED_SUFFIXES = (".index", ".timeindex", ".lock")
"""Kafka writes its indexes through memory maps, and makes missing ones anew from the log."""
REPLACED = "before-restore-"
"""Start of the name of the folder that keeps what a restore replaced."""

Fingerprint = tuple[int, int, int]


@dataclass
class StateCopy:
    """A copy under way.

    Attributes:
        source: The state folder.
        target: The copy.
        copied: What each file was like when it was copied.
    """

    source: Path
    target: Path
    copied: dict[str, Fingerprint] = field(default_factory=dict)

    def run(self) -> int:
        """Copy what is new or has changed, and remove what is gone; returns how many files were copied."""
        found = dict(self._files())
        for name in self.copied.keys() - found.keys():
            (self.target / name).unlink(missing_ok=True)
            del self.copied[name]
        done = 0
        for name, path in found.items():
            done += self._copy(name, path)
        return done

    def _copy(self, name: str, path: Path) -> bool:
        try:
            before = _fingerprint(path)
            if self.copied.get(name) == before:
                return False
            target = self.target / name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(path, target, follow_symlinks=False)
            shutil.copymode(path, target)
        except FileNotFoundError:  # removed while we looked; in the second pass nothing moves
            (self.target / name).unlink(missing_ok=True)
            self.copied.pop(name, None)
            return False
        self.copied[name] = before
        return True

    def _files(self) -> Iterator[tuple[str, Path]]:
        for folder, folders, files in os.walk(self.source):
            here = Path(folder)
            inside = here.relative_to(self.source)
            folders[:] = [f for f in folders if not _skipped_folder(inside / f)]
            for file in files:
                path = here / file
                if not _skipped_file(path):
                    yield str(inside / file), path


def _skipped_folder(path: Path) -> bool:
    return str(path) in SKIPPED_FOLDERS or path.name.startswith(REPLACED) or is_temporary(path)


def _skipped_file(path: Path) -> bool:
    skipped = path.name in SKIPPED_NAMES or path.name.endswith(SKIPPED_SUFFIXES)
    return skipped or is_temporary(path) or path.is_symlink() or not path.is_file()


def _fingerprint(path: Path) -> Fingerprint:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino

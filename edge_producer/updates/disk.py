"""The file layer under everything an update writes: once a call returned, the new content is on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

PART = ".new"


class Disk:
    """Files and folders that survive a power cut once the call has returned.

    A test stands a disk behind it that forgets whatever was not synced, and one that dies after a write.
    """

    def read(self, path: Path) -> bytes | None:
        """Bytes of a file; None where there is none."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        """Replace a file as a whole; its folder must exist."""
        part = path.with_name(path.name + PART)
        part.unlink(missing_ok=True)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            self.sync(file.fileno(), part)
        self.rename(part, path)

    def put(self, path: Path, data: bytes) -> None:
        """Like ``write``, in a folder that may not be there yet."""
        self.make_folder(path.parent)
        self.write(path, data)

    def write_folder(self, path: Path, files: Mapping[str, bytes]) -> None:
        """Make a folder of these files, all of it or nothing; one that is there already is replaced."""
        part = path.with_name(path.name + PART)
        self.remove(part)
        part.mkdir(parents=True)
        for name, data in files.items():
            target = part / name
            target.parent.mkdir(exist_ok=True, parents=True)
            with target.open("xb") as file:
                file.write(data)
                file.flush()
                self.sync(file.fileno(), target)
        for folder in sorted({(part / name).parent for name in files} | {part}, reverse=True):
            self.sync_folder(folder)
        self.remove(path)
        self.rename(part, path)

    def make_folder(self, path: Path) -> None:
        """A folder and its parents, readable by this user only."""
        if not path.is_dir():
            path.mkdir(parents=True, mode=0o700, exist_ok=True)
            self.sync_folder(path.parent)

    def append(self, path: Path, data: bytes) -> None:
        """Add to the end of a file, not synced: a download checks what it finds by its digest."""
        with path.open("ab") as file:
            file.write(data)

    def remove(self, path: Path) -> None:
        """Take a file or folder away, if it is there."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        """Put a file or folder in place, and make that last."""
        source.rename(target)
        self.sync_folder(target.parent)

    def sync(self, handle: int, path: Path) -> None:
        """Wait until an open file's content is on disk."""
        os.fsync(handle)

    def sync_folder(self, path: Path) -> None:
        """Wait until a folder's entries are on disk."""
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

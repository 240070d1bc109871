"""Files that survive a power cut: written beside, synced, then named. No other module does this.

A write takes four steps. Step 1: the content goes to a new file beside the name. Step 2: it is synced.
Step 3: the file gets its name, by a rename that replaces or by a hard link that does not. Step 4: the folder
is synced. So a reader sees the old content or the new, and after a power cut the name holds one of the two.

*Temporary names.* ``.tmp-<name>.<random>``. Two writers of one name never share one. The dot hides it, and it
does not end in ``.json``, ``.pem`` or ``.pb``, so no search for content finds it.

*Left-overs.* A write that fails removes its temporary file. A crash leaves it: it blocks no later writer and
is never read. Each folder is swept by its owner: the lake's vacuum, an edge process when it starts, the
updater once it has its lock, the model service's engine and the owner of a stack when they start. Where
several processes write, only files older than ``ABANDONED_S`` are removed.

Local POSIX disks only: ``put_if_absent`` is a hard link; on object storage it would be a conditional put.
ADR 16 explains why this is no library.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

ABANDONED_S = 3600.0
"""A temporary file of this age has no writer any more: writing one takes seconds at most."""
_PREFIX = ".tmp-"
_NAME_KEPT = 40
"""Characters of the name that the temporary name repeats: both may be at most 255 bytes long."""
_FILE, _PRIVATE_FILE = 0o644, 0o600
_FOLDER, _PRIVATE_FOLDER = 0o777, 0o700
"""Less the umask. Files are replaced and never written in place, so only their owner needs to write them."""


def temporary(path: Path) -> Path:
    """A name beside ``path`` that no other writer uses and that ``Disk.sweep`` recognises."""
    return path.with_name(f"{_PREFIX}{path.name[:_NAME_KEPT]}.{uuid.uuid4().hex}")


def is_temporary(path: Path) -> bool:
    """Whether a file is an unfinished write, or was left by one."""
    return path.name.startswith(_PREFIX)


class DiskRoom(NamedTuple):
    """Bytes of a file system, and those of them that this user may still take."""

    total: int
    free: int


class Disk:
    """Files and folders that survive a power cut once the call has returned.

    Tests replace it with other disks: one that loses whatever was not synced, one that is full, one that dies
    after a write. ``DISK`` is the real one.
    """

    def read(self, path: Path) -> bytes | None:
        """Bytes of a file; None if it does not exist."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: Path, data: bytes, *, private: bool = False, sync: bool = True) -> None:
        """Create or replace a file as a whole; its folder is made if absent.

        Args:
            path: The file.
            data: Its new content.
            private: Readable by its owner alone, from the first byte on.
            sync: False skips steps 2 and 4: after a power cut the file may be old, empty or absent. For files
                that are rewritten all the time, describe running processes, or can be derived again.
        """
        with self._beside(path) as beside:
            self._create(beside, data, private=private, sync=sync)
            self.rename(beside, path, sync=sync)

    def put_if_absent(self, path: Path, data: bytes, *, private: bool = False) -> bool:
        """Create a file as a whole, or leave the one that is there untouched.

        Returns:
            False: the name is taken. Of several writers who race, exactly one gets True.
        """
        with self._beside(path) as beside:
            self._create(beside, data, private=private)
            created = self._linked(beside, path)
            self.remove(beside)
        if created:
            self.sync_folder(path.parent)
        return created

    def write_folder(self, path: Path, files: Mapping[str, bytes]) -> None:
        """Make a folder of these files, all of it or nothing.

        An existing folder of that name is removed first: a crash between the two leaves none.
        """
        with self._beside(path) as beside:
            for name, data in files.items():
                self._create(beside / name, data)
            for folder in sorted({(beside / name).parent for name in files} | {beside}, reverse=True):
                self.sync_folder(folder)
            self.remove(path)
            self.rename(beside, path)

    def make_folder(self, path: Path, *, private: bool = False) -> None:
        """Make a folder and the folders above it, where absent.

        Args:
            path: The folder.
            private: Only its owner may enter it; the folders above it are made as usual.
        """
        if not path.is_dir():
            self.make_folder(path.parent)
            path.mkdir(mode=_PRIVATE_FOLDER if private else _FOLDER, exist_ok=True)
            self.sync_folder(path.parent)

    def append(self, path: Path, data: bytes) -> None:
        """Add to the end of a file, not synced: for content whose digest is checked once it is complete."""
        with path.open("ab") as file:
            file.write(data)

    def remove(self, path: Path) -> None:
        """Remove a file or folder, if it exists. Not synced: one that comes back may be removed again."""
        try:
            path.unlink(missing_ok=True)
        except OSError:
            if not path.is_dir():
                raise
            shutil.rmtree(path)

    def rename(self, source: Path, target: Path, *, sync: bool = True) -> None:
        """Give a file or folder a name, replacing a file of that name; durable unless ``sync`` is False."""
        source.replace(target)
        if sync:
            self.sync_folder(target.parent)

    def link(self, source: Path, target: Path, *, sync: bool = True) -> None:
        """Give a file a second name; durable unless ``sync`` is False.

        Raises:
            FileExistsError: The name is taken.
            OSError: The two names are on different disks, or the disk has no hard links.
        """
        os.link(source, target)
        if sync:
            self.sync_folder(target.parent)

    def room(self, folder: Path) -> DiskRoom:
        """How large the disk of an existing folder is, and how much of it is free."""
        known = os.statvfs(folder)
        return DiskRoom(known.f_blocks * known.f_frsize, known.f_bavail * known.f_frsize)

    def sync(self, handle: int, path: Path) -> None:
        """Wait until the content of the open file ``path`` is on disk."""
        os.fsync(handle)

    def sync_file(self, path: Path) -> None:
        """Wait until the content of a file that other code wrote is on disk."""
        with path.open("rb") as file:
            self.sync(file.fileno(), path)

    def sync_folder(self, path: Path) -> None:
        """Wait until the names in a folder are on disk."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def sweep(
        self, folder: Path, before: float | None = None, also: Iterable[str] = (), *, deep: bool = False
    ) -> None:
        """Remove what crashed writers left in a folder; an absent folder is fine.

        Args:
            folder: The folder.
            before: UTC seconds; files that changed later may still have a writer. None: no other process
                writes here.
            also: Patterns of the temporary names of release 0.2.0.
            deep: Also in all folders below it.
        """
        patterns = (f"{_PREFIX}*", *also)
        for parent, folders, files in os.walk(folder):
            found = [Path(parent, n) for n in (*folders, *files) if any(fnmatch(n, p) for p in patterns)]
            for path in found:
                if before is None or _changed_before(path, before):
                    self.remove(path)
            if not deep:
                folders.clear()

    @contextmanager
    def _beside(self, path: Path) -> Iterator[Path]:
        """A temporary name; its file is removed if the block fails."""
        beside = temporary(path)
        try:
            yield beside
        except BaseException:
            self.remove(beside)
            raise

    def _create(self, path: Path, data: bytes, *, private: bool = False, sync: bool = True) -> None:
        """Steps 1 and 2 of a write."""
        flags, mode = os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE if private else _FILE
        try:
            handle = os.open(path, flags, mode)
        except FileNotFoundError:
            self.make_folder(path.parent)
            handle = os.open(path, flags, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                self.sync(file.fileno(), path)

    def _linked(self, source: Path, target: Path) -> bool:
        try:
            self.link(source, target, sync=False)
        except FileExistsError:
            return False
        return True


DISK = Disk()
"""The disk of this machine."""


def _changed_before(path: Path, before: float) -> bool:
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:
        return False

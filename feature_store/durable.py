"""Files that survive a power cut: written beside, synced, then named.

Local disks only: put-if-absent is a hard link here; on object storage it is a conditional put.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BESIDE = ".tmp-"
"""Prefix of files that are not yet named; one left by a crash means nothing."""


def put_if_absent(path: Path, payload: bytes) -> bool:
    """Create the file whole, or not at all.

    Returns:
        False: the path exists already, and is untouched.
    """
    beside = _write_beside(path, payload)
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def replace(path: Path, payload: bytes, *, durable: bool = True) -> None:
    """Create or overwrite the file in one step: readers see the old bytes or the new.

    Args:
        path: File to write; its folder is created.
        payload: New content.
        durable: False: after a power cut the file may be empty or old.
    """
    beside = _write_beside(path, payload, durable=durable)
    beside.replace(path)
    if durable:
        sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Wait until the file's content is on the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Wait until the names in the folder are on the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock among processes; the kernel frees it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _write_beside(path: Path, payload: bytes, *, durable: bool = True) -> Path:
    beside = path.parent / f"{BESIDE}{path.name}.{uuid.uuid4().hex}"
    try:
        handle = beside.open("xb")
    except FileNotFoundError:
        beside.parent.mkdir(parents=True, exist_ok=True)
        sync_folder(beside.parent.parent)
        handle = beside.open("xb")
    with handle:
        handle.write(payload)
        handle.flush()
        if durable:
            os.fsync(handle.fileno())
    return beside


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

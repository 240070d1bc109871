"""This process's folder for queries larger than memory; folders of processes that have ended are removed.

A process that is killed cannot remove its own. Each holds a lock in its folder, which ends with it whatever
happens; process ids come again, and are not asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

PREFIX = "edgeloop-duckdb-"
LOCK = "owner.lock"


@cache
def spill_folder() -> Path:
    """The folder: its owner's alone, and removed at exit.

    Its name is not fixed: under a folder that everybody may write it could be another user's, or their link.
    """
    while True:
        folder = tempfile.TemporaryDirectory(prefix=PREFIX)
        if _own(Path(folder.name)):
            _kept.append(folder)
            remove_abandoned(Path(folder.name).parent)
            return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def remove_abandoned(parent: Path) -> list[Path]:
    """Remove this user's folders whose process has ended; returns them.

    A folder without a lock is left alone: its process may be about to take it, or be of an earlier release.
    """
    removed = []
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.lstat().st_uid != os.geteuid():
                continue
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while the process lives
                shutil.rmtree(folder)
                removed.append(folder)
            finally:
                os.close(handle)
    return removed


def _own(folder: Path) -> bool:
    """Take a new folder's lock for as long as this process lives; False: another took it for abandoned."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = (folder / LOCK).stat().st_ino == os.fstat(handle).st_ino
    except OSError:
        there = False
    if not there:
        os.close(handle)
    return there

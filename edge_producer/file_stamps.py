"""Whether files are what they were when they were read: by inode, size and times, without reading them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

Stamps = tuple[tuple[str, int, int, int, int], ...]
"""Path, inode, size, and the times of contents and inode in ns, of each file that is there."""


def files_in(folder: Path) -> list[str]:
    """Paths of what a folder holds, in order; none where it is absent."""
    try:
        return [f"{folder}/{name}" for name in sorted(os.listdir(folder))]  # noqa: PTH208  (often called)
    except OSError:
        return []


def stamps_of(files: Iterable[str | Path]) -> Stamps:
    """Stamps of files in the order given; those that are absent or cannot be asked about are left out."""
    found = []
    for file in files:
        try:
            at = os.stat(file)  # noqa: PTH116  (often called)
        except OSError:
            continue
        found.append((str(file), at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns))
    return tuple(found)

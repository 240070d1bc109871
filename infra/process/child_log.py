"""Reads the log of a child, which its guard turns over: the newest file, and the older ones beside it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from infra.process.child_guard import KEPT

_TAIL_BYTES = 64 * 1024
_HEAD_BYTES = 256


class LogPosition(NamedTuple):
    """Where a reader is in a log: in this file, at this byte. The file may have another name by now.

    Attributes:
        inode: Number of the file; the disk gives it to another one when the file is gone.
        offset: Bytes read.
        head: How the file begins, up to the offset: tells it from a later one of that number.
    """

    inode: int
    offset: int
    head: bytes

    def is_in(self, file: IO[bytes]) -> bool:
        """Whether this is the file."""
        return _inode(file) == self.inode and os.pread(file.fileno(), len(self.head), 0) == self.head


def log_end(path: Path) -> LogPosition | None:
    """Where the log ends now; None: there is none yet."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return _position(file, os.fstat(file.fileno()).st_size)
    return None


def _position(file: IO[bytes], offset: int) -> LogPosition:
    return LogPosition(_inode(file), offset, os.pread(file.fileno(), min(_HEAD_BYTES, offset), 0))


def _inode(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_ino


def read_since(path: Path, start: LogPosition | None) -> tuple[bytes, LogPosition | None]:
    """What the log holds from a position on, and where it ends.

    Args:
        path: The newest file of the log.
        start: From ``log_end`` or an earlier call; None, and a file that is not kept any more: all of it.
    """
    with _opened(path) as files:
        first = 0
        for i, file in enumerate(files):
            if start is not None and start.is_in(file):
                first = i
                file.seek(start.offset)
        read = b"".join(f.read() for f in files[first:])
        end = _position(files[-1], files[-1].tell()) if files else None
    return read, end


def log_tail(path: Path, lines: int) -> list[str]:
    """The last lines of the log."""
    found: list[str] = []
    with _opened(path) as files:
        for file in reversed(files):
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _TAIL_BYTES))
            found = file.read().decode(errors="replace").splitlines()[-lines:] + found
            if len(found) >= lines:
                break
    return found[-lines:]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[list[IO[bytes]]]:
    """The files of the log, oldest first, each once.

    The newest is opened first: if the log is turned over meanwhile, a file comes twice, and none is missed.
    """
    with contextlib.ExitStack() as stack:
        files: dict[int, IO[bytes]] = {}
        for name in (path.name, *(f"{path.name}.{n}" for n in range(1, KEPT + 1))):
            with contextlib.suppress(OSError):
                file = stack.enter_context(path.with_name(name).open("rb"))
                files.setdefault(_inode(file), file)
        yield list(reversed(files.values()))

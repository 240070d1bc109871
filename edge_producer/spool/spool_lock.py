"""The lock of a spool: one process at a time, and a note of its newest commit that the spool cannot forget.

The note lies in the lock file, outside the database. A spool with fewer commits than the note says is an
older copy of itself: its write-ahead log was lost, or somebody restored a backup. The note is not synced: the
database is, so after a power cut the note may be behind, never ahead.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from schemas.errors import SpoolInUseError, SpoolUnavailableError

_WIDTH = 20


class CommitNote(NamedTuple):
    """Which spool had how many commits."""

    spool_id: str
    commits: int


class SpoolLock:
    """Held until ``release``.

    Args:
        handle: Open file, locked.
    """

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    @classmethod
    def take(cls, path: Path) -> Self:
        """The lock of the spool ``path``; its folder is made where absent.

        Raises:
            SpoolInUseError: Another process holds it.
            SpoolUnavailableError: The disk does not let us.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            name = path.with_name(path.name + ".lock")
            handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise SpoolUnavailableError(f"{path} cannot be locked: {exc}") from exc
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(handle)
            raise SpoolInUseError(f"{path} is in use by another process") from exc
        except OSError as exc:
            os.close(handle)
            raise SpoolUnavailableError(f"{path} cannot be locked: {exc}") from exc
        return cls(handle)

    def note(self) -> CommitNote | None:
        """What was noted last; None where that is unreadable or missing."""
        if self._handle is None:
            return None
        try:
            spool_id, _, commits = os.pread(self._handle, 256, 0).decode("ascii").strip().partition(" ")
            return CommitNote(spool_id, int(commits))
        except (OSError, ValueError):
            return None

    def set_note(self, note: CommitNote) -> None:
        """Replace the note in place: that takes no room on a full disk."""
        if self._handle is not None:
            with suppress(OSError):
                os.pwrite(self._handle, f"{note.spool_id} {note.commits:0{_WIDTH}d}\n".encode(), 0)

    def release(self) -> None:
        """Let another process have it."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

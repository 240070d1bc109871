"""News for open streams: one event that wakes all of them, whatever it was that happened."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import NamedTuple


class StreamWakeup:
    """Tells streams that they should look again.

    Attributes:
        version: Newest timestamp metadata; 0: there is none yet.
        draining: The server ends: streams return.
    """

    def __init__(self) -> None:
        self.version = 0
        self.draining = False
        self._news = asyncio.Event()

    def show(self, version: int) -> None:
        """The repository has this timestamp version now."""
        if version != self.version:
            self.version = version
            self.wake()

    def drain(self) -> None:
        """The server ends."""
        self.draining = True
        self.wake()

    def wake(self) -> None:
        """Something else happened: a revocation, or time has passed."""
        self._news.set()
        self._news = asyncio.Event()

    async def news(self) -> None:
        """Wait for whatever comes next."""
        await self._news.wait()


class _Mark(NamedTuple):
    """Tells one content of a file from the next without reading it."""

    inode: int
    changed_ns: int
    size: int


class TimestampFile:
    """The repository's timestamp version; a look costs one ``stat`` while nothing changes.

    Args:
        path: ``timestamp.json``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: _Mark | None = None
        self._version = 0

    def version(self) -> int:
        """Newest version; 0: there is none. Unverified, as everything that a hint says."""
        try:
            found = self._path.stat()
            mark = _Mark(found.st_ino, found.st_mtime_ns, found.st_size)
            if mark != self._mark:
                self._version = int(json.loads(self._path.read_bytes())["signed"]["version"])
                self._mark = mark
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError):
            return self._version  # half a file that somebody writes in place: the next look reads it whole
        return self._version

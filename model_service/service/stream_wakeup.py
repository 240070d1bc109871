"""Wakes all open streams when something has changed for them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple


class StreamWakeup:
    """One event that wakes all streams; each then checks what has changed.

    Attributes:
        version: Newest version of the timestamp metadata; 0: there is none yet.
        draining: Whether the server ends; then streams return.
        waiting: By device id, how often something came that waits for that device alone, as a permit.
    """

    def __init__(self) -> None:
        self.version = 0
        self.draining = False
        self.waiting: Counter[str] = Counter()
        self._changed = asyncio.Event()

    def set_version(self, version: int) -> None:
        """Set the repository's newest timestamp version."""
        if version != self.version:
            self.version = version
            self.wake()

    def waits_for(self, device_id: str) -> None:
        """Have one device's streams hint: something waits for it that no metadata names."""
        self.waiting[device_id] += 1
        self.wake()

    def drain(self) -> None:
        """Make all streams return, because the server ends."""
        self.draining = True
        self.wake()

    def wake(self) -> None:
        """Wake all streams, for example after a revocation."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self) -> None:
        """Wait until the streams are woken next."""
        await self._changed.wait()


class _Fingerprint(NamedTuple):
    """Differs between two contents of a file, without reading it."""

    inode: int
    changed_ns: int
    size: int


class TimestampFile:
    """Reads the repository's timestamp version; costs one ``stat`` while the file does not change.

    Args:
        path: The file ``timestamp.json``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fingerprint: _Fingerprint | None = None
        self._version = 0

    def version(self) -> int:
        """Newest version; 0: there is none. It is not verified; nor is a hint, which carries it."""
        try:
            found = self._path.stat()
            fingerprint = _Fingerprint(found.st_ino, found.st_mtime_ns, found.st_size)
            if fingerprint != self._fingerprint:
                self._version = int(json.loads(self._path.read_bytes())["signed"]["version"])
                self._fingerprint = fingerprint
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError):
            return self._version  # another tool writes the file in place: the next call reads it whole
        return self._version

"""Fetches one artifact into a ``.part`` file that a restart resumes; bounded in length, speed and time."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edge_producer.clock import Clock
from schemas.bundle_archive import MAX_ARTIFACT_BYTES
from schemas.durable import Disk
from schemas.errors import ServiceUnavailableError, TrustError
from schemas.updates import Attack

log = logging.getLogger(__name__)

Fetch = Callable[[str, int], Generator[tuple[int, bytes]]]
"""Chunks (offset, bytes) of an artifact by its digest, from an offset on."""


@dataclass(frozen=True)
class DownloadPace:
    """How slow a download may be.

    Attributes:
        min_bytes_per_s: Slowest mean speed over a ``window_s``.
        window_s: Seconds over which speed is measured.
        total_s: Longest time for one try; the next one resumes.
    """

    min_bytes_per_s: float = 1024.0
    window_s: float = 10.0
    total_s: float = 600.0


class Downloads:
    """One device's downloads.

    Args:
        folder: Holds ``<sha256>.part``.
        fetch: Gives chunks.
        disk: Writes them.
        pace: How slow a download may be.
        clock: Steady seconds.
    """

    def __init__(
        self,
        folder: Path,
        fetch: Fetch,
        disk: Disk,
        pace: DownloadPace | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._folder = folder
        self._fetch = fetch
        self._disk = disk
        self._pace = pace or DownloadPace()
        self._clock = clock
        disk.make_folder(folder, private=True)

    def get(self, sha256: str, length: int, stop: Callable[[], bool] = lambda: False) -> bytes:
        """The artifact's bytes, digest and length verified; resumes where an earlier try ended.

        Args:
            sha256: Signed digest, hex.
            length: Signed length, bytes.
            stop: Polled between chunks; True gives up, to be resumed later.

        Raises:
            TrustError: The bytes are others or more than were signed, or come too slowly.
            ServiceUnavailableError: The stream ended early, or ``stop`` returned True.
        """
        if length > MAX_ARTIFACT_BYTES:
            raise TrustError(f"an artifact of {length} bytes; the limit is {MAX_ARTIFACT_BYTES}", _ENDLESS)
        part = self._part(sha256)
        have = part.stat().st_size if part.exists() else 0
        if have > length:
            self._disk.remove(part)
            have = 0
        if have:
            log.info("resuming a download at byte %d of %d", have, length)
        if have < length:
            self._receive(sha256, part, have, length, stop)
        data = part.read_bytes()
        if len(data) < length:
            raise ServiceUnavailableError(f"the artifact ended at byte {len(data)} of {length}")
        if hashlib.sha256(data).hexdigest() != sha256:
            self._disk.remove(part)
            raise TrustError(
                f"the artifact is not the signed one: its SHA-256 is not {sha256[:16]}…",
                Attack.TAMPERED_ARTIFACT,
            )
        return data

    def forget(self, keep: str = "") -> None:
        """Remove the parts of every artifact but one."""
        for path in self._folder.iterdir():
            if path != self._part(keep):
                self._disk.remove(path)

    def _part(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.part"

    def _receive(self, sha256: str, part: Path, have: int, length: int, stop: Callable[[], bool]) -> None:
        watch = _Speed(self._pace, self._clock)
        with closing(self._fetch(sha256, have)) as chunks:
            for offset, data in chunks:
                if offset != have or not data:
                    raise ServiceUnavailableError(
                        f"a chunk of {len(data)} bytes for byte {offset} came where {have} was due"
                    )
                if have + len(data) > length:
                    self._disk.remove(part)
                    raise TrustError(
                        f"the artifact goes on after its signed length of {length} bytes", _ENDLESS
                    )
                self._disk.append(part, data)
                have += len(data)
                if have == length:
                    return  # what a server may still send is not waited for
                watch.take(len(data))
                if stop():
                    raise ServiceUnavailableError("the download was interrupted")


class _Speed:
    """Measures a download, and raises when it is too slow."""

    def __init__(self, pace: DownloadPace, clock: Clock) -> None:
        self._pace = pace
        self._clock = clock
        self._begun = self._since = clock()
        self._bytes = 0

    def take(self, n: int) -> None:
        now = self._clock()
        self._bytes += n
        if now - self._begun > self._pace.total_s:
            raise TrustError(f"the download takes longer than {self._pace.total_s:.0f} s", _SLOW)
        waited = now - self._since
        if waited < self._pace.window_s:
            return
        if self._bytes < self._pace.min_bytes_per_s * waited:
            bound = f"{self._pace.min_bytes_per_s:.0f} bytes a second"
            raise TrustError(f"the download runs slower than {bound}", _SLOW)
        self._since, self._bytes = now, 0


_ENDLESS, _SLOW = Attack.ENDLESS_DATA, Attack.SLOW_RETRIEVAL

"""Reads samples from the standard input: JSON lines, or lines of a table whose first one names the columns.

A program that writes faster than the device senses waits: the pipe is its back-pressure.
"""

from __future__ import annotations

import csv
import os
import select
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

from edge_producer.sources.payloads import LARGEST_BYTES, PayloadReader
from edge_producer.sources.samples import Sample
from schemas.errors import SourceError
from schemas.profile import Profile

READ_BYTES = 64 * 1024


class InputLines:
    """The lines of a file descriptor, which survive the source that reads them.

    Args:
        handle: File descriptor; stays open.

    Attributes:
        names: Columns of the lines; empty: they are JSON, or none has come.
        problem: Why the lines cannot be read; empty: they can.
    """

    def __init__(self, handle: int = 0) -> None:
        self._handle = handle
        self._rest = b""
        self._over = False
        self.names: list[str] = []
        self.problem = ""
        self.begun = False

    def until(self, wake: int) -> Iterator[bytes | None]:
        """Lines without their end, None for one that is too long; ends once ``wake`` can be read.

        Raises:
            SourceError: The input cannot be read.
        """
        skipping = False
        while not self._over:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                yield None if skipping or len(line) > LARGEST_BYTES else line
                skipping = False
            if len(self._rest) > LARGEST_BYTES:
                self._rest, skipping = b"", True
            try:
                ready, _, _ = select.select([self._handle, wake], [], [])
                if wake in ready:
                    return
                read = os.read(self._handle, READ_BYTES)
            except OSError as exc:
                raise SourceError(f"the standard input cannot be read: {exc}") from exc
            self._over = not read
            self._rest += read
        last, self._rest = self._rest, b""
        if last or skipping:
            yield None if skipping else last


class StdinSource:
    """Samples of lines. Ends with the input.

    Args:
        profile: Channels, ``[source]``, and of ``[replay]`` the delimiter.
        lines: Where they come from.

    Raises:
        SourceError: The profile's time zone is unknown.
    """

    def __init__(self, profile: Profile, lines: InputLines) -> None:
        self._reader = PayloadReader(profile)
        self._profile = profile
        self._lines = lines
        self._wake, self._waker = os.pipe()
        self._closing = threading.Lock()

    @property
    def counts(self) -> Mapping[str, int]:
        """As ``PayloadReader.counts``; a payload is a line that is not blank."""
        return Counter(self._reader.counts)

    def close(self) -> None:
        """Let ``samples`` end."""
        if self._closing.acquire(blocking=False):  # never let go: it is closed once
            os.close(self._waker)  # the other end can be read from now on

    def samples(self) -> Iterator[Sample]:
        """A sample of each line that holds one.

        Raises:
            SourceError: The first line is neither JSON nor names a channel.
        """
        try:
            for line in self._lines.until(self._wake):
                if line is None:
                    self._refuse()
                elif line.strip():
                    yield from self._read(line)
        finally:
            self.close()
            os.close(self._wake)

    def _read(self, line: bytes) -> list[Sample]:
        lines = self._lines
        if not lines.begun:
            lines.begun = True
            if line.lstrip(b"\xef\xbb\xbf \t")[:1] not in (b"{", b"["):
                return self._begin_table(line)
        if lines.problem:
            raise SourceError(lines.problem)
        if not lines.names:
            return self._reader.payload(line.lstrip(b"\xef\xbb\xbf"))
        cells = self._cells(line)
        if cells is None or len(cells) != len(lines.names):
            self._refuse()
            return []
        self._reader.counts["payloads"] += 1
        sample = self._reader.record(dict(zip(lines.names, cells, strict=True)))
        return [] if sample is None else [sample]

    def _begin_table(self, line: bytes) -> list[Sample]:
        """Take the columns' names from the profile, or else from the first line."""
        source, lines = self._profile.source, self._lines
        own = source.channels
        wanted = {own[n].field or n if n in own else n for n in self._profile.channel_names}
        lines.names = list(source.header) or [c.strip() for c in self._cells(line) or []]
        needed = {source.time_field} - {""}
        if not wanted & set(lines.names) or not needed <= set(lines.names):
            lines.problem = (
                f"the first line of the standard input names {', '.join(map(repr, lines.names))}, but "
                f"{', '.join(map(repr, sorted(wanted | needed)))} are looked for; give a line of names, or "
                "name the columns in [source] header"
            )
            raise SourceError(lines.problem)
        return self._read(line) if source.header else []

    def _cells(self, line: bytes) -> list[str] | None:
        try:
            text = line.decode(self._profile.replay.encoding).lstrip("\ufeff").rstrip("\r")
            return next(csv.reader([text], delimiter=self._profile.replay.delimiter), [])
        except (UnicodeDecodeError, LookupError, csv.Error):
            return None

    def _refuse(self) -> None:
        self._reader.counts["payloads"] += 1
        self._reader.counts["malformed"] += 1

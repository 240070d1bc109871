"""A span of one partition of the log: what is read, and what was skipped."""

from __future__ import annotations

from typing import NamedTuple


class LogSpan(NamedTuple):
    """Offsets ``start`` to ``end`` (exclusive) of a partition.

    Attributes:
        topic: Without namespace.
    """

    topic: str
    partition: int
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}] offsets {self.start}..{self.end}"

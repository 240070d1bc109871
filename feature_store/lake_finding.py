"""One thing that `edgeloop lake check` found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class LakeFinding:
    """A file that is not as it must be.

    Attributes:
        file: Relative to the lake's folder.
        problem: What is wrong, in words.
        outcome: What it means and what to do; or how it was healed.
        healed: Nothing is left to do.
        rows: Rows that no query shows because of it, where known.
    """

    file: str
    problem: str
    outcome: str
    healed: bool = False
    rows: int | None = None


Progress = Callable[[str], None]
"""Is given a line now and then while a long step runs."""
Restore = Callable[[str, str], str | None]
"""Restores the data file of (table, path); returns how, in words, or None if it cannot."""

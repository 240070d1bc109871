"""A disk that is full for some writes, and then has room again; the process lives on."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from schemas.durable import Disk


class FullDisk(Disk):
    """Refuses a write when ``rule`` says so, ``times`` times; None: never."""

    def __init__(self) -> None:
        self.rule: Callable[[Path, bytes], bool] | None = None
        self.times = 0
        self.refused = 0

    def fill(self, rule: Callable[[Path, bytes], bool], times: int = 1) -> None:
        """Be full for so many writes that the rule picks."""
        self.rule, self.times, self.refused = rule, times, 0

    def write(self, path: Path, data: bytes, *, private: bool = False, sync: bool = True) -> None:
        if self.rule is not None and self.refused < self.times and self.rule(path, data):
            self.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        super().write(path, data, private=private, sync=sync)

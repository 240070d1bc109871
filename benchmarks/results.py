"""Results of scenarios: tables to read, rows for RESULTS.md."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
HEAD = """\
# Measured

One row per scenario and measured commit, newest last; `README.md` says how to read them. Spread is the
smallest and the largest run. `+` behind a commit: the tree held uncommitted changes.

| date | commit | machine | load | scenario | measure | median | spread | beside it, same run |
|---|---|---|---|---|---|---:|---|---|
"""


@dataclass(frozen=True)
class Measured:
    """The result of one permanent scenario.

    Attributes:
        scenario: Its name; never changes its meaning.
        measure: What was measured, with its unit.
        values: One per run.
        beside: Peers and limits, measured in the same runs.
        floor: The value that the project demands; empty: none.
        digits: Digits behind the point.
    """

    scenario: str
    measure: str
    values: tuple[float, ...]
    beside: str
    floor: str = ""
    digits: int = 0

    @property
    def median(self) -> str:
        """Median over the runs."""
        return self.text(statistics.median(self.values))

    @property
    def spread(self) -> str:
        """Smallest and largest run."""
        if len(self.values) == 1:
            return "one run"
        return f"{self.text(min(self.values))} - {self.text(max(self.values))} ({len(self.values)} runs)"

    def text(self, value: float) -> str:
        """A value as it is printed."""
        return f"{value:,.{self.digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned text; the first column is aligned left, the others right."""
    cells = [list(head), *([str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = []
    for first, *rest in cells:
        right = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *right]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def summary(measured: Sequence[Measured]) -> str:
    """The rows of RESULTS.md as text to read."""
    return "\n".join(
        f"{m.scenario}: {m.measure} {m.median} [{m.spread}]"
        + (f"; floor {m.floor}" if m.floor else "")
        + f"\n    {m.beside}"
        for m in measured
    )


def append(measured: Sequence[Measured], version: str, load: str, path: Path = RESULTS) -> None:
    """Add one row per scenario; ``version`` and ``load`` are those before the measurement."""
    if not path.exists():
        path.write_text(HEAD)
    date, where = f"{datetime.now(UTC):%Y-%m-%d %H:%M}", machine()
    with path.open("a") as out:
        for m in measured:
            floor = f" (floor {m.floor})" if m.floor else ""
            out.write(
                f"| {date} | {version} | {where} | {load} | {m.scenario} | {m.measure}{floor} "
                f"| {m.median} | {m.spread} | {m.beside} |\n"
            )


def commit() -> str:
    """Short id of the commit, ``+`` where tracked product files differ from it."""
    if not (short := _git("rev-parse", "--short", "HEAD")):
        return "unknown"
    rooms = ("schemas", "feature_store", "edge_producer", "stream_processors", "model_service", "infra")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *rooms, "benchmarks/*.py")
    return short + ("+" if changed else "")


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent.parent
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def machine() -> str:
    """Cores, processor, Python."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1] for line in info.read_text().splitlines() if "model name" in line]
        model = names[0].strip() if names else model
    return f"{os.cpu_count()} x {model}, Python {platform.python_version()}"


def load() -> str:
    """Load average of the machine over the last 1 and 5 minutes."""
    one, five, _ = os.getloadavg()
    return f"{one:.1f}/{five:.1f}"

"""What was decided about a file of measurements, on what evidence, at what cost: said before it lands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from infra.printing import count, instant, share

LOST_SHARE = 0.03
"""Share of rows, or of a column's cells, that may be lost before a person is asked."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision, and why."""

    what: str
    value: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """What is not certain, or costs too much.

    Attributes:
        what: A sentence.
        options: Options of the command line that decide it.
        excerpt: Cells or rows that show it.
    """

    what: str
    options: tuple[str, ...]
    excerpt: tuple[str, ...] = ()

    def line(self) -> str:
        """The doubt in one line."""
        shown = f" ({'; '.join(self.excerpt)})" if self.excerpt else ""
        return f"{self.what}{shown}: {' or '.join(self.options)} decides"


@dataclass(frozen=True, slots=True)
class ColumnRecord:
    """What became of one column.

    Attributes:
        use: ``channel``, ``time``, ``device`` or ``left out``.
        why: Why it is left out; for a channel how its numbers are read.
        cells: Number of cells by fate: ``read``, ``blank``, ``sentinel``, ``unreadable``, ``converted``.
        words: Cells that hold no number, with their counts.
    """

    name: str
    use: str
    why: str = ""
    unit: str = ""
    cells: Mapping[str, int] = field(default_factory=dict)
    words: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """Everything that was decided about a recording.

    Attributes:
        rows: Rows read, malformed ones included.
        used: Rows that are left to be replayed.
        dropped: The others, by cause; ``repeated`` ones equal another row in every value, so nothing is lost.
        recorded: Whether the file tells when its rows were measured.
        devices: Rows used by device.
        notes: What a reader should know and need not decide.
    """

    files: tuple[str, ...]
    rows: int
    used: int
    dropped: Mapping[str, int]
    first: datetime | None
    last: datetime | None
    recorded: bool
    rate_hz: float | None
    devices: Mapping[str, int]
    columns: tuple[ColumnRecord, ...]
    decisions: tuple[Decision, ...]
    doubts: tuple[Doubt, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The value of ``reading`` in the output of `profile init --json` and `replay --json`."""
        return {
            "files": list(self.files),
            "rows": {"read": self.rows, "used": self.used, "dropped": dict(self.dropped)},
            "time": {
                "first": None if self.first is None else self.first.isoformat(),
                "last": None if self.last is None else self.last.isoformat(),
                "recorded": self.recorded,
                "rate_hz": self.rate_hz,
            },
            "devices": dict(self.devices),
            "columns": [asdict(c) for c in self.columns],
            "decisions": [asdict(d) for d in self.decisions],
            "doubts": [asdict(d) for d in self.doubts],
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """The record for a terminal."""
        dropped = ", ".join(f"{count(n)} {cause}" for cause, n in self.dropped.items() if n) or "none dropped"
        rate = "" if self.rate_hz is None else f", {self.rate_hz:.6g} Hz"
        span = f"{instant(self.first)} to {instant(self.last)}{rate}"
        lines = [
            f"{', '.join(self.files[:3])}{' …' if len(self.files) > 3 else ''}: "
            f"{count(self.rows, 'row')} read, {count(self.used)} used; {dropped}",
            f"  time: {span}" if self.recorded else f"  time: NOT IN THE FILE; placed at {span}",
        ]
        if len(self.devices) > 1:
            shown = ", ".join(f"{d} {count(n)}" for d, n in list(self.devices.items())[:5])
            lines.append(
                f"  devices: {count(len(self.devices))} ({shown}{' …' if len(self.devices) > 5 else ''})"
            )
        lines += [f"  {d.what}: {d.value}{f' ({d.evidence})' if d.evidence else ''}" for d in self.decisions]
        for column in self.columns:
            lost = {k: n for k, n in column.cells.items() if n and k != "read"}
            if column.use == "channel" and (lost or column.why):
                total = sum(n for k, n in column.cells.items() if k != "converted")
                parts = [f"{count(n)} {k} ({share(n / max(total, 1))})" for k, n in lost.items()]
                words = f"; such as {', '.join(map(repr, list(column.words)[:3]))}" if column.words else ""
                lines.append(
                    f"  {column.name}: {', '.join([*parts, *([column.why] if column.why else [])])}{words}"
                )
        lines += [f"  note: {note}" for note in self.notes]
        return lines

"""The tally of a campaign: one line a kind, printed and kept in `docs/reliability.md`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.faults.campaign import Result
from tests.faults.fault_kinds import KINDS

BEGIN, END = "<!-- tally of make faults: begin -->", "<!-- tally of make faults: end -->"
_HEAD = "| layer | kind | runs | faults | lost | twice | stuck | wrong | recovered after, s |"
_RULE = "|---|---|---|---|---|---|---|---|---|"
_ROW = re.compile(r"^\| (\w+) \| ([\w-]+) \|((?: *\d+ *\|){6}) *([\d.]+)(?: to ([\d.]+))? *\|$")


@dataclass(frozen=True)
class Line:
    """Counts of one kind."""

    runs: int = 0
    faults: int = 0
    lost: int = 0
    twice: int = 0
    stuck: int = 0
    wrong: int = 0
    quickest_s: float = 0.0
    slowest_s: float = 0.0

    def plus(self, other: Line) -> Line:
        """Both together."""
        if not self.runs:
            return other
        counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        return Line(*counts, min(self.quickest_s, other.quickest_s), max(self.slowest_s, other.slowest_s))

    @property
    def counts(self) -> tuple[int, ...]:
        """The six counts in the order of the table."""
        return (self.runs, self.faults, self.lost, self.twice, self.stuck, self.wrong)


def lines_of(results: Iterable[Result]) -> dict[str, Line]:
    """Lines by kind."""
    lines: dict[str, Line] = {}
    for r in results:
        f = r.finding
        one = Line(1, r.faults, f.lost, f.twice, f.stuck, f.wrong, f.recovered_s, f.recovered_s)
        lines[r.run.kind.name] = lines.get(r.run.kind.name, Line()).plus(one)
    return lines


def render(lines: Mapping[str, Line]) -> str:
    """The table in Markdown, with a line of totals."""
    rows = [_HEAD, _RULE]
    for kind in KINDS.values():
        if line := lines.get(kind.name):
            counts = " | ".join(map(str, line.counts))
            rows.append(
                f"| {kind.layer} | {kind.name} | {counts} | {line.quickest_s:.1f} to {line.slowest_s:.1f} |"
            )
    total = [sum(c) for c in zip(*(line.counts for line in lines.values()), strict=True)]
    slowest = [line.slowest_s for line in lines.values()]
    middle = f"median of the slowest {median(slowest):.1f}"
    rows.append(f"| **all** | {len(lines)} kinds | {' | '.join(map(str, total))} | {middle} |")
    return "\n".join(rows)


def table(results: Sequence[Result]) -> str:
    """The table of these results."""
    return render(lines_of(results))


def read_lines(text: str) -> dict[str, Line]:
    """Lines that a document holds."""
    found = {}
    for row in text.splitlines():
        if match := _ROW.match(row):
            _layer, name, counts, low, high = match.groups()
            numbers = [int(n) for n in counts.replace("|", " ").split()]
            found[name] = Line(*numbers, float(low), float(high or low))
    return found


def merge_into(path: Path, results: Sequence[Result]) -> None:
    """Add the results to the tally between the document's two markers.

    Raises:
        ValueError: The document has no markers.
    """
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no place for the tally: add {BEGIN} and {END}")
    lines = read_lines(old)
    for name, line in lines_of(results).items():
        lines[name] = lines.get(name, Line()).plus(line)
    path.write_text(f"{before}{BEGIN}\n{render(lines)}\n{END}{after}")

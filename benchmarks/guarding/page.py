"""The figures of docs/rollouts.md, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmarks.guarding.cell_result import CellResult
from benchmarks.guarding.simulated_fleet import GOOD, GROUPS, KINDS, RATES, Cell

BEGIN, END = "<!-- figures: make guarding -->", "<!-- end of figures -->"


def figures(results: Mapping[str, CellResult]) -> str:
    """Both tables; a cell that was not simulated says so."""
    good = ("model", "devices", "alarms a day", "completed", "a person asked", "aborted", "at most", "days")
    bad = (*good[:3], "aborted", "a person asked", "past a quarter", "at most", "past the canaries", "days")
    lines = ["Right models: none may be aborted.", *_head_lines(good)]
    lines += [_good(cell, results.get(cell.name)) for cell in _cells(GOOD)]
    lines += ["", "Wrong models: none may get past a quarter of the group.", *_head_lines(bad)]
    lines += [_bad(cell, results.get(cell.name)) for cell in _cells(k for k in KINDS if k not in GOOD)]
    return "\n".join(lines) + "\n"


def write(page: str, results: Mapping[str, CellResult]) -> str:
    """The page with these figures in the place of its own."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{figures(results)}\n{END}{rest.partition(END)[2]}"


def _cells(kinds: Iterable[str]) -> list[Cell]:
    wanted = list(kinds)
    return [Cell(k, n, rate) for k in KINDS if k in wanted for n in sorted(GROUPS) for rate in RATES]


def _head_lines(heads: tuple[str, ...]) -> list[str]:
    return ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]


def _head(cell: Cell) -> str:
    return f"| {cell.kind} | {cell.devices} | {cell.rate:g} |"


def _good(cell: Cell, found: CellResult | None) -> str:
    if found is None:
        return f"{_head(cell)} not simulated | | | | |"
    n = found.rollouts
    return (
        f"{_head(cell)} {found.completed} of {n} | {found.asked} | {found.aborted} |"
        f" {found.upper(found.aborted):.2%} | {_days(found)} |"
    )


def _bad(cell: Cell, found: CellResult | None) -> str:
    if found is None:
        return f"{_head(cell)} not simulated | | | | | |"
    n = found.rollouts
    return (
        f"{_head(cell)} {found.aborted} of {n} | {found.asked} | {n - found.early} |"
        f" {found.upper(n - found.early):.2%} | {n - found.in_canary} | {_days(found)} |"
    )


def _days(found: CellResult) -> str:
    return f"{_span(found.median_days)}, {_span(found.late_days)}"


def _span(days: float) -> str:
    if days >= 1:
        return f"{days:.1f} d"
    return f"{days * 24:.1f} h" if days * 24 >= 1 else f"{days * 1440:.1f} min"

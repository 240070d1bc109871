"""Times of a wall clock as UTC: the order of rows tells which pass of an hour it is that happens twice. Pure.

A clock that is set back shows an hour twice. In a file whose rows stand in the order in which they were
measured, the times of that hour rise, fall once, and rise again: what follows the fall is the second pass.
Where no row tells, it is doubtful and asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.cells import wall_offsets
from infra.printing import count, instant
from infra.reading.decision_record import Decision, Doubt
from infra.reading.time_forms import Bools, Ints
from schemas.instants import from_us

HOUR_US = 3_600_000_000
_RARE = 1e-3
"""Share of the steps that may fall in a file whose rows stand in the order in which they were measured."""
_NEVER_SET = ("Etc/GMT-1", "Etc/GMT+5")
"""Zones without daylight saving time, as examples."""
_ZONES = (
    "Europe/Berlin", "Europe/London", "Europe/Helsinki", "America/New_York", "America/Chicago",
    "America/Denver", "America/Los_Angeles", "America/Halifax", "America/Sao_Paulo", "America/Santiago",
    "Australia/Sydney", "Pacific/Auckland", "Asia/Jerusalem", "Asia/Tehran", "Africa/Cairo",
)  # fmt: skip
"""One zone of each kind that sets its clock."""

Rows = NDArray[np.int64]


@dataclass
class LocalTimes:
    """Times in UTC, and what is to be said about them."""

    us: Ints
    decisions: list[Decision] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def in_utc(us: Ints, naive: Bools, groups: Iterable[Rows], zone: str, *, said: bool) -> LocalTimes:
    """Wall clock times as UTC.

    Args:
        us: Times; wall clock where ``naive``, else UTC already.
        naive: Which of them can be read and carry no zone.
        groups: Indices of each device's rows that have a time, in the file's order.
        zone: IANA zone of the wall clock.
        said: Whether a person named it.

    Raises:
        SourceError: The zone is unknown.
    """
    first, second = wall_offsets(us, naive, zone)
    twice, never = first > second, first < second
    late = np.zeros(len(us), dtype=np.bool_)
    made = LocalTimes(us)
    open_rows = 0
    ordered = [_in_order(us, rows) for rows in groups]
    if twice.any():
        for rows in ordered:
            open_rows += _second_passes(us, twice, rows, late)
    made.us = np.where(naive, us - np.where(late, second, first), us)
    shown = _shown(us, twice)
    if late.any():
        what = f"{count(int(twice.sum()))} local times happen twice in {zone}{shown}"
        found = f"{count(int(late.sum()))} of them are of the second pass"
        made.decisions.append(Decision("clock set back", f"{what}; {found}", "the times fall there once"))
    if open_rows:
        what = f"{count(open_rows)} local times happen twice in {zone}{shown}, and the rows pass them once"
        made.doubts.append(Doubt(what, _options("the first pass")))
    if never.any():
        what = f"{count(int(never.sum()))} local times never happen in {zone}{_shown(us, never)}"
        made.doubts.append(Doubt(what, _options("an hour later")))
    if not said and not twice.any() and not never.any():
        _look_for_a_change(us, naive, ordered, made)
    return made


def _options(forced: str) -> tuple[str, ...]:
    zones = " or ".join(_NEVER_SET)
    return (f"--timezone of a clock that is not set (such as {zones})", f"--force ({forced})")


def _in_order(us: Ints, rows: Rows) -> Rows:
    """Rows in the order in which they were measured, as far as the file tells."""
    steps = np.diff(us[rows])
    return rows[::-1] if (steps < 0).sum() > (steps > 0).sum() else rows


def _second_passes(us: Ints, twice: Bools, rows: Rows, late: Bools) -> int:
    """Mark one device's rows of a second pass in ``late``; returns how many rows leave it open."""
    times = us[rows]
    usual = _usual_step(times)
    places = np.flatnonzero(twice[rows])
    left = 0
    for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
        inside = times[run]
        falls = np.flatnonzero(np.diff(inside) < 0) + 1
        if not len(falls) and len(run) == 2 and usual >= HOUR_US // 2 and inside[0] == inside[1]:
            falls = np.array([1])
        if len(falls) == 1:
            late[rows[run[falls[0] :]]] = True
        elif len(falls) == 0 and run[0] == 0 and run[-1] < len(rows) - 1:
            late[rows[run]] = True  # nothing came before: had it been the first pass, the times would fall
        elif len(falls) or (run[-1] < len(rows) - 1 and usual < HOUR_US):
            left += len(run)
    return left


def _look_for_a_change(us: Ints, naive: Bools, ordered: Sequence[Rows], made: LocalTimes) -> None:
    """Doubt times that fall by an hour where some zone sets its clock back, though none was named."""
    at: list[int] = []
    again = True
    for rows in ordered:
        times = us[rows]
        steps = np.diff(times)
        usual = _usual_step(times)
        hourly = usual >= HOUR_US // 2
        fall = (steps <= 0) if hourly else (steps < 0)
        if not fall.any() or fall.sum() > max(2, _RARE * len(steps)):
            continue
        off = 0.0 if hourly else max(1.5 * usual, 1e6)
        back = fall & naive[rows][1:] & (np.abs(usual - steps - HOUR_US) <= off)
        at += [int(t) for t in times[1:][back]]
        again &= all(np.isin(times[i + 1 :], times[: i + 1]).all() for i in np.flatnonzero(back))
    if not at:
        return
    where = np.unique(np.array(at, dtype=np.int64))
    zones = [z for z in _ZONES if _set_back(where, z)]
    what = f"the times step back by an hour at {instant(from_us(int(where[0])))}"
    if zones:
        options = tuple(f"--timezone {z}" for z in zones[:3])
        made.doubts.append(Doubt(f"{what}, as a clock does that is set back", (*options, "--timezone UTC")))
    elif not again:  # what repeats to its end is the file, joined with a part of itself
        made.notes.append(f"{what}, where no zone sets its clock: rows of one time count as duplicate")


def _set_back(us: Ints, zone: str) -> bool:
    first, second = wall_offsets(us, np.ones(len(us), dtype=np.bool_), zone)
    return bool((first > second).all())


def _usual_step(times: Ints) -> float:
    steps = np.abs(np.diff(times))
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else 0.0


def _shown(us: Ints, which: Bools) -> str:
    return f" (from {instant(from_us(int(us[which].min())))})" if which.any() else ""

"""Puts rows in the order of their times: sorts, finds repeats, spreads rows that share a time. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.reading.time_forms import Bools, Ints

_ALIKE = 0.8
_SECOND_US = 1_000_000
_OFTEN = 1.2
"""Rows a second from which rows that share one are no slips, where times are written in whole seconds."""
_PILED = 5
"""Times the usual number of rows of a time from which the clock stood still."""
_STRAY = 0.01
"""Share of the rows with another row's time that may stand elsewhere in the file."""


@dataclass(frozen=True, slots=True, eq=False)
class RowOrder:
    """Rows in the order of their times.

    Attributes:
        places: Positions of the rows, sorted by time; rows of one time in the file's order.
        us: Their times, spread where several rows share one.
        words: How the rows stood in the file: ``rising``, ``newest first`` or ``mixed``.
        spread: How many rows share each time, where these were spread; empty: none were.
    """

    places: NDArray[np.int64]
    us: Ints
    words: str
    spread: str = ""


def order_rows(us: Ints) -> RowOrder:
    """The order of one device's rows."""
    steps = np.diff(us)
    words = "rising"
    if (steps < 0).any():
        words = "newest first" if (steps > 0).sum() <= 0.02 * (steps < 0).sum() else "mixed"
    if words == "newest first":
        places = len(us) - 1 - np.argsort(us[::-1], kind="stable")
    else:
        places = np.argsort(us, kind="stable") if (steps < 0).any() else np.arange(len(us))
    return RowOrder(places, us[places], words)


def spread_rows(order: RowOrder, identical: Bools) -> RowOrder:
    """Spread rows over the time they share: evenly where each has about as many, else each by its own count.

    Only rows that stand side by side in the file are spread: others were not measured one after the other.

    Args:
        order: Sorted rows.
        identical: Which of them equal the row before in every value.
    """
    us = order.us
    new = np.diff(us, prepend=us[:1] - 1) != 0
    starts = np.flatnonzero(new)
    runs = np.diff(starts, append=len(us))
    if len(runs) < 3 or new.all():
        return order
    step = float(np.median(np.diff(us[starts])))
    apart = ~new & (np.abs(np.diff(order.places, prepend=order.places[:1])) != 1)
    usual = int(np.median(runs))
    seconds = step == _SECOND_US and len(us) >= _OFTEN * len(runs)
    several = usual >= 2 or seconds
    if not several or apart.sum() > _STRAY * (~new).sum() or identical[~new].mean() > 0.5:
        return order
    if runs.max() > _PILED * max(usual, 2):
        return order
    alike = float((np.abs(runs[1:-1] - usual) <= max(1, 0.1 * usual)).mean()) >= _ALIKE and usual >= 2
    whole = ~np.repeat(np.logical_or.reduceat(apart, starts), runs)
    share = _even_share(runs, usual) if alike else _own_share(runs)
    width = np.minimum(np.append(np.diff(us[starts]), step), step)
    spread = us + np.round(np.where(whole, share * (step if alike else np.repeat(width, runs)), 0)).astype(
        np.int64
    )
    few, many = int(runs.min()), int(runs.max())
    if alike:
        rate = usual * 1e6 / step
        text = f"{usual} rows share each time, {step / 1e6:g} s apart: spread evenly, {rate:g} a second"
    else:
        text = f"{few} to {many} rows share a time, {step / 1e6:g} s apart: each spread by its own count"
    return RowOrder(order.places, spread, order.words, text)


def _own_share(runs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where within its time each row stands, 0 to 1, by the rows that share it."""
    nth = np.arange(runs.sum()) - np.repeat(np.cumsum(runs) - runs, runs)
    return nth / np.repeat(runs, runs)


def _even_share(runs: NDArray[np.int64], usual: int) -> NDArray[np.float64]:
    """The same where about as many rows share each time: the first and the last one may be cut off."""
    sizes = np.repeat(runs, runs)
    nth = np.arange(len(sizes)) - np.repeat(np.cumsum(runs) - runs, runs)
    run = np.repeat(np.arange(len(runs)), runs)
    # The first time may be joined halfway: its rows are the last of it.
    late = np.where((run == 0) & (sizes < usual), usual - sizes, 0)
    share = (nth + late) / np.maximum(sizes + late, 1)
    return np.where((run == len(runs) - 1) & (sizes < usual), nth / usual, share)

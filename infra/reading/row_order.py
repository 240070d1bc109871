"""Puts rows in the order of their times: sorts, finds repeats, spreads rows that share a time. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.reading.time_forms import Bools, Ints

_ALIKE = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class RowOrder:
    """Rows in the order of their times.

    Attributes:
        places: Positions of the rows, sorted by time; rows of one time in the file's order.
        us: Their times, spread where several rows share one.
        words: How the rows stood in the file: ``rising``, ``newest first`` or ``mixed``.
        spread: Rows that share each time, where these were spread; 0: none were.
        evidence: Why they were spread; empty: they were not.
    """

    places: NDArray[np.int64]
    us: Ints
    words: str
    spread: int = 0
    evidence: str = ""


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
    """Spread rows over the time they share, if about the same number shares each time.

    Args:
        order: Sorted rows.
        identical: Which of them equal the row before in every value.
    """
    us = order.us
    starts = np.flatnonzero(np.diff(us, prepend=us[:1] - 1) != 0)
    runs = np.diff(starts, append=len(us))
    if len(runs) < 3 or np.median(runs) < 2:
        return order
    usual = int(np.median(runs))
    inner = runs[1:-1]
    alike = float((np.abs(inner - usual) <= max(1, 0.1 * usual)).mean())
    repeated = float(identical[np.diff(us, prepend=us[:1] - 1) == 0].mean())
    if alike < _ALIKE or repeated > 0.5:
        return order
    step = float(np.median(np.diff(us[starts])))
    sizes = np.repeat(runs, runs)
    nth = np.arange(len(us)) - np.repeat(starts, runs)
    # The first time may be joined halfway: its rows are the last of it.
    late = np.where((np.repeat(np.arange(len(runs)), runs) == 0) & (sizes < usual), usual - sizes, 0)
    share = (nth + late) / np.maximum(sizes + late, 1)
    short = (np.repeat(np.arange(len(runs)), runs) == len(runs) - 1) & (sizes < usual)
    share = np.where(short, nth / usual, share)
    spread = us + np.round(share * step).astype(np.int64)
    rate = usual * 1e6 / step
    text = f"{usual} rows share each time, {step / 1e6:g} s apart: spread evenly, {rate:g} a second"
    return RowOrder(order.places, spread, order.words, usual, text)

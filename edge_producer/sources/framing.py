"""Cuts rows with times into windows: order, duplicates, gaps. Pure; each row is accounted for.

``samples + duplicate + out_of_order`` is the number of rows handed in; ``in_windows + outside_windows`` is
the number of samples, once ``finish`` was called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edge_producer.window import Samples
from schemas.profile import Sampling

GAP_STEPS = 1.5
CROWDED_STEPS = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Framed:
    """A window before it has a device.

    Attributes:
        samples: Shape (W, C).
        end_us: Time of the last sample, microseconds since 1970.
    """

    samples: Samples
    end_us: int


class Framer:
    """Cuts one device's samples into windows.

    A row with the time of the row before it is a duplicate: the first is kept. A row with an earlier time is
    out of order and not used, because its window is complete already. A step longer than 1.5 nominal ones is
    a gap. In gaps of up to ``max_gap_steps``, and never more than a window, the lost samples are filled in as
    missing; no window spans a longer gap.

    Args:
        sampling: Rate, window and hop.
        max_gap_steps: As ``Replay.max_gap_steps``.
        channels: Number of channels.
        dtype: Of the samples.
    """

    def __init__(
        self, sampling: Sampling, max_gap_steps: float, channels: int, dtype: DTypeLike = np.float32
    ) -> None:
        self._dtype = dtype
        self._sampling = sampling
        self._step_us = 1e6 / sampling.rate_hz
        self._longest = max(GAP_STEPS, min(max_gap_steps, sampling.window_samples))
        self._newest: int | None = None
        self._channels = channels
        self._clear()
        names = ("samples", "duplicate", "out_of_order", "crowded", "gaps", "breaks", "filled")
        self.counts: Counter[str] = Counter(dict.fromkeys((*names, "in_windows", "outside_windows"), 0))

    def push(self, us: NDArray[np.int64], values: Samples) -> Iterator[Framed]:
        """Take rows in the order of the recording; yields the windows that they complete.

        Args:
            us: Times, shape (n,).
            values: Shape (n, C).
        """
        self._settle()
        if self._is_regular(us):
            self._newest = int(us[-1])
            self.counts["samples"] += len(us)
            yield from self._append(us, values, np.ones(len(us), dtype=np.bool_))
            return
        fresh = self._in_order(us)
        us, values = us[fresh], values[fresh]
        if not len(us):
            return
        before = us[0] if self._newest is None else self._newest
        steps = np.diff(us, prepend=before) / self._step_us
        if self._newest is not None or len(us) > 1:
            later = steps if self._newest is not None else steps[1:]
            self.counts["crowded"] += int((later < CROWDED_STEPS).sum())
        self._newest = int(us[-1])
        self.counts["samples"] += len(us)
        self.counts["gaps"] += int((steps > GAP_STEPS).sum())
        breaks = np.flatnonzero(steps > self._longest)
        self.counts["breaks"] += len(breaks)
        for part in np.split(np.arange(len(us)), breaks):
            # The first part continues the samples at hand; each other part starts after a break.
            if len(part) and part[0] in breaks:
                self.finish()
            if len(part):
                yield from self._extend(us[part], values[part], steps[part])

    def push_row(self, us: int, values: Sequence[float]) -> Iterator[Framed]:
        """Take a single row, as live sources give them: as ``push``, in a fraction of the time."""
        if self._newest is None or self._skip or not self._is_a_step(us - self._newest):
            yield from self.push(np.array([us], dtype=np.int64), np.array([values], dtype=self._dtype))
            return
        self._newest = us
        self.counts["samples"] += 1
        self._waiting.append((us, values))
        if not self.lacks:
            self._settle()
            yield from self._complete()

    def _is_a_step(self, step_us: float) -> bool:
        return CROWDED_STEPS * self._step_us <= step_us <= GAP_STEPS * self._step_us

    def _is_regular(self, us: NDArray[np.int64]) -> bool:
        """Whether rows go on from those before with nothing odd between: most do, and cost a third then."""
        if self._newest is None or not len(us):
            return False
        steps = np.diff(us, prepend=self._newest)
        return bool(steps.min() >= CROWDED_STEPS * self._step_us and steps.max() <= GAP_STEPS * self._step_us)

    @property
    def lacks(self) -> int:
        """Number of samples in order that complete the next window."""
        return self._skip + self._sampling.window_samples - len(self._us) - len(self._waiting)

    def preview(self) -> Framed | None:
        """The next window, if its last sample came on time and were as the one before; changes nothing.

        None: more than one sample is missing, or there is none before it.
        """
        rows = [values for _, values in self._waiting] or self._values[-1:].tolist()
        if self.lacks != 1 or self._newest is None or not rows:
            return None
        twin = copy(self)
        twin.counts = Counter(self.counts)
        twin._waiting = list(self._waiting)  # noqa: SLF001  (of the same class)
        return next(twin.push_row(self._newest + round(self._step_us), rows[-1]), None)

    def finish(self) -> None:
        """Drop samples that are in no window, because the recording ends or breaks here."""
        self._settle()
        rest = self._real[self._covered :]
        self.counts["outside_windows"] += int(rest.sum())
        self._clear()

    def _clear(self) -> None:
        self._us = np.empty(0, dtype=np.int64)
        self._values: Samples = np.empty((0, self._channels), dtype=self._dtype)
        self._real = np.empty(0, dtype=np.bool_)
        self._waiting: list[tuple[int, Sequence[float]]] = []
        self._covered = 0
        self._skip = 0

    def _settle(self) -> None:
        """Put single rows behind the others; none of them completes a window that is not looked for next."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._us = np.concatenate([self._us, np.array([us for us, _ in waiting], dtype=np.int64)])
            values = np.array([values for _, values in waiting], dtype=self._dtype)
            self._values = np.concatenate([self._values, values])
            self._real = np.concatenate([self._real, np.ones(len(waiting), dtype=np.bool_)])

    def _in_order(self, us: NDArray[np.int64]) -> NDArray[np.bool_]:
        # Compare each row with the newest time before it, over calls too.
        floor = np.iinfo(np.int64).min if self._newest is None else self._newest
        newest = np.maximum.accumulate(np.concatenate([[floor], us]))[:-1]
        self.counts["duplicate"] += int((us == newest).sum())
        self.counts["out_of_order"] += int((us < newest).sum())
        return np.asarray(us > newest)

    def _extend(self, us: NDArray[np.int64], values: Samples, steps: NDArray[np.float64]) -> Iterator[Framed]:
        lost = np.where((steps > GAP_STEPS) & (steps <= self._longest), np.round(steps) - 1, 0)
        yield from self._append(*self._filled(us, values, lost.astype(np.int64)))

    def _append(self, us: NDArray[np.int64], values: Samples, real: NDArray[np.bool_]) -> Iterator[Framed]:
        skipped = min(self._skip, len(us))
        self._skip -= skipped
        self.counts["outside_windows"] += int(real[:skipped].sum())
        us, values, real = us[skipped:], values[skipped:], real[skipped:]
        self._us = np.concatenate([self._us, us])
        self._values = np.concatenate([self._values, values])
        self._real = np.concatenate([self._real, real])
        yield from self._complete()

    def _filled(
        self, us: NDArray[np.int64], values: Samples, lost: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], Samples, NDArray[np.bool_]]:
        """The rows, with ``lost[i]`` missing samples inserted before row i."""
        if not lost.any():
            return us, values, np.ones(len(us), dtype=np.bool_)
        self.counts["filled"] += int(lost.sum())
        position = np.arange(len(us)) + np.cumsum(lost)
        size = len(us) + int(lost.sum())
        real = np.zeros(size, dtype=np.bool_)
        real[position] = True
        samples: Samples = np.full((size, values.shape[1]), np.nan, dtype=self._dtype)
        samples[position] = values
        # An inserted sample gets its time by counting nominal steps back from the next real row.
        following = np.searchsorted(position, np.arange(size))
        behind = position[following] - np.arange(size)
        return us[following] - np.round(behind * self._step_us).astype(np.int64), samples, real

    def _complete(self) -> Iterator[Framed]:
        width, hop = self._sampling.window_samples, self._sampling.hop_samples
        first = 0
        while first + width <= len(self._us):
            end = first + width
            new = max(first, self._covered)
            self.counts["outside_windows"] += int(self._real[self._covered : first].sum())
            self.counts["in_windows"] += int(self._real[new:end].sum())
            self._covered = end
            yield Framed(self._values[first:end], int(self._us[end - 1]))
            first += hop
        self._drop(first)

    def _drop(self, first: int) -> None:
        """Drop the samples before the next window; if it begins behind all of them, skip the rest."""
        kept = min(first, len(self._us))
        self.counts["outside_windows"] += int(self._real[self._covered : kept].sum())
        self._us, self._values, self._real = self._us[kept:], self._values[kept:], self._real[kept:]
        self._covered = max(self._covered - kept, 0)
        self._skip += first - kept

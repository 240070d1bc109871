"""Mergeable summaries of everything that a device sensed, filtered rows included.

Per (device, boot, model, feature set, feature, UTC-aligned period, part): count, mean, spread, range, counts
on the bundle's bin edges and, where the profile asks for it, a KLL sketch. One batch holds one period of all
features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from datasketches import kll_floats_sketch
from numpy.typing import NDArray

from edge_producer.sensed_rows import Row
from schemas.columns import Kind, RowLayout
from schemas.envelope import encode_rows
from schemas.errors import DecodeError
from schemas.lz4_block import unpack
from schemas.packed_rows import is_of, is_packed, unpack_rows
from schemas.packed_schemas import summaries_of
from schemas.row_batch import RowBatch, binaries, fixed, lists, texts
from schemas.row_schemas import SUMMARY_LAYOUT

SKETCH_K = 200
"""KLL accuracy: 1.33 % normalised rank error (Apache DataSketches)."""
BLOCK_ROWS = 256
MERGED_PART = 1_000_000
"""Number of the first part of periods that were merged because the spool was full."""
FIRST_SHADOW_PART = -1
"""Parts of a shadow count down from here, so that they differ from those of the same model in force."""

_M2 = next(n for n, column in enumerate(SUMMARY_LAYOUT.columns) if column.name == "m2")
_SMALLEST_SQUARES = 1e-30
"""Below, a float32 has fewer bits."""

Doubles = NDArray[np.float64]


class Summary(NamedTuple):
    """One period of all features, encoded.

    Attributes:
        part: Number of this part of the period; a period gets another one when event time steps back.
        value: Batch in ``packed_summary_layout``, as ``encode_rows`` gives it; in ``SUMMARY_LAYOUT`` if
            release 0.2.0 made it.
        raw_bytes: Length of the batch before compression.
    """

    boot_id: int
    model_version: str
    period_us: int
    period_s: float
    part: int
    value: bytes
    raw_bytes: int

    def is_of(self, layout: RowLayout) -> bool:
        """Whether the rows are of this layout; those of release 0.2.0 say it themselves."""
        try:
            raw = unpack(self.value, self.raw_bytes)
        except DecodeError:
            return False
        return not is_packed(raw) or is_of(raw, layout)

    def batch(self, layout: RowLayout) -> RowBatch:
        """The rows, one per feature, in the packed layout of their profile.

        Raises:
            ValueError: They are of another profile, or damaged.
        """
        raw = unpack(self.value, self.raw_bytes)
        if is_packed(raw):
            return unpack_rows(raw, layout)
        earlier = RowBatch.deserialize(raw, SUMMARY_LAYOUT)
        return RowBatch(layout, earlier.columns, earlier.num_rows)


@dataclass(slots=True)
class _Tally:
    """Moments and sketches of all columns over one period."""

    n: NDArray[np.int64]
    missing: NDArray[np.int64]
    mean: Doubles
    m2: Doubles
    low: Doubles
    high: Doubles
    sketches: list[kll_floats_sketch] | None
    bins: list[NDArray[np.int64] | None]

    @classmethod
    def empty(cls, edges: Sequence[Doubles | None], *, sketches: bool) -> _Tally:
        """A tally without rows, with bins where there are edges, and with sketches if they are asked for."""
        f = len(edges)
        return cls(
            np.zeros(f, np.int64),
            np.zeros(f, np.int64),
            np.zeros(f),
            np.zeros(f),
            np.full(f, np.inf),
            np.full(f, -np.inf),
            [kll_floats_sketch(SKETCH_K) for _ in edges] if sketches else None,
            [None if e is None else np.zeros(len(e) + 1, np.int64) for e in edges],
        )

    def add(self, block: Doubles, edges: Sequence[Doubles | None]) -> None:
        """Add rows: shape (r, f), not finite means missing.

        Merging moments follows Chan, Golub and LeVeque (1979).
        """
        finite = np.isfinite(block)
        n = finite.sum(axis=0)
        values = np.where(finite, block, 0.0).astype(np.float64)
        count = np.maximum(n, 1)
        mean = values.sum(axis=0) / count
        m2 = (np.where(finite, values - mean, 0.0) ** 2).sum(axis=0)
        total = np.maximum(self.n + n, 1)
        delta = mean - self.mean
        self.m2 += m2 + delta**2 * self.n * n / total
        self.mean += delta * n / total
        self.n += n
        self.missing += len(block) - n
        self.low = np.minimum(self.low, np.where(finite, block, np.inf).min(axis=0))
        self.high = np.maximum(self.high, np.where(finite, block, -np.inf).max(axis=0))
        for column, inner in enumerate(edges):
            good = np.ascontiguousarray(block[finite[:, column], column])
            if good.size:
                if self.sketches is not None:
                    self.sketches[column].update(good.astype(np.float32))
                self._bin(column, good, inner)

    def _bin(self, column: int, values: Doubles, inner: Doubles | None) -> None:
        counts = self.bins[column]
        if counts is not None and inner is not None:
            counts += np.bincount(np.searchsorted(inner, values, side="right"), minlength=len(counts))


class Summarizer:
    """One device's summaries: the open period and those that closed since the last ``take_closed``.

    Args:
        device_id: Written into every summary.
        featureset: Feature set and version, ``name@n``.
        feature_names: Columns of ``Row.features``, in order.
        period_s: Length of a period.
        bin_edges: Ascending edges by feature name (``score`` too), where the bundle states some.
        first_part: Number of the first part; ``FIRST_SHADOW_PART`` for a shadow.
        sketches: Whether each feature gets a sketch; a profile asks for them.
        layout: ``packed_summary_layout`` of the device's profile; None: one of these features alone.
    """

    def __init__(  # noqa: PLR0913  (what its rows say, and how)
        self,
        device_id: str,
        featureset: str,
        feature_names: Sequence[str],
        period_s: float,
        bin_edges: Mapping[str, Doubles],
        first_part: int = 0,
        *,
        sketches: bool = False,
        layout: RowLayout | None = None,
    ) -> None:
        self._names = [*feature_names, "score"]
        self._sketches = sketches
        self._layout = layout or summaries_of("", featureset, tuple(feature_names))
        self._period_s = period_s
        self._edges = self._edges_of(bin_edges)
        self._block = np.empty((BLOCK_ROWS, len(self._names)))
        self._filled = 0
        self._key: tuple[int, str, int] | None = None
        self._newest_us = -(2**62)
        self._part = first_part
        self._step = 1 if first_part >= 0 else -1
        self._tally = self._empty()
        self._closed: list[Summary] = []
        width = len(self._names)
        self._constants = {
            "device_id": texts([device_id] * width),
            "featureset": texts([featureset] * width),
            "feature": texts(self._names),
            "period_s": fixed(Kind.FLOAT64, np.full(width, period_s)),
        }

    def add(self, row: Row) -> None:
        """Add a sensed row; a row of another period, boot or model closes the open period."""
        slot = self._slot((row.boot_id, row.model_version, row.period_us))
        slot[:-1] = row.features
        slot[-1] = np.nan if row.score is None else row.score

    def add_scores(
        self, key: tuple[int, str, int], score: float | None, further: Iterable[float | None] = ()
    ) -> None:
        """Add a score and the further outputs, which are the columns; no features.

        Args:
            key: Boot, model version, and the period's start in µs.
            score: None: there is none.
            further: One for each column, in order; None: there is none.
        """
        slot = self._slot(key)
        slot[:-1] = [np.nan if value is None else value for value in further]
        slot[-1] = np.nan if score is None else score

    def rebind(self, bin_edges: Mapping[str, Doubles]) -> None:
        """Close the open period, and continue with the bin edges of another model."""
        self.close()
        self._edges = self._edges_of(bin_edges)
        self._tally = self._empty()

    def _empty(self) -> _Tally:
        return _Tally.empty(self._edges, sketches=self._sketches)

    def _edges_of(self, bin_edges: Mapping[str, Doubles]) -> list[Doubles | None]:
        return [np.asarray(bin_edges[n], dtype=np.float64) if n in bin_edges else None for n in self._names]

    def _slot(self, key: tuple[int, str, int]) -> Doubles:
        """The row of the block for the values of one more row; another period closes the open one."""
        if key != self._key:
            self.close()
            if key[2] <= self._newest_us:
                self._part += self._step
            self._key, self._newest_us = key, key[2]
        if self._filled == BLOCK_ROWS:
            self._fold()
        slot: Doubles = self._block[self._filled]
        self._filled += 1
        return slot

    def close(self) -> None:
        """Close the open period, if it has a row."""
        current = self.open_summary()
        if current is not None:
            self._closed.append(current)
            self._tally = self._empty()
        self._key = None

    def open_summary(self) -> Summary | None:
        """Summary of the open period so far; None where it has no row."""
        self._fold()
        tally = self._tally
        if self._key is None or not (tally.n[0] + tally.missing[0]):
            return None
        boot_id, model, period_us = self._key
        value, raw = encode_rows(self._batch(boot_id, model, period_us))
        return Summary(boot_id, model, period_us, self._period_s, self._part, value, raw)

    def take_closed(self) -> list[Summary]:
        """Periods that closed since the last call, oldest first."""
        closed, self._closed = self._closed, []
        return closed

    def _fold(self) -> None:
        if self._filled:
            self._tally.add(self._block[: self._filled], self._edges)
            self._filled = 0

    def _batch(self, boot_id: int, model: str, period_us: int) -> RowBatch:
        f, tally = len(self._names), self._tally
        known = tally.n != 0
        columns = [
            self._constants["device_id"],
            fixed(Kind.INT64, np.full(f, boot_id)),
            texts([model] * f),
            self._constants["featureset"],
            self._constants["feature"],
            fixed(Kind.TIME, np.full(f, period_us)),
            self._constants["period_s"],
            fixed(Kind.INT32, np.full(f, self._part)),
            fixed(Kind.INT64, tally.n),
            fixed(Kind.INT64, tally.missing),
            fixed(Kind.FLOAT64, tally.mean, known),
            fixed(Kind.FLOAT64, _single(tally.m2)),
            fixed(Kind.FLOAT64, tally.low, known),
            fixed(Kind.FLOAT64, tally.high, known),
            binaries([None if s.is_empty() else s.serialize() for s in tally.sketches or ()] or [None] * f),
            lists(Kind.INT64_LIST, tally.bins),
        ]
        return RowBatch(self._layout, columns, f)


def _single(squares: Doubles) -> Doubles:
    """Sums of squares with the 24 bits of a float32: nobody needs more of a spread, and it halves them."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = squares.astype(np.float32).astype(np.float64)
    fits = np.isfinite(rounded) & (rounded >= _SMALLEST_SQUARES)
    return np.where(fits, rounded, squares)


def merge_summaries(parts: Sequence[Summary], period_s: float, part: int, layout: RowLayout) -> Summary:
    """One summary of several of the same boot and model, over a longer period.

    Args:
        parts: At least one; all within one period of ``period_s``.
        period_s: Length of the merged period, seconds.
        part: Number of the merged part.
        layout: ``packed_summary_layout`` of their profile.

    Raises:
        ValueError: One of them cannot be read.
    """
    span_us = round(period_s * 1e6)
    period_us = parts[0].period_us - parts[0].period_us % span_us
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for summary in parts:
        for row in summary.batch(layout).to_pylist():
            key = (row["featureset"], row["feature"])
            merged[key] = _merge_rows(merged[key], row) if key in merged else row
    for row in merged.values():
        row |= {"period_start": period_us, "period_s": period_s, "part": part}
    batch = RowBatch.from_pylist(list(merged.values()), layout)
    m2 = batch.columns[_M2]
    rounded = [*batch.columns[:_M2], fixed(Kind.FLOAT64, _single(m2.values)), *batch.columns[_M2 + 1 :]]
    value, raw = encode_rows(RowBatch(layout, rounded, batch.num_rows))
    return Summary(parts[0].boot_id, parts[0].model_version, period_us, period_s, part, value, raw)


def _merge_rows(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    # Moments merge as in ``_Tally.add``. Bins add up because both parts are of one model, with equal edges.
    n = a["n"] + b["n"]
    merged = {**a, "n": n, "n_missing": a["n_missing"] + b["n_missing"]}
    if not b["n"]:
        return merged
    if not a["n"]:
        kept = ("mean", "m2", "min", "max", "sketch", "bin_counts")
        return merged | {name: b[name] for name in kept}
    delta = b["mean"] - a["mean"]
    sketch = None  # of both, or of neither: half a sketch would pass for all
    if a["sketch"] is not None and b["sketch"] is not None:
        both = kll_floats_sketch.deserialize(a["sketch"])
        both.merge(kll_floats_sketch.deserialize(b["sketch"]))
        sketch = both.serialize()
    bins = None
    if a["bin_counts"] is not None and b["bin_counts"] is not None:
        bins = [x + y for x, y in zip(a["bin_counts"], b["bin_counts"], strict=True)]
    return merged | {
        "mean": a["mean"] + delta * b["n"] / n,
        "m2": a["m2"] + b["m2"] + delta**2 * a["n"] * b["n"] / n,
        "min": min(a["min"], b["min"]),
        "max": max(a["max"], b["max"]),
        "sketch": sketch,
        "bin_counts": bins,
    }

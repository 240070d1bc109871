"""Counts what became of every row, with feature moments, per (device, boot, period, model, stratum).

The books balance at every commit: sensed = acked + pending + filtered + evicted + refused. A row enters the
books when the filter releases it; until then it is held, and counts as sensed and pending.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_producer.sensed_rows import Period, Row
from edge_producer.window import Floats
from schemas.columns import Kind
from schemas.packed_schemas import PACKED_BOOKS_LAYOUT
from schemas.profile import Profile
from schemas.row_batch import RowBatch, fixed, lists, texts

Doubles = NDArray[np.float64]
_COUNT = struct.Struct("<q")


class BookKey(NamedTuple):
    """Names one line of a device's books."""

    boot_id: int
    period_us: int
    model_version: str
    stratum: str


@dataclass(slots=True)
class CoMoments:
    """Means and summed products of deviations of all features over rows where every feature is finite.

    Attributes:
        mean: Shape (F,).
        products: Shape (F, F), symmetric.
    """

    n: int
    mean: Doubles
    products: Doubles

    @classmethod
    def of(cls, block: Floats) -> CoMoments:
        """Moments of rows of shape (r, F); rows with a missing value do not count."""
        whole = block[np.isfinite(block).all(axis=1)].astype(np.float64)
        if not len(whole):
            width = block.shape[1]
            return cls(0, np.zeros(width), np.zeros((width, width)))
        mean = whole.mean(axis=0)
        centred = whole - mean
        return cls(len(whole), mean, centred.T @ centred)

    def __or__(self, other: CoMoments) -> CoMoments:
        """Moments of both samples together (Chan, Golub and LeVeque 1979, multivariate)."""
        if not self.n or not other.n:
            return self if self.n else other
        n = self.n + other.n
        delta = other.mean - self.mean
        products = self.products + other.products + np.outer(delta, delta) * (self.n * other.n / n)
        return CoMoments(n, self.mean + delta * (other.n / n), products)

    def to_bytes(self) -> bytes:
        """Count, means and upper triangle, little-endian, 8 bytes each."""
        triangle = self.products[np.triu_indices(len(self.mean))]
        return _COUNT.pack(self.n) + np.concatenate([self.mean, triangle]).astype("<f8").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> CoMoments:
        """Moments from ``to_bytes``."""
        (n,) = _COUNT.unpack_from(data)
        values = np.frombuffer(data, dtype="<f8", offset=_COUNT.size)
        # F means and F (F + 1) / 2 products: F (F + 3) / 2 values, solved for F.
        width = int((np.sqrt(9 + 8 * len(values)) - 3) / 2)
        products = np.zeros((width, width))
        upper = np.triu_indices(width)
        products[upper] = values[width:]
        products.T[upper] = values[width:]
        return cls(n, values[:width].copy(), products)


@dataclass(slots=True)
class BookChange:
    """Increments of one line since they were last taken.

    Attributes:
        lost: Rows that were selected but could not be kept; the books call them evicted, and a gap.
    """

    sensed: int = 0
    filtered: int = 0
    lost: int = 0
    moments: CoMoments | None = None


@dataclass
class LedgerChanges:
    """Changes of one device's books, to be committed with its rows.

    Attributes:
        lines: Increments by line.
        closed: Lines whose period is over; a row may still come if the clock steps back.
    """

    lines: dict[BookKey, BookChange] = field(default_factory=dict)
    closed: list[BookKey] = field(default_factory=list)


class Ledger:
    """Counts the rows that the filter releases; computes the moments over blocks of rows.

    Args:
        moments: Whether lines get moments of their rows; a profile asks for them.
        width: Number of features, F; further numbers of a row have no moments. None: all are features.
    """

    def __init__(self, *, moments: bool = False, width: int | None = None) -> None:
        self._moments = moments
        self._width = width
        self._rows: dict[BookKey, list[Row]] = {}
        self._changes = LedgerChanges()
        self._open: dict[BookKey, None] = {}

    def release(self, row: Row, awaited: Collection[Period] = ()) -> None:
        """Count a row that the filter has released.

        Args:
            row: The row.
            awaited: Periods of which more rows come, beside the row's own: their lines stay open, others
                close.
        """
        self._close_but({row.period, *awaited})
        key = BookKey(*row.period, row.stratum.value)
        self._open[key] = None
        change = self._changes.lines.get(key)
        if change is None:
            change = self._changes.lines[key] = BookChange()
        change.sensed += 1
        if not row.selected:
            change.filtered += 1
        if self._moments:
            self._rows.setdefault(key, []).append(row)

    def lose(self, key: BookKey, n: int) -> None:
        """Count n rows as sensed and lost, in a line that nothing else enters."""
        self._changes.lines[key] = BookChange(sensed=n, lost=n)
        self._changes.closed.append(key)

    def close(self) -> None:
        """Close all open lines."""
        self._close_but(())

    def _close_but(self, awaited: Collection[Period]) -> None:
        past = [key for key in self._open if key[:3] not in awaited]
        self._changes.closed += past
        for key in past:
            del self._open[key]

    def take(self) -> LedgerChanges:
        """Changes since the last call."""
        for key, rows in self._rows.items():
            self._changes.lines[key].moments = CoMoments.of(
                np.stack([r.features[: self._width].astype(np.float64) for r in rows])
            )
        taken, self._changes, self._rows = self._changes, LedgerChanges(), {}
        return taken


def ledger_of(profile: Profile) -> Ledger:
    """The ledger of a device of this profile."""
    return Ledger(moments=profile.summaries.moments, width=len(profile.feature_names))


class BookLine(NamedTuple):
    """One line as the spool keeps it, to be stated.

    Attributes:
        revision: Number of the statement; the newest one of a line counts.
        gap: Whether rows are missing that thinning did not remove: the block was given up, or the disk did
            not keep them.
        thinning: Thinning factor tau of the block.
        moments: From ``CoMoments.to_bytes``; None where nobody asked for them, or they were given up.
        period_s: Length of its period, seconds.
    """

    boot_id: int
    period_us: int
    model_version: str
    stratum: str
    revision: int
    sensed: int
    acked: int
    filtered: int
    evicted: int
    refused: int
    pending: int
    gap: bool
    thinning: float
    moments: bytes | None
    period_s: float


def books_batch(device_ids: Sequence[str], lines: Sequence[BookLine]) -> RowBatch:
    """Lines, each of one of these devices, as a batch in ``PACKED_BOOKS_LAYOUT``."""
    n = len(lines)
    (boots, periods, models, strata, revisions, *rest) = zip(*lines, strict=True)
    sensed, acked, filtered, evicted, refused, pending, gaps, thinning, blobs, lengths = rest
    moments = [_stated(blob) for blob in blobs]
    columns = [
        texts(device_ids),
        fixed(Kind.INT64, np.array(boots)),
        fixed(Kind.TIME, np.array(periods)),
        fixed(Kind.FLOAT64, np.array(lengths)),
        texts(models),
        texts(strata),
        fixed(Kind.INT64, np.array(revisions)),
        *(fixed(Kind.INT64, np.array(c)) for c in (sensed, acked, filtered, evicted, refused, pending)),
        fixed(Kind.BOOL, np.array(gaps)),
        fixed(Kind.FLOAT64, np.array(thinning)),
        lists(Kind.FLOAT64_LIST, [m and m[0] for m in moments]),
        lists(Kind.FLOAT64_LIST, [m and m[1] for m in moments]),
    ]
    return RowBatch(PACKED_BOOKS_LAYOUT, columns, n)


def _stated(blob: bytes | None) -> tuple[Doubles, Doubles] | None:
    if blob is None:
        return None
    moments = CoMoments.from_bytes(blob)
    if not moments.n:
        return None
    return moments.mean, moments.products[np.triu_indices(len(moments.mean))]

"""Golden vectors: synthetic windows, and the outputs that the graph must give, computed in numpy."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.calendar_features import CALENDAR, Calendar
from schemas.errors import BundleError
from schemas.fault_effects import KEY, FaultEffects
from schemas.golden_keys import ENDS, OUTPUTS
from schemas.manifest import Manifest

Feed = dict[str, NDArray[np.generic]]
"""Inputs of a graph by name."""


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """Inputs and expected outputs of n windows.

    Attributes:
        windows: Shape (n, W, C).
        features: Shape (n, F).
        score: Shape (n,); NaN: none.
        extra: Further inputs of the graph, shape (F,), by name.
        outputs: Further outputs, shape (n, O), NaN: none.
        ends_us: Event times of the windows, shape (n,), of a graph that reads the calendar; empty: none.
    """

    windows: NDArray[np.float32]
    features: NDArray[np.floating]
    score: NDArray[np.floating]
    extra: dict[str, NDArray[np.floating] | NDArray[np.integer]] = field(default_factory=dict)
    outputs: NDArray[np.floating] = field(default_factory=lambda: np.empty((0, 0)))
    ends_us: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def to_arrow(self) -> bytes:
        """Arrow file, uncompressed: one row a window, the extra inputs in the schema's metadata."""
        n, samples, channels = self.windows.shape
        meta = {
            "shape": json.dumps([samples, channels]),
            "extra": json.dumps({k: v.tolist() for k, v in self.extra.items()}),
        }
        if len(self.ends_us):
            meta[ENDS] = json.dumps(self.ends_us.tolist())
        if self.outputs.size:
            meta[OUTPUTS] = json.dumps(
                [[None if math.isnan(x) else x for x in r] for r in self.outputs.tolist()]
            )
        columns = {
            "window": _lists(self.windows.reshape(n, -1)),
            "features": _lists(self.features),
            "score": pa.array(self.score.astype(np.float32)),
        }
        return _file(pa.table(columns).replace_schema_metadata(meta))


def with_effects(data: bytes, effects: FaultEffects) -> bytes:
    """Golden vectors that carry what faults do to the features, for the trial on devices.

    Raises:
        BundleError: These bytes are not golden vectors.
    """
    with _translated():
        table = _table(data)
        meta = {**(table.schema.metadata or {}), KEY.encode(): effects.to_text().encode()}
        return _file(table.replace_schema_metadata(meta))


def golden_windows(data: bytes) -> NDArray[np.float32]:
    """Input windows of golden vectors, shape (n, W, C).

    Raises:
        BundleError: These bytes are not golden vectors.
    """
    with _translated():
        table = _table(data)
        shape = json.loads((table.schema.metadata or {})[b"shape"])
        return _matrix(table, "window").reshape(table.num_rows, *shape)


def golden_inputs(data: bytes) -> dict[str, NDArray[np.generic]]:
    """Further inputs of the graph beside the window, by name; empty for a graph of one profile.

    Raises:
        BundleError: These bytes are not golden vectors.
    """
    with _translated():
        extra = json.loads((_table(data).schema.metadata or {})[b"extra"])
        kinds = {name: np.int64 if name == "columns" else np.float32 for name in extra}
        return {name: np.array(values, dtype=kinds[name]) for name, values in extra.items()}


def golden_feeds(data: bytes, manifest: Manifest, stretch: float = 1.0) -> list[Feed]:
    """All inputs of the graph for each golden window, one window a feed.

    Args:
        data: The golden vectors.
        manifest: Of the model: says whether it reads the calendar, and of which zone.
        stretch: Factor on the samples.

    Raises:
        BundleError: These bytes are not golden vectors, or lack event times that the model needs.
    """
    windows, extra = golden_windows(data), golden_inputs(data)
    feeds: list[Feed] = [
        {"window": (w * np.float32(stretch)).astype(np.float32)[np.newaxis], **extra} for w in windows
    ]
    if not manifest.calendar:
        return feeds
    with _translated():
        ends = json.loads((_table(data).schema.metadata or {})[ENDS.encode()])
        rows = Calendar.of(manifest).rows(ends).astype(np.float32)
        return [{**feed, CALENDAR: row[np.newaxis]} for feed, row in zip(feeds, rows, strict=True)]


def golden_outputs(data: bytes) -> NDArray[np.float64]:
    """Expected outputs of golden vectors: features, score, then further ones, shape (n, F + 1 + O).

    Raises:
        BundleError: These bytes are not golden vectors.
    """
    with _translated():
        table = _table(data)
        score = table.column("score").to_numpy()
        further = json.loads((table.schema.metadata or {}).get(OUTPUTS.encode(), b"[]"))
        outputs = np.array(further, dtype=np.float64).reshape(
            table.num_rows, len(further[0]) if further else 0
        )
        return np.column_stack([_matrix(table, "features"), score, outputs]).astype(np.float64)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, KeyError, ValueError) as exc:
        raise BundleError(f"the golden vectors cannot be read: {exc}") from exc


def _file(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _table(data: bytes) -> pa.Table:
    return pa.ipc.open_file(io.BytesIO(data)).read_all()


def _matrix(table: pa.Table, name: str) -> NDArray[np.float32]:
    flat = table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(table.num_rows, -1)


def _lists(rows: NDArray[np.floating]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(rows, dtype=np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])

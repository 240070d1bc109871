"""Golden vectors of a bundle: windows, and the features and scores that the model must give for them.

They are an Arrow file of three columns. The form that our own training writes is read here; any other that
Arrow allows is left to pyarrow, which a device loads for that alone.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.arrow_message import read_batch
from schemas.arrow_schema_message import read_schema
from schemas.calendar_features import CALENDAR, Calendar
from schemas.errors import BundleError
from schemas.fault_effects import KEY, FaultEffects, parse_effects
from schemas.golden_keys import ENDS, OUTPUTS
from schemas.manifest import Manifest

_MAGIC = b"ARROW1\0\0"
_COLUMNS = [("window", "list of float"), ("features", "list of float"), ("score", "float")]

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class GoldenVectors:
    """What a model is checked with.

    Attributes:
        windows: Shape (n, W, C).
        expected: Shape (n, F + 1 + O): features, the score, then further outputs.
        extra: Further inputs by name.
        effects: What faults do to the features; None: the bundle brings none.
        ends_us: Event times of the windows, microseconds since 1970, shape (n,), for a model that reads the
            calendar; empty: none.
    """

    windows: NDArray[np.float32]
    expected: NDArray[np.float32]
    extra: dict[str, NDArray[np.generic]]
    effects: FaultEffects | None = None
    ends_us: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))


def golden_extras(golden: GoldenVectors, manifest: Manifest) -> list[dict[str, NDArray[np.generic]]]:
    """Further inputs of the graph for each golden window.

    Raises:
        BundleError: The windows of a model that reads the calendar have no event times, or this machine does
            not know the model's time zone.
    """
    if not manifest.calendar:
        return [golden.extra] * len(golden.windows)
    if len(golden.ends_us) != len(golden.windows):
        raise BundleError(f"model {manifest.version}: its golden windows have no event times")
    try:
        rows = Calendar.of(manifest).rows(golden.ends_us).astype(np.float32)
    except ValueError as exc:
        raise BundleError(f"model {manifest.version}: {exc}") from exc
    return [{**golden.extra, CALENDAR: row[np.newaxis]} for row in rows]


def read_golden(data: bytes, version: str) -> GoldenVectors:
    """The golden vectors in these bytes.

    Args:
        data: An Arrow file.
        version: Of the model, for the error.

    Raises:
        BundleError: They are unreadable.
    """
    try:
        try:
            columns, metadata = _plainly(data)
        except ValueError:
            columns, metadata = _by_pyarrow(data)
        return _vectors(columns, metadata, f"model {version}")
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, OSError) as exc:
        raise BundleError(f"model {version}: golden vectors unreadable: {exc}") from exc


def _vectors(columns: list[Matrix], metadata: dict[str, str], origin: str) -> GoldenVectors:
    windows, features, score = columns
    shape, given = (json.loads(metadata[name]) for name in ("shape", "extra"))
    extra: dict[str, NDArray[np.generic]] = {
        name: np.array(values, dtype=np.int64 if name == "columns" else np.float32)
        for name, values in given.items()
    }
    effects = parse_effects(metadata[KEY], origin) if KEY in metadata else None
    if effects is not None and effects.rows.shape[1] != features.shape[1]:
        raise ValueError(f"fault effects on {effects.rows.shape[1]} of {features.shape[1]} features")
    further = json.loads(metadata.get(OUTPUTS, "[]"))
    width = len(further[0]) if further else 0
    outputs = np.array(further, dtype=np.float32).reshape(len(features), width)  # null becomes NaN
    expected = np.column_stack([features, score, outputs])
    ends = np.array(json.loads(metadata.get(ENDS, "[]")), dtype=np.int64)
    return GoldenVectors(windows.reshape(-1, *shape), expected, extra, effects, ends)


def _plainly(data: bytes) -> tuple[list[Matrix], dict[str, str]]:
    """The three columns and the metadata, of the form that our training writes.

    Raises:
        ValueError: It has another one.
    """
    if not data.startswith(_MAGIC):
        raise ValueError("no Arrow file")
    schema, at = read_schema(data, len(_MAGIC))
    batch = read_batch(data[at:])
    if schema.fields != _COLUMNS or any(node.nulls for node in batch.nodes) or not batch.is_last:
        raise ValueError("golden vectors of another form")
    # Buffers: of a list its own mask, then mask and values of what is in it; of the score mask and values.
    columns = [np.frombuffer(batch.buffers[number], dtype="<f4") for number in (2, 5, 7)]
    return [column.reshape(batch.rows, -1) for column in columns], schema.metadata


def _by_pyarrow(data: bytes) -> tuple[list[Matrix], dict[str, str]]:
    """The same of any form.

    Raises:
        ValueError, LookupError, AttributeError, OSError: There is none.
    """
    import pyarrow as pa  # noqa: PLC0415  (heavy: a device does without)

    try:
        table = pa.ipc.open_file(io.BytesIO(data)).read_all()
        table.validate(full=True)
        lists = [_matrix(table, name) for name in ("window", "features")]
        score: Matrix = table.column("score").to_numpy().reshape(-1, 1)
    except pa.ArrowException as exc:
        raise ValueError(str(exc)) from exc
    return [*lists, score], {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}


def _matrix(table: Any, name: str) -> Matrix:
    flat: Matrix = table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(table.num_rows, -1)

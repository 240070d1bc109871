"""One sensed row on its way from the window to the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from edge_producer.window import Floats
from schemas.columns import Kind, RowLayout
from schemas.row_batch import RowBatch, fixed, texts
from schemas.row_schemas import (
    CALIBRATION_COLUMN,
    CONTEXT,
    HEAD_COLUMNS,
    RULES,
    TAIL_COLUMNS,
    Stratum,
    stratum_of,
)

Period = tuple[int, int, str]
"""Boot, start of the summary period (µs since 1970) and model version of a row."""


@dataclass(slots=True)
class Row:
    """One window's features, score and decision, and what the filter made of them.

    Attributes:
        event_us: UTC end of the window, µs since 1970.
        period_us: UTC start of its summary period, µs since 1970.
        features: Shape (F,), float32, NaN where missing; float64 if the profile has a wide channel.
        sensed_s: Wall clock when it was sensed, seconds since 1970: for lingering, not for analysis.
        u: The row's permanent uniform number in [0, 1); set by the filter.
        sample_p: Sampling rate in force when it was sensed; set by the filter.
        reasons: Bits of ``Reason`` and ``channel_bit``; complete once the filter has released the row.
        calibration: Revision of what the device had learnt for itself; None: it went by none.
    """

    boot_id: int
    seq: int
    event_us: int
    period_us: int
    mono_ns: int
    time_quality: int
    features: Floats
    score: float | None
    decision: str
    model_version: str
    sensed_s: float
    u: float = 0.0
    sample_p: float = 1.0
    reasons: int = 0
    calibration: str | None = None

    @property
    def period(self) -> Period:
        """What its line of the books has beside the stratum."""
        return self.boot_id, self.period_us, self.model_version

    @property
    def stratum(self) -> Stratum:
        """The row's stratum, whether it is sent or not."""
        return stratum_of(self.reasons)

    @property
    def pi(self) -> float:
        """Inclusion probability before thinning; of context, which has none, 1: thinning treats it alike."""
        return 1.0 if self.reasons & (RULES | CONTEXT) else self.sample_p

    @property
    def selected(self) -> bool:
        """Whether the row is to be sent."""
        return self.u < self.pi

    def to_json(self) -> list[Any]:
        """The row as a JSON value, without loss."""
        return [
            *(getattr(self, name) for name in _SCALARS),
            _WIDE * (self.features.dtype == np.float64) + self.features.tobytes().hex(),
            *([] if self.calibration is None else [self.calibration]),  # 0.2.0 knows none
        ]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> Row:
        """The row from ``to_json``."""
        scalars, (features, *calibration) = value[: len(_SCALARS)], value[len(_SCALARS) :]
        return cls(
            **dict(zip(_SCALARS, scalars, strict=True)),
            calibration=calibration[0] if calibration else None,
            features=np.frombuffer(
                bytes.fromhex(features.removeprefix(_WIDE)),
                dtype="<f8" if features.startswith(_WIDE) else "<f4",
            ),
        )


_WIDE = "f8:"
"""Before the digits of features that are kept in float64."""
_SCALARS = (
    "boot_id",
    "seq",
    "event_us",
    "period_us",
    "mono_ns",
    "time_quality",
    "score",
    "decision",
    "model_version",
    "sensed_s",
    "u",
    "sample_p",
    "reasons",
)


class StoredRow(NamedTuple):
    """A selected row as the spool keeps it.

    Attributes:
        book: Id of the line of the books that counts it.
        features: F numbers, little-endian, float32; float64 if the profile has a wide channel.
        q: Inclusion probability after thinning; None: context, which has none.
        calibration: As in ``Row``.
    """

    id: int
    book: int
    boot_id: int
    seq: int
    event_us: int
    mono_ns: int
    time_quality: int
    features: bytes
    score: float | None
    decision: str
    reasons: int
    sample_p: float
    q: float | None
    model_version: str
    sensed_s: float
    calibration: str | None = None


def wire_batch(device_id: str | Sequence[str], rows: Sequence[StoredRow], layout: RowLayout) -> RowBatch:
    """Rows as a batch in a telemetry wire layout.

    Args:
        device_id: Written into every row; or one for each row.
        rows: At least one.
        layout: ``telemetry_layout`` of the profile whose features the rows hold.

    Raises:
        ValueError: The rows hold another number of features than the layout.
    """
    n = len(rows)
    (
        _, _, boots, seqs, events, monos, quality, blobs,
        scores, decisions, reasons, rates, q, models, _, own,
    ) = zip(*rows, strict=True)  # fmt: skip
    calibrates = layout.columns[-1] == CALIBRATION_COLUMN
    tail = len(TAIL_COLUMNS) + calibrates
    kinds = [column.kind for column in layout.columns[len(HEAD_COLUMNS) : -tail]]
    wide = Kind.FLOAT64 in kinds
    matrix = np.frombuffer(b"".join(blobs), dtype="<f8" if wide else "<f4").reshape(n, -1).T
    finite = np.isfinite(matrix)
    columns = [
        texts([device_id] * n if isinstance(device_id, str) else device_id),
        fixed(Kind.INT64, np.array(boots)),
        fixed(Kind.INT64, np.array(seqs)),
        fixed(Kind.TIME, np.array(events)),
        fixed(Kind.INT64, np.array(monos)),
        fixed(Kind.INT8, np.array(quality)),
        *(fixed(k, values, there) for k, values, there in zip(kinds, matrix, finite, strict=True)),
        fixed(Kind.FLOAT32, scores),
        texts(decisions),
        fixed(Kind.INT32, np.array(reasons)),
        fixed(Kind.FLOAT64, np.array(rates)),
        fixed(Kind.FLOAT64, q),
        texts(models),
        *([texts(own)] if calibrates else []),
    ]
    return RowBatch(layout, columns, n)


_BETWEEN = "\t"


def joined_decision(row: Row | StoredRow) -> str:
    """Decision and calibration as the spool keeps them: the description of its tables has room for no column.

    Where that description is damaged, the first page of a new spool takes its place: it must fill no second.
    """
    return row.decision if row.calibration is None else f"{row.decision}{_BETWEEN}{row.calibration}"


def parted_decision(stored: str) -> tuple[str, str | None]:
    """Decision and calibration of what ``joined_decision`` made."""
    decision, between, calibration = stored.partition(_BETWEEN)
    return decision, calibration if between else None

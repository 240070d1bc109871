"""Training rows of one profile as they were known at an instant T, with weights and labels.

Nothing enters that happened or became known after T: rows, labels, books, alarms and registrations alike.
So the same selection at a pinned cut always gives the same rows, and a backtest sees what a training run
would have used. Rows that are left out are counted by reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_store import duck
from feature_store.estimators import Flags, Floats, Labels
from feature_store.point_in_time_sql import IDENTITY, Regime, RowSelection, blocks_sql, rows_sql
from feature_store.weights import Calibrated, calibrated, clipped, effective_size, with_device_cap
from schemas.errors import DatasetError
from schemas.profile import Profile
from schemas.tables import telemetry_table_name

__all__ = ["HOLDOUT", "TRAIN", "Regime", "RowSelection", "TrainingSet", "tables_read", "training_rows"]

TRAIN, HOLDOUT = "train", "holdout"


@dataclass(frozen=True)
class TrainingSet:
    """Rows in order of time, and how they were selected.

    Attributes:
        rows: device_id, boot_id, seq, event_time, known_at, model_version, score, the features, weight,
            label (null: healthy by absence of alarms), part (train or holdout).
        split: Windows of the holdout begin at or after this instant; None: no rows.
        excluded: Rows left out, by the first reason that applied.
        facts: Further counts of rows: considered, with known books, in blocks that lost rows, explained by
            the regime.
        effective_rows: Kish's effective sample size of the training part.
    """

    rows: pa.Table
    split: datetime | None
    excluded: Mapping[str, int]
    facts: Mapping[str, int] = field(default_factory=dict)
    effective_rows: float = 0.0

    def part(self, name: str) -> pa.Table:
        """Rows of one part."""
        return self.rows.filter(pc.equal(self.rows.column("part"), name))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def tables_read(profile: Profile) -> tuple[str, ...]:
    """Tables behind a training set; whoever builds one has ``connect`` verify their files."""
    return (telemetry_table_name(profile.name), "alerts", "books", "devices", "labels")


def training_rows(connection: duck.Connection, selection: RowSelection) -> TrainingSet:
    """The training set of a selection.

    Args:
        connection: From ``connect`` on a pinned cut that holds everything known at T, files verified.
        selection: Which rows to take, and as of when.

    Raises:
        DatasetError: An empty span, or one that ends after T.
        QueryError: The profile has no table in this lake.
    """
    _check(selection)
    landed = duck.query(connection, rows_sql(selection))
    weighed = _weigh(landed, duck.query(connection, blocks_sql(selection)))
    reasons = landed.column("excluded").to_pylist()
    kept = np.array([r is None for r in reasons], dtype=bool)
    split, part, straddles = _split(landed, kept, selection.profile)
    excluded = _counted(reasons) | ({"straddles_split": int(straddles.sum())} if straddles.any() else {})
    kept &= ~straddles
    rows = landed.filter(pa.array(kept))
    weights = _bounded(rows, weighed.weights[kept], selection)
    facts = {
        "considered": landed.num_rows,
        "books_known": weighed.rows_covered,
        "lost_neighbours": weighed.rows_lossy,
        "explained_alarms": pc.sum(rows.column("explained")).as_py() or 0,
    }
    table = _finished(rows, weights, part[kept], selection.profile.feature_names)
    return TrainingSet(table, split, excluded, facts, effective_size(weights[part[kept] == TRAIN]))


def _check(selection: RowSelection) -> None:
    span = f"{selection.event_from.isoformat()} to {selection.event_to.isoformat()}"
    if selection.event_from >= selection.event_to:
        raise DatasetError(f"an empty span of event time: {span}")
    if selection.event_to > selection.known_at:
        raise DatasetError(f"the span {span} ends after what was known at {selection.known_at.isoformat()}")


def _weigh(landed: pa.Table, blocks: pa.Table) -> Calibrated:
    """Weights of all landed rows, also of those left out later: the books count them all."""
    block = np.asarray(landed.column("block").fill_null(-1).to_numpy(), dtype=np.int64)
    reached = np.bincount(block[block >= 0], minlength=blocks.num_rows)
    lacking = blocks.column("lacking").to_numpy(zero_copy_only=False).astype(bool)
    lossy = np.asarray(lacking | (reached < _floats(blocks, "acked")))
    strata, devices = _codes(blocks, "stratum"), _codes(blocks, "device_id")
    return calibrated(_floats(landed, "q"), block, strata, devices, _floats(blocks, "sensed"), lossy)


def _split(
    landed: pa.Table, kept: Flags, profile: Profile
) -> tuple[datetime | None, NDArray[np.str_], Flags]:
    """Instant of the split, part of each row, and rows whose window lies on both sides of it."""
    ends = _micros(landed, "event_time")
    if not kept.any():
        return None, np.full(len(ends), TRAIN), np.zeros(len(ends), dtype=bool)
    window_us = round(profile.sampling.window_samples / profile.sampling.rate_hz * 1e6)
    first, last = int(ends[kept].min()), int(ends[kept].max())
    at = last - round((last - first) * profile.training.holdout_share)
    part = np.where(ends < at, TRAIN, HOLDOUT)
    straddles = kept & (part == HOLDOUT) & (ends - window_us < at)
    return _EPOCH + timedelta(microseconds=at), part, np.asarray(straddles)


def _bounded(rows: pa.Table, weights: Floats, selection: RowSelection) -> Floats:
    """Bounded weights; for a classifier a row also stands for those that were not chosen for labelling."""
    if selection.labelled:
        weights = weights * _floats(rows, "confidence", 1.0) / _floats(rows, "label_probability", 1.0)
    policy = selection.profile.training
    trimmed = clipped(weights, policy.clip_weight)
    return with_device_cap(trimmed, _codes(rows, "device_id"), policy.device_share)


def _finished(rows: pa.Table, weights: Floats, part: NDArray[np.str_], features: tuple[str, ...]) -> pa.Table:
    table = rows.select([*IDENTITY, *features])
    table = table.append_column("weight", pa.array(weights, pa.float64()))
    table = table.append_column("label", rows.column("label"))
    return table.append_column("part", pa.array(part.tolist(), pa.string())).combine_chunks()


def _floats(table: pa.Table, column: str, missing: float = float("nan")) -> Floats:
    values = table.column(column).cast(pa.float64()).fill_null(missing)
    return np.asarray(values.to_numpy(), dtype=np.float64)


def _micros(table: pa.Table, column: str) -> Labels:
    return np.asarray(table.column(column).cast(pa.int64()).to_numpy(), dtype=np.int64)


def _codes(table: pa.Table, column: str) -> Labels:
    """Numbers of the column's values, by sorted value."""
    values = np.array(table.column(column).to_pylist(), dtype=object)
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    return np.asarray(np.unique(values.astype(str), return_inverse=True)[1], dtype=np.int64)


def _counted(reasons: list[str | None]) -> dict[str, int]:
    return {r: reasons.count(r) for r in sorted({r for r in reasons if r is not None})}

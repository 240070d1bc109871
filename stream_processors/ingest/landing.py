"""From admitted messages to rows in the tables' shapes, each row checked.

Vectorised over all messages of one schema: the cost is in the number of calls, not in the number of rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.events import Alert, DeviceState, Label
from schemas.excerpt_event import Excerpt, ExcerptWithdrawal
from schemas.profile import Profile
from schemas.row_schemas import CALIBRATION_COLUMN, CONTEXT, END_YEAR, FIRST_YEAR, RULES, TIME, Reason
from schemas.tables import PROFILE, PROVENANCE, QUARANTINE, telemetry_table
from schemas.text_dictionaries import TEXTS, encoded, in_one_piece, same_text, without_dictionaries
from stream_processors.ingest.admission import Admitted
from stream_processors.ingest.sealed_rows import RowSpan
from stream_processors.windowing.moments import LARGEST_COUNT

_TINY = 1e-9
_SELECTED = RULES | int(Reason.SAMPLE)
_INVALID_NAME = r"[\x00-\x1f\x7f]|^.{257,}$"
"""Names become keys of states: no control characters, and no more than 256 characters."""
_REVISION = r"^[0-9a-f]{16}$"
_FIRST_US, _END_US = (int(datetime(y, 1, 1, tzinfo=UTC).timestamp() * 1e6) for y in (FIRST_YEAR, END_YEAR))


@dataclass(frozen=True)
class Landed:
    """Rows to land and rows refused.

    Attributes:
        rows: In the table's schema; texts that came in rows are dictionaries.
        refused: In the schema of ``quarantine``, one per refused row.
    """

    rows: pa.Table
    refused: pa.Table


@dataclass(frozen=True)
class _Telemetry:
    """What is made of a profile, once: it takes a millisecond, as long as landing some hundred messages.

    Attributes:
        profile: What it is made of.
        schema: Of the profile's table.
        numbers: Columns of features and outputs.
    """

    profile: Profile
    schema: pa.Schema
    numbers: tuple[str, ...]


_MOST_PROFILES = 64
_telemetry: dict[int, _Telemetry] = {}


def _telemetry_of(profile: Profile) -> _Telemetry:
    found = _telemetry.get(id(profile))
    if found is None:  # what is kept keeps its profile, so that no other one takes its place
        if len(_telemetry) >= _MOST_PROFILES:
            _telemetry.clear()
        found = _Telemetry(profile, telemetry_table(profile).schema, profile.row_columns)
        _telemetry[id(profile)] = found
    return found


class _Verdicts:
    """Which rows are good, and why each of the others is not: the first reason counts.

    Attributes:
        good: One truth value a row.
    """

    def __init__(self, messages: Sequence[Admitted], n: int) -> None:
        self.good = np.ones(n, dtype=bool)
        self._why: dict[int, tuple[str, str]] = {}
        start = 0
        for message in messages:  # what the gateway which sent it may not send
            for row, error in (message.foreign or {}).items():
                self._why[start + row] = (type(error).__name__, str(error))
                self.good[start + row] = False
            start += message.n

    def refuse(self, bad: np.ndarray, why: str) -> None:
        """Refuse rows for what they hold."""
        if bad.any():
            self._why |= dict.fromkeys(np.flatnonzero(bad & self.good).tolist(), ("PolicyError", why))
            self.good &= ~bad

    def of(self, row: int) -> tuple[str, str]:
        """Class of the error, and the reason, of a refused row."""
        return self._why[row]


def provenance(messages: Sequence[Admitted]) -> dict[str, pa.Array]:
    """Columns known_at, _partition, _offset and _row of the rows of these messages, in order."""
    counts = np.array([m.n for m in messages])
    raw = [m.message for m in messages]
    known_at = np.array([m.appended_us for m in raw], dtype="int64")
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    return {
        "known_at": pa.array(np.repeat(known_at, counts)).cast(TIME),
        "_partition": pa.array(np.repeat(np.array([m.partition for m in raw], dtype="int32"), counts)),
        "_offset": pa.array(np.repeat(np.array([m.offset for m in raw], dtype="int64"), counts)),
        "_row": pa.array((np.arange(counts.sum()) - starts).astype("int32")),
    }


def land_telemetry(messages: Sequence[Admitted], profile: Profile) -> Landed:
    """Telemetry rows of one wire schema, checked against the profile's clock and filter policy.

    A NaN feature becomes null; an infinite one, a score outside [0, 1] or a probability that the policy
    does not allow refuses the row. Context has no probability, and nothing else goes without. An implausible
    time is kept beside the append time.
    """
    table = _concat(messages)
    columns = {name: table.column(name) for name in table.column_names}
    columns |= provenance(messages)
    known = _telemetry_of(profile)
    numbers = [n for n in known.numbers if n in columns]
    verdicts = _Verdicts(messages, table.num_rows)
    _check_policy(columns, profile, verdicts)
    for name in (*numbers, "score"):
        columns[name], infinite = _finite_or_null(columns[name])
        if infinite is not None:
            verdicts.refuse(infinite, f"{name} is infinite")
    for name in ("score", *(n for n in profile.model.output_columns if n in columns)):
        given = columns[name]
        score = (given.fill_null(0.0) if given.null_count else given).to_numpy()
        verdicts.refuse((score < 0) | (score > 1), f"{name} is outside [0, 1]")
    if CALIBRATION_COLUMN.name in columns:
        verdicts.refuse(
            ~_match(columns[CALIBRATION_COLUMN.name], _REVISION, True), "calibration is no revision"
        )
    columns |= _plausible_time(columns, profile)
    columns["featureset"] = same_text(_meta(table.schema, "featureset"), table.num_rows)
    columns["extra"] = _extra(columns, known.schema, table.num_rows)
    return _split(columns, known.schema, verdicts, messages)


def land_events(messages: Sequence[Admitted], schema: pa.Schema, profile: str) -> Landed:
    """JSON events: provenance added."""
    events = [event for message in messages for event in message.events]
    flat = [_flat(event) for event in events if not isinstance(event, Excerpt | ExcerptWithdrawal)]
    columns = provenance(messages) | {PROFILE.name: pa.repeat(pa.scalar(profile), len(flat))}
    columns |= {
        f.name: pa.array([row[f.name] for row in flat], f.type) for f in schema if f.name not in columns
    }
    return _split(columns, schema, _Verdicts(messages, len(flat)), messages)


def _flat(event: Alert | Label | DeviceState) -> dict[str, Any]:
    row = dict(event)  # no field of theirs holds fields of its own
    if isinstance(event, Alert):
        row["features"] = json.dumps(event.features)
    elif isinstance(event, Label):
        row["labelled_at"] = row.pop("known_at")
    return row


def land_statements(messages: Sequence[Admitted], schema: pa.Schema, profile: str) -> Landed:
    """Summaries or books rows: provenance added, counts and moments checked."""
    table = _concat(messages)
    columns = {name: table.column(name) for name in table.column_names}
    columns |= provenance(messages)
    columns[PROFILE.name] = same_text(profile, table.num_rows)
    verdicts = _Verdicts(messages, table.num_rows)
    for field in schema:
        if field.type == pa.int64() and field.name not in ("boot_id", "_offset"):
            negative = columns[field.name].to_numpy() < 0
            verdicts.refuse(negative, f"{field.name} is negative")
            absurd = columns[field.name].to_numpy() > LARGEST_COUNT
            verdicts.refuse(absurd, f"{field.name} is absurdly large")
        elif field.type == pa.float64():
            values = columns[field.name].fill_null(0.0).to_numpy()
            verdicts.refuse(~np.isfinite(values), f"{field.name} is not finite")
        elif field.type == pa.string():
            verdicts.refuse(_match(columns[field.name], _INVALID_NAME, False), f"{field.name} is no name")
        elif field.type == TIME and field.name != "known_at":
            time_us = columns[field.name].cast(pa.int64()).to_numpy()
            outside = ~_in_calendar(time_us)
            verdicts.refuse(outside, f"{field.name} is in no calendar")
    return _split(columns, schema, verdicts, messages)


def _concat(messages: Sequence[Admitted]) -> pa.Table:
    """Rows of all messages in order; those that lie side by side in one table are not taken apart."""
    joined: list[RowSpan] = []
    for message in messages:
        span, last = message.rows, joined[-1] if joined else None
        if span is None:
            continue
        if last is not None and last.table is span.table and last.start + last.n == span.start:
            joined[-1] = RowSpan(last.table, last.start, last.n + span.n)
        else:
            joined.append(span)
    # Those that were decoded alone hold texts as themselves: they are encoded together.
    alike = groupby((span.rows() for span in joined), lambda rows: rows.schema)
    return in_one_piece(pa.concat_tables([encoded(pa.concat_tables(part)) for _, part in alike]))


def _meta(schema: pa.Schema, key: str) -> str:
    return str((schema.metadata or {}).get(key.encode(), b"").decode())


def _match(column: pa.ChunkedArray | pa.Array, pattern: str, missing: bool) -> np.ndarray:
    """Which texts match; each of the dictionary is looked at once.

    Args:
        column: Texts as a dictionary, in one piece.
        pattern: A regular expression.
        missing: What counts for a row without a text.
    """
    texts = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    found = np.append(np.asarray(pc.match_substring_regex(texts.dictionary, pattern)), missing)
    verdict: np.ndarray = found[texts.indices.fill_null(len(texts.dictionary)).to_numpy()]
    return verdict


def _finite_or_null(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, np.ndarray | None]:
    """The column with null for NaN, and which values are infinite; None: all are finite."""
    values = column.to_numpy(zero_copy_only=False) if column.null_count else column.to_numpy()
    if np.isfinite(values).all():
        return column, None
    nan = np.isnan(values)
    if nan.any() and column.null_count != int(nan.sum()):
        column = pa.chunked_array([pa.array(values, column.type, mask=nan)])
    return column, np.isinf(values)


def _check_policy(columns: dict[str, pa.ChunkedArray], profile: Profile, verdicts: _Verdicts) -> None:
    policy = profile.filter
    reasons = columns["reasons"].to_numpy()
    sample_p = columns["sample_p"].to_numpy()
    stated = np.asarray(columns["inclusion_probability"].is_valid())
    q = columns["inclusion_probability"].to_numpy()
    context = (reasons & CONTEXT) != 0
    # What the filter gave the row; thinning has halved it a whole number of times since, down to the floor.
    pi = np.where(reasons & RULES, 1.0, sample_p)
    rate_ok = (sample_p >= policy.p_min - _TINY) & (sample_p <= policy.p + _TINY)
    allowed = (q > 0) & (q <= 1)
    thinned = np.flatnonzero(q != pi)  # of the others nothing was halved; where q is missing it is none
    if len(thinned):
        allowed[thinned] &= _halved(q[thinned], pi[thinned], policy.thinning_floor)
    verdicts.refuse(~rate_ok, "sample_p is not one the policy allows")
    strange = context & (stated | ((reasons & _SELECTED) != 0))
    verdicts.refuse(strange, "context that a rule or the sample selected")
    wrong = ~context & ~allowed
    verdicts.refuse(wrong, "inclusion_probability is not one the policy allows")


def _halved(q: np.ndarray, pi: np.ndarray, floor: float) -> np.ndarray:
    """Whether a probability was halved a whole number of times, down to the floor at most."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        halvings = -np.log2(q / pi)
        whole = np.abs(halvings - np.round(halvings)) < _TINY
        halved: np.ndarray = whole & (halvings >= -_TINY) & (halvings <= -np.log2(floor) + _TINY)
    return halved


def _plausible_time(columns: dict[str, pa.ChunkedArray], profile: Profile) -> dict[str, pa.Array]:
    device_us = columns["event_time"].cast(pa.int64()).to_numpy()
    append_us = columns["known_at"].cast(pa.int64()).to_numpy()
    age_us = append_us - device_us
    suspect = (age_us > profile.clock.max_age_s * 1e6) | (age_us < -profile.clock.max_ahead_s * 1e6)
    if not suspect.any():
        return {
            "time_suspect": pa.array(suspect),
            "device_time": pa.nulls(len(device_us), TIME),
        }
    return {
        "time_suspect": pa.array(suspect),
        "device_time": pa.array(device_us, mask=~(suspect & _in_calendar(device_us))).cast(TIME),
        "event_time": pa.array(np.where(suspect, append_us, device_us)).cast(TIME),
    }


def _in_calendar(us: np.ndarray) -> np.ndarray:
    return (us >= _FIRST_US) & (us < _END_US)


def _extra(columns: dict[str, pa.ChunkedArray], schema: pa.Schema, n: int) -> pa.Array:
    unknown = sorted(set(columns) - set(schema.names))
    if not unknown:
        return pa.nulls(n, pa.string())
    values = pa.table({name: columns[name] for name in unknown}).to_pylist()
    return pa.array([json.dumps(row, default=str) for row in values], pa.string())


def _split(
    columns: dict[str, pa.ChunkedArray],
    schema: pa.Schema,
    verdicts: _Verdicts,
    messages: Sequence[Admitted],
) -> Landed:
    good, n = verdicts.good, len(verdicts.good)
    arrays = [columns[f.name] if f.name in columns else pa.nulls(n, f.type) for f in schema]
    held = [f.with_type(TEXTS) if a.type == TEXTS else f for f, a in zip(schema, arrays, strict=True)]
    table = pa.table(arrays, schema=pa.schema(held, metadata=schema.metadata))
    if good.all():
        return Landed(table, QUARANTINE.schema.empty_table())
    bad = np.flatnonzero(~good)
    refused = without_dictionaries(table.take(pa.array(bad)))
    why, k = [verdicts.of(row) for row in bad.tolist()], len(bad)
    fields = {
        "topic": pa.repeat(pa.scalar(messages[0].message.topic), k),
        "producer": refused.column("device_id"),
        "error": pa.array([error for error, _ in why], pa.string()),
        "reason": pa.array([reason for _, reason in why], pa.string()),
        "n_rows": pa.array(np.ones(k, dtype="int64")),
        "n_bytes": pa.array(np.zeros(k, dtype="int64")),
        "verified": pa.array(np.ones(k, dtype=bool)),
        "n_messages": pa.array(np.zeros(k, dtype="int64")),
        "last_offset": refused.column("_offset"),
        "digest": pa.nulls(k, pa.string()),
        **{f.name: refused.column(f.name) for f in PROVENANCE},
    }
    quarantined = pa.table([fields[f.name] for f in QUARANTINE.schema], schema=QUARANTINE.schema)
    return Landed(table.filter(pa.array(good)), quarantined)

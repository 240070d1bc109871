"""Arrow schemas of the rows that devices send, and their fingerprints.

A published column is never renamed or retyped within ``.v1``; columns are only added.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from enum import IntEnum, IntFlag, StrEnum
from typing import TYPE_CHECKING, Any

from schemas.columns import Column, Kind, RowLayout

if TYPE_CHECKING:  # a device does without pyarrow: what needs it is made when it is first asked for
    import pyarrow as pa

    from schemas.profile import Profile  # pydantic builds forty models for it

    TIME: pa.DataType
    SUMMARY_ROWS: pa.Schema
    BOOKS_ROWS: pa.Schema
    ROW_IDENTITY: tuple[pa.Field, ...]
    TELEMETRY_HEAD: tuple[pa.Field, ...]
    TELEMETRY_TAIL: tuple[pa.Field, ...]

FIRST_YEAR, END_YEAR = 1900, 2200
"""Times outside are refused everywhere: calendars, statistics and queries cannot hold them."""


class Reason(IntFlag):
    """Why a row was selected for sending (bitmask column ``reasons``)."""

    SAMPLE = 1
    THRESHOLD = 2
    UNCERTAIN = 4
    DEADBAND = 8
    BURST = 16
    PRETRIGGER = 32
    TRANSITION = 64
    FAIL_SAFE = 128
    OUT_OF_RANGE = 256
    REPEATED = 512
    """No reason to send: the action that started belongs to an incident that has had its alarm."""
    CONTEXT = 1024
    """Shown to people and no part of any estimate: a later trigger had the row sent, so it has no q."""


RULES = ~int(Reason.SAMPLE) & 0x1FF
"""Reasons that select a row with certainty (inclusion probability before thinning is 1)."""
CONTEXT = int(Reason.CONTEXT)
"""The bit of rows that were held when a trigger came: neither a rule nor the sample had selected them."""
LAST_CHANNEL_BIT = 14
"""Number of the channel whose bit stands for all later channels, too."""


def channel_bit(number: int) -> int:
    """Bit of ``reasons`` that says that this channel of the profile, from 0, was missing; selects no row."""
    return 1 << (16 + min(number, LAST_CHANNEL_BIT))


class Stratum(StrEnum):
    """The strata that books are kept by. Estimates have two: to them context rows are unsampled ones."""

    RULE = "rule"
    SAMPLE = "sample"
    CONTEXT = "context"


GIVES_WAY = (Stratum.CONTEXT, Stratum.SAMPLE, Stratum.RULE)
"""Order in which rows of one period give way where there is no room."""


def stratum_of(reasons: int) -> Stratum:
    """The stratum of a row with these ``reasons``, whether it is sent or not."""
    if reasons & CONTEXT:
        return Stratum.CONTEXT
    return Stratum.RULE if reasons & RULES else Stratum.SAMPLE


class TimeQuality(IntEnum):
    """What the device knew about its clock when it stamped the row."""

    UNKNOWN = 0
    SYNCHRONISED = 1
    RECORDED = 2
    """The time comes from a recording that is replayed."""


_IDENTITY = (
    Column("device_id", Kind.TEXT, "Stable id of the device."),
    Column("boot_id", Kind.INT64, "Random id of one start of the device."),
)

HEAD_COLUMNS = (
    *_IDENTITY,
    Column("seq", Kind.INT64, "Window number since that start, from 0, dense."),
    Column("event_time", Kind.TIME, "UTC end of the window by the device's clock."),
    Column("mono_ns", Kind.INT64, "Monotonic clock of the device at that instant, ns."),
    Column("time_quality", Kind.INT8, "0 unknown, 1 synchronised, 2 recorded (TimeQuality)."),
)

_Q = "inclusion_probability"
TAIL_COLUMNS = (
    Column("score", Kind.FLOAT32, "Anomaly score in [0, 1]; null: no usable score.", nullable=True),
    Column("decision", Kind.TEXT, "Name of the local action in force after this window."),
    Column("reasons", Kind.INT32, "Why the row was sent, and what was missing; bitmask (Reason)."),
    Column("sample_p", Kind.FLOAT64, "Uniform sampling rate p in force, in (0, 1]."),
    Column(
        "inclusion_probability",
        Kind.FLOAT64,
        "Probability q that this row was sent, (0, 1]; null: context, no part of any estimate.",
        nullable=True,
    ),
    Column("model_version", Kind.TEXT, "Version of the model that scored the row."),
)

CALIBRATION_COLUMN = Column(
    "calibration",
    Kind.TEXT,
    "Revision of what the device had learnt for itself, 16 hex digits; null: the window had none.",
    nullable=True,
)
"""Behind all others, in profiles whose decision function calibrates; releases up to 0.2.0 have no such."""

SUMMARY_LAYOUT = RowLayout(
    (
        *_IDENTITY,
        Column("model_version", Kind.TEXT, "Version of the model in force."),
        Column("featureset", Kind.TEXT, "Feature set and version, name@n."),
        Column("feature", Kind.TEXT, "Feature name, or 'score'."),
        Column("period_start", Kind.TIME, "UTC start of the period, aligned to its length."),
        Column("period_s", Kind.FLOAT64, "Length of the period, seconds."),
        Column(
            "part",
            Kind.INT32,
            "Number of this partial within its key; partials add up. Negative: a shadow's scores.",
        ),
        Column("n", Kind.INT64, "Windows with a finite value, filtered ones included."),
        Column("n_missing", Kind.INT64, "Windows where the value was missing."),
        Column("mean", Kind.FLOAT64, "Mean of the finite values; null when n = 0.", nullable=True),
        Column("m2", Kind.FLOAT64, "Sum of squared deviations from the mean."),
        Column("min", Kind.FLOAT64, "Smallest finite value.", nullable=True),
        Column("max", Kind.FLOAT64, "Largest finite value.", nullable=True),
        Column(
            "sketch",
            Kind.BINARY,
            "KLL sketch of floats (Apache DataSketches); null: the profile asks for none, or n = 0.",
            nullable=True,
        ),
        Column(
            "bin_counts",
            Kind.INT64_LIST,
            "Counts on the bundle's bin edges, under- and overflow included.",
            nullable=True,
        ),
    ),
    metadata={"kind": "summaries", "version": "1"},
)

BOOKS_LAYOUT = RowLayout(
    (
        *_IDENTITY,
        Column("period_start", Kind.TIME, "UTC start of the period, aligned to its length."),
        Column("period_s", Kind.FLOAT64, "Length of the period, seconds."),
        Column("model_version", Kind.TEXT, "Version of the model in force."),
        Column("stratum", Kind.TEXT, "rule, sample or context (Stratum)."),
        Column("revision", Kind.INT64, "Grows with each statement on the same key; newest holds."),
        Column(
            "sensed", Kind.INT64, "Rows sensed: windows that closed. N of the sample is sample + context."
        ),
        Column("acked", Kind.INT64, "Rows the broker has acknowledged."),
        Column("filtered", Kind.INT64, "Rows the filter did not select."),
        Column("evicted", Kind.INT64, "Rows given up because the spool was full."),
        Column("refused", Kind.INT64, "Rows that can never be sent."),
        Column("pending", Kind.INT64, "Rows waiting in the spool."),
        Column("gap", Kind.BOOL, "True where a whole block was given up."),
        Column("thinning", Kind.FLOAT64, "Thinning factor of the block, 1 when nothing was thinned."),
        Column(
            "feature_means",
            Kind.FLOAT64_LIST,
            "Mean of each feature over sensed rows, feature set order; null: the profile asks for none.",
            nullable=True,
        ),
        Column(
            "feature_comoments",
            Kind.FLOAT64_LIST,
            "Upper triangle, by rows, of the summed products of deviations; null: likewise.",
            nullable=True,
        ),
    ),
    metadata={"kind": "books", "version": "1"},
)

BOOK_COUNTS = ("sensed", "acked", "filtered", "evicted", "refused", "pending")


def telemetry_layout(profile: Profile) -> RowLayout:
    """One profile's telemetry rows on the wire (``topics.WIRE``)."""
    wide = profile.wide_features()
    features = [
        Column(f.name, Kind.FLOAT64 if w else Kind.FLOAT32, f.doc, nullable=True)
        for f, w in zip(profile.feature_specs(), wide, strict=True)
    ]
    scales = {name: f"{scale.doc}, " for name, scale in profile.model.scales.items()}
    features += [
        Column(
            name,
            Kind.FLOAT32,
            f"The model's output {output}, {scales.get(output, '')}in [0, 1]; null: none.",
            nullable=True,
        )
        for name, output in zip(profile.model.output_columns, profile.model.outputs, strict=True)
    ]
    meta = {
        "kind": "telemetry",
        "version": "1",
        "profile": profile.name,
        "featureset": profile.featureset,
    }
    own = (CALIBRATION_COLUMN,) if profile.decision.calibrates else ()
    return RowLayout((*HEAD_COLUMNS, *features, *TAIL_COLUMNS, *own), meta)


def telemetry_rows(profile: Profile) -> pa.Schema:
    """Arrow schema of one profile's telemetry rows on the wire."""
    from schemas.arrow_schemas import arrow_schema  # noqa: PLC0415  (heavy; see above)

    return arrow_schema(telemetry_layout(profile))


def telemetry_layout_of_wire_1(profile: Profile) -> RowLayout:
    """The same as releases up to 0.2.0 send it: every row has an inclusion probability."""
    newest = telemetry_layout(profile)
    columns = (replace(c, nullable=c.nullable and c.name != _Q) for c in newest.columns)
    return RowLayout(tuple(columns), newest.metadata)


def telemetry_rows_of_wire_1(profile: Profile) -> pa.Schema:
    """Arrow schema of those."""
    from schemas.arrow_schemas import arrow_schema  # noqa: PLC0415  (heavy; see above)

    return arrow_schema(telemetry_layout_of_wire_1(profile))


def fingerprint(schema: pa.Schema) -> str:
    """The fingerprint of the layout that an Arrow schema has; see ``RowLayout.fingerprint``."""
    meta = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
    shape = [[f.name, str(f.type), f.nullable] for f in schema]
    canonical = json.dumps([shape, meta], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


_FIELDS = {"ROW_IDENTITY": _IDENTITY, "TELEMETRY_HEAD": HEAD_COLUMNS, "TELEMETRY_TAIL": TAIL_COLUMNS}
_LAYOUTS = {"SUMMARY_ROWS": SUMMARY_LAYOUT, "BOOKS_ROWS": BOOKS_LAYOUT}


def __getattr__(name: str) -> Any:
    """The Arrow schemas and fields of this module (PEP 562), made once."""
    if name not in {"TIME", *_FIELDS, *_LAYOUTS}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from schemas import arrow_schemas  # noqa: PLC0415  (heavy; see above)

    made: Any = arrow_schemas.TIME
    if name in _FIELDS:
        made = arrow_schemas.arrow_fields(_FIELDS[name])
    elif name in _LAYOUTS:
        made = arrow_schemas.arrow_schema(_LAYOUTS[name])
    globals()[name] = made
    return made

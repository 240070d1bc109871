"""Arrow schemas of the rows that devices send, and their fingerprints.

A published column is never renamed or retyped within ``.v1``; columns are only added.
"""

from __future__ import annotations

import hashlib
import json
from enum import IntEnum, IntFlag, StrEnum

import pyarrow as pa

from schemas.profile import Profile

TIME = pa.timestamp("us", tz="UTC")
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


def _field(name: str, kind: pa.DataType, doc: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


ROW_IDENTITY = (
    _field("device_id", pa.string(), "Stable id of the device."),
    _field("boot_id", pa.int64(), "Random id of one start of the device."),
)

TELEMETRY_HEAD = (
    *ROW_IDENTITY,
    _field("seq", pa.int64(), "Window number since that start, from 0, dense."),
    _field("event_time", TIME, "UTC end of the window by the device's clock."),
    _field("mono_ns", pa.int64(), "Monotonic clock of the device at that instant, ns."),
    _field("time_quality", pa.int8(), "0 unknown, 1 synchronised, 2 recorded (TimeQuality)."),
)

TELEMETRY_TAIL = (
    _field("score", pa.float32(), "Anomaly score in [0, 1]; null: no usable score.", nullable=True),
    _field("decision", pa.string(), "Name of the local action in force after this window."),
    _field("reasons", pa.int32(), "Why the row was sent, and what was missing; bitmask (Reason)."),
    _field("sample_p", pa.float64(), "Uniform sampling rate p in force, in (0, 1]."),
    _field(
        "inclusion_probability",
        pa.float64(),
        "Probability q that this row was sent, (0, 1]; null: context, no part of any estimate.",
        nullable=True,
    ),
    _field("model_version", pa.string(), "Version of the model that scored the row."),
)

SUMMARY_ROWS = pa.schema(
    [
        *ROW_IDENTITY,
        _field("model_version", pa.string(), "Version of the model in force."),
        _field("featureset", pa.string(), "Feature set and version, name@n."),
        _field("feature", pa.string(), "Feature name, or 'score'."),
        _field("period_start", TIME, "UTC start of the period, aligned to its length."),
        _field("period_s", pa.float64(), "Length of the period, seconds."),
        _field(
            "part",
            pa.int32(),
            "Number of this partial within its key; partials add up. Negative: a shadow's scores.",
        ),
        _field("n", pa.int64(), "Windows with a finite value, filtered ones included."),
        _field("n_missing", pa.int64(), "Windows where the value was missing."),
        _field("mean", pa.float64(), "Mean of the finite values; null when n = 0.", nullable=True),
        _field("m2", pa.float64(), "Sum of squared deviations from the mean."),
        _field("min", pa.float64(), "Smallest finite value.", nullable=True),
        _field("max", pa.float64(), "Largest finite value.", nullable=True),
        _field("sketch", pa.binary(), "KLL sketch of floats (Apache DataSketches).", nullable=True),
        _field(
            "bin_counts",
            pa.list_(pa.int64()),
            "Counts on the bundle's bin edges, under- and overflow included.",
            nullable=True,
        ),
    ],
    metadata={"kind": "summaries", "version": "1"},
)

BOOKS_ROWS = pa.schema(
    [
        *ROW_IDENTITY,
        _field("period_start", TIME, "UTC start of the period, aligned to its length."),
        _field("period_s", pa.float64(), "Length of the period, seconds."),
        _field("model_version", pa.string(), "Version of the model in force."),
        _field("stratum", pa.string(), "rule, sample or context (Stratum)."),
        _field("revision", pa.int64(), "Grows with each statement on the same key; newest holds."),
        _field(
            "sensed", pa.int64(), "Rows sensed: windows that closed. N of the sample is sample + context."
        ),
        _field("acked", pa.int64(), "Rows the broker has acknowledged."),
        _field("filtered", pa.int64(), "Rows the filter did not select."),
        _field("evicted", pa.int64(), "Rows given up because the spool was full."),
        _field("refused", pa.int64(), "Rows that can never be sent."),
        _field("pending", pa.int64(), "Rows waiting in the spool."),
        _field("gap", pa.bool_(), "True where a whole block was given up."),
        _field("thinning", pa.float64(), "Thinning factor of the block, 1 when nothing was thinned."),
        _field(
            "feature_means",
            pa.list_(pa.float64()),
            "Mean of each feature over sensed rows, feature set order; stated when the period closed.",
            nullable=True,
        ),
        _field(
            "feature_comoments",
            pa.list_(pa.float64()),
            "Upper triangle, by rows, of the summed products of deviations.",
            nullable=True,
        ),
    ],
    metadata={"kind": "books", "version": "1"},
)

BOOK_COUNTS = ("sensed", "acked", "filtered", "evicted", "refused", "pending")


def telemetry_rows(profile: Profile) -> pa.Schema:
    """Arrow schema of one profile's telemetry rows on the wire (``topics.WIRE``)."""
    wide = profile.wide_features()
    features = [
        _field(f.name, pa.float64() if w else pa.float32(), f.doc, nullable=True)
        for f, w in zip(profile.feature_specs(), wide, strict=True)
    ]
    meta = {
        "kind": "telemetry",
        "version": "1",
        "profile": profile.name,
        "featureset": profile.featureset,
    }
    return pa.schema([*TELEMETRY_HEAD, *features, *TELEMETRY_TAIL], metadata=meta)


def telemetry_rows_of_wire_1(profile: Profile) -> pa.Schema:
    """The same as releases up to 0.2.0 send it: every row has an inclusion probability."""
    newest = telemetry_rows(profile)
    at = newest.get_field_index("inclusion_probability")
    return newest.set(at, newest.field(at).with_nullable(False))


def fingerprint(schema: pa.Schema) -> str:
    """First 16 hex digits of SHA-256 over names, types, nullability and schema metadata.

    Field documentation does not count: another sentence is not another schema.
    """
    meta = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
    shape = [[f.name, str(f.type), f.nullable] for f in schema]
    canonical = json.dumps([shape, meta], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]

"""The lake's tables: column names, types and what they mean.

Every table ends with the same columns of provenance: where in the log a row came from, and when we could
know it. The data dictionary is generated from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.drift_vocabulary import DriftKind
from schemas.row_schemas import (
    BOOKS_ROWS,
    SUMMARY_ROWS,
    TELEMETRY_HEAD,
    TELEMETRY_TAIL,
    TIME,
    telemetry_rows,
)

if TYPE_CHECKING:
    from schemas.profile import Profile  # pydantic builds forty models for it


def _field(name: str, kind: pa.DataType, doc: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


PROVENANCE = (
    _field("known_at", TIME, "UTC instant the broker appended the message: when we could know the row."),
    _field("_partition", pa.int32(), "Partition of the source topic."),
    _field("_offset", pa.int64(), "Offset in that partition."),
    _field("_row", pa.int32(), "Row within the message, from 0."),
)

PARTITION_COLUMN = "day"
"""Delta partition column of every table: UTC day of ``known_at`` as ``YYYY-MM-DD``."""
DAY_DOC = "UTC day of known_at: filter on it first in large lakes."

ONCE_REQUIRED = frozenset({"inclusion_probability"})
"""Columns that may be null by now, and that an earlier release had written with a value in every row."""

PROFILE = _field("profile", pa.string(), "Profile the row belongs to.")

LANDED_TELEMETRY = (
    _field("featureset", pa.string(), "Feature set and version, name@n."),
    _field(
        "time_suspect",
        pa.bool_(),
        "True: the device's time was implausible; event_time is known_at.",
    ),
    _field("device_time", TIME, "The device's own time where it was implausible.", nullable=True),
    _field("extra", pa.string(), "JSON object of columns this table does not have.", nullable=True),
)


@dataclass(frozen=True)
class TableSpec:
    """One table of the lake.

    Attributes:
        name: Table and folder name, without namespace.
        doc: One line for the data dictionary.
        schema: Columns in order, provenance included, partition column excluded.
    """

    name: str
    doc: str
    schema: pa.Schema


def _table(name: str, doc: str, *fields: pa.Field) -> TableSpec:
    return TableSpec(name, doc, pa.schema([*fields, *PROVENANCE]))


SUMMARIES = _table("summaries", "Mergeable summaries of everything devices saw.", PROFILE, *SUMMARY_ROWS)
BOOKS = _table("books", "Each device's books; the newest revision of a key holds.", PROFILE, *BOOKS_ROWS)

ALERTS = _table(
    "alerts",
    "Urgent local decisions, ahead of any backlog; copies of rows.",
    PROFILE,
    _field("device_id", pa.string(), "Stable id of the device."),
    _field("boot_id", pa.int64(), "Random id of one start of the device."),
    _field("seq", pa.int64(), "Window number of the row it copies."),
    _field("event_time", TIME, "UTC end of the window."),
    _field("action", pa.string(), "Local action that started."),
    _field("score", pa.float32(), "Anomaly score; null: fail-safe without a score.", nullable=True),
    _field("model_version", pa.string(), "Version of the model that decided."),
    _field("features", pa.string(), "JSON object of the row's features."),
)

LABELS = _table(
    "labels",
    "Delayed ground truth.",
    _field("label_id", pa.string(), "Id of the label."),
    _field("device_id", pa.string(), "Device that it is about."),
    _field("span_start", TIME, "UTC start of the labelled span."),
    _field("span_end", TIME, "UTC end of the labelled span."),
    _field("label", pa.string(), "The label."),
    _field("source", pa.string(), "Person or system that labelled."),
    _field("confidence", pa.float64(), "In [0, 1]."),
    _field("label_probability", pa.float64(), "Probability that this span was chosen for labelling."),
    _field("supersedes", pa.string(), "Label that this one replaces.", nullable=True),
    _field("labelled_at", TIME, "UTC instant at which the source knew it."),
)

AGGREGATES = _table(
    "aggregates",
    "Partials of window aggregates per cohort and feature; partials of a window add up.",
    _field("event_id", pa.string(), "Task, commit and index that made it."),
    _field("cohort", pa.string(), "profile/site/group/hardware."),
    PROFILE,
    _field("model_version", pa.string(), "Version of the model in force on the devices."),
    _field("feature", pa.string(), "Feature name, or 'score'."),
    _field("window_start", TIME, "UTC start of the window."),
    _field("window_s", pa.float64(), "Length of the window, seconds."),
    _field("part", pa.int32(), "Number of this partial within its task and window."),
    _field("n", pa.int64(), "Device windows that contributed."),
    _field("mean", pa.float64(), "Mean."),
    _field("m2", pa.float64(), "Sum of squared deviations from the mean."),
    _field("min", pa.float64(), "Smallest value."),
    _field("max", pa.float64(), "Largest value."),
    _field("devices", pa.int32(), "Devices that contributed."),
    _field("late", pa.bool_(), "True: came after the window had closed here."),
    _field("watermark", TIME, "Up to where the task had sent everything of the cohort with this partial."),
)

DRIFT = _table(
    "drift",
    "Drift verdicts.",
    _field("event_id", pa.string(), "Task, commit and index that made it."),
    _field("cohort", pa.string(), "profile/site/group/hardware."),
    PROFILE,
    _field("model_version", pa.string(), "Version of the model in force."),
    _field("feature", pa.string(), "Feature that moved, or 'score'."),
    _field("statistic", pa.string(), "level or spread."),
    _field("kind", pa.string(), f"What the evidence suggests: {', '.join(DriftKind)}."),
    _field("onset", TIME, "UTC start of the first window of the new regime."),
    _field("detected", TIME, "UTC end of the window that gave the verdict."),
    _field("size", pa.float64(), "Shift in standard deviations of the window statistic before it, signed."),
    _field("devices", pa.int32(), "Devices that contributed."),
    _field("evidence", pa.string(), "JSON object of the numbers behind it."),
    _field("suggested_action", pa.string(), "What to do."),
)

DEVICE_STATES = _table(
    "device_states",
    "What devices reported of themselves.",
    PROFILE,
    _field("device_id", pa.string(), "Stable id of the device."),
    _field("boot_id", pa.int64(), "Random id of one start of the device."),
    _field("event_time", TIME, "UTC time of the report by the device's clock."),
    _field("model_version", pa.string(), "Version of the model in force."),
    _field("decision", pa.string(), "Local action in force."),
    _field("spool_bytes", pa.int64(), "Size of the spool."),
    _field("pending_rows", pa.int64(), "Rows waiting in the spool."),
    _field("oldest_pending_s", pa.float64(), "Age of the oldest waiting row, seconds."),
    _field(
        "absurd_channel",
        pa.string(),
        "Channel that lost more samples to values outside its range than the profile states; null: none did.",
        nullable=True,
    ),
    _field("absurd_share", pa.float64(), "That share, the largest since the report before.", nullable=True),
    _field(
        "clipped_times",
        pa.int64(),
        "How often numbers of its actions were clipped to the profile's bounds since it started; null: none.",
        nullable=True,
    ),
    _field(
        "clipped_number", pa.string(), "The one clipped most, as action.number; null: none.", nullable=True
    ),
)

DEVICES = _table(
    "devices",
    "History of each device's key, site, group and hardware; cohorts as of a time come from here.",
    _field("device_id", pa.string(), "Stable id; for a gateway, the gateway's."),
    PROFILE,
    _field("site", pa.string(), "Site."),
    _field("group", pa.string(), "Rollout group."),
    _field("hardware", pa.string(), "Hardware class."),
    _field("key_id", pa.string(), "Id of the signing key."),
    _field("public_key", pa.string(), "Signing key, PEM."),
    _field("gateway", pa.string(), "Gateway that sends for it, if any.", nullable=True),
    _field("active", pa.bool_(), "False: its messages are quarantined from known_at on."),
)

TRAINING_SETS = _table(
    "training_sets",
    "Which rows trained or tested which model: lineage from a row to models and back.",
    _field("run_id", pa.string(), "Training run."),
    _field("model_version", pa.string(), "Model that came of it."),
    PROFILE,
    _field("device_id", pa.string(), "Stable id of the device."),
    _field("boot_id", pa.int64(), "Random id of one start of the device."),
    _field("seq", pa.int64(), "Window number since that start."),
    _field("event_time", TIME, "UTC end of the window."),
    _field("part", pa.string(), "train or holdout."),
    _field("weight", pa.float64(), "Weight of the row: 1 / inclusion probability, clipped."),
    _field(
        "label", pa.string(), "Label it was trained with; null: healthy by absence of alarms.", nullable=True
    ),
)

LIFECYCLE = _table(
    "lifecycle",
    "Steps of models' and rollouts' lives.",
    _field("event_id", pa.string(), "Id of the event."),
    _field("event_time", TIME, "UTC."),
    _field("subject", pa.string(), "What it happened to."),
    _field("step", pa.string(), "What happened."),
    _field("detail", pa.string(), "JSON object."),
)

QUARANTINE = _table(
    "quarantine",
    "Messages and rows that were refused, and sums of what nobody signed; the dead-letter topic has bytes.",
    _field("topic", pa.string(), "Source topic, without namespace."),
    _field(
        "producer",
        pa.string(),
        "Who signed it; where `verified` is not true, the message key, which anybody may have written.",
        nullable=True,
    ),
    _field("error", pa.string(), "Class of the error (schemas/errors.py)."),
    _field("reason", pa.string(), "What was wrong."),
    _field(
        "n_rows",
        pa.int64(),
        "Rows lost to queries by it: 1 for a row, what its signed header states for a message, else 0.",
    ),
    _field("n_bytes", pa.int64(), "Size of the refused keys, headers and values; 0 for a row."),
    _field(
        "verified",
        pa.bool_(),
        "True: the signature of a registered producer held; null: written by 0.2.0 or before.",
        nullable=True,
    ),
    _field("n_messages", pa.int64(), "Messages refused: more than 1 in a sum, 0 for a row.", nullable=True),
    _field("last_offset", pa.int64(), "Offset of the last of them; `_offset` is the first.", nullable=True),
    _field(
        "digest",
        pa.string(),
        "SHA-256 of the message (key, headers, value); of a sum, over these in order of offsets.",
        nullable=True,
    ),
)

LANE_GAPS = _table(
    "lane_gaps",
    "How many message numbers of a lane have not arrived; the newest line of a lane holds.",
    _field("device_id", pa.string(), "Producer whose lane it is."),
    _field("spool_id", pa.string(), "Id of the producer's spool file."),
    _field("lane", pa.string(), "Lane, such as live or backlog."),
    _field("missing", pa.int64(), "Numbers below the highest known one that have not arrived."),
)

REPLAYS = _table(
    "replays",
    "Recordings that `edgeloop replay` brought: a row for each start of a device, at begin and end.",
    _field("replay_id", pa.string(), "Id of the replay."),
    _field("content", pa.string(), "SHA-256 over the bytes of the files, whatever their names."),
    _field("files", pa.string(), "JSON list of the files' names."),
    _field("profile", pa.string(), "Profile that it was read with."),
    _field("device_id", pa.string(), "Device that it stands for."),
    _field("boot_id", pa.int64(), "Start of the device that the rows belong to."),
    _field("rows", pa.int64(), "Rows of the files that were used."),
    _field("first_time", TIME, "UTC time of the first of them.", nullable=True),
    _field("last_time", TIME, "UTC time of the last of them.", nullable=True),
    _field("complete", pa.bool_(), "True: every row could be queried."),
)

RETIRED_BOOTS = _table(
    "retired_boots",
    "Starts of devices whose rows do not count, from the cut on that first holds this row; the newest row of "
    "a start holds.",
    _field("device_id", pa.string(), "Stable id of the device."),
    _field("boot_id", pa.int64(), "Start whose rows left the views; the files still hold them."),
    _field("profile", pa.string(), "Profile that the rows were sensed with."),
    _field("reason", pa.string(), "Why."),
    _field("counts", pa.bool_(), "True: from here on its rows count; else they do not.", nullable=True),
)

FIXED_TABLES = (
    SUMMARIES,
    BOOKS,
    ALERTS,
    LABELS,
    AGGREGATES,
    DRIFT,
    DEVICE_STATES,
    DEVICES,
    TRAINING_SETS,
    LIFECYCLE,
    QUARANTINE,
    LANE_GAPS,
    REPLAYS,
    RETIRED_BOOTS,
)
"""Tables that every lake has, whatever its profiles."""


def telemetry_table_name(profile_name: str) -> str:
    """Table of one profile's telemetry."""
    return f"telemetry_{profile_name}"


def telemetry_table(profile: Profile) -> TableSpec:
    """The wide telemetry table of one profile."""
    wire = telemetry_rows(profile)
    return TableSpec(
        telemetry_table_name(profile.name),
        f"Rows that devices of profile {profile.name} sent, with inclusion probabilities.",
        pa.schema([*wire, *LANDED_TELEMETRY, *PROVENANCE]),
    )


TELEMETRY_COMMON = pa.schema([PROFILE, *TELEMETRY_HEAD, *TELEMETRY_TAIL, *LANDED_TELEMETRY, *PROVENANCE])
"""Columns of the union view ``telemetry``: what the telemetry tables of all profiles share."""

"""The views analysts query: names, columns and what they mean.

A contract like the tables: a published view is never renamed, its columns are only added to. The SQL behind
them is the feature store's.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

BOOKS_STATEMENTS = "books_statements"
"""View of the raw table ``books``; the view ``books`` holds the newest revision of each key."""


class ViewColumn(NamedTuple):
    """One column: SQL type and one line of documentation."""

    name: str
    kind: str
    doc: str


class ViewSpec(NamedTuple):
    """One view that is more than a table."""

    name: str
    doc: str
    columns: tuple[ViewColumn, ...]


def _view(name: str, doc: str, *columns: tuple[str, str, str]) -> ViewSpec:
    return ViewSpec(name, doc, tuple(ViewColumn(*c) for c in columns))


ALARMS = _view(
    "alarms",
    "Spans of local action: one row per start, from the row that was sent, the alert ahead of it, or both.",
    ("device_id", "VARCHAR", "Stable id of the device."),
    ("profile", "VARCHAR", "Profile the device runs."),
    ("boot_id", "BIGINT", "Random id of one start of the device."),
    ("seq", "BIGINT", "Window number of the first window of the span."),
    ("event_time", "TIMESTAMPTZ", "UTC end of that window."),
    ("action", "VARCHAR", "Local action that started."),
    ("score", "FLOAT", "Anomaly score that started it; null: no usable score."),
    ("model_version", "VARCHAR", "Version of the model that decided."),
    ("fail_safe", "BOOLEAN", "True: it started because there was no usable score."),
    ("alerted", "BOOLEAN", "True: an alert came ahead of the row."),
    (
        "until",
        "TIMESTAMPTZ",
        "UTC end of the window in which the next action or idle began; null: none known.",
    ),
    ("known_at", "TIMESTAMPTZ", "UTC instant when we could first know of it."),
)

FLEET = _view(
    "fleet",
    "Every registered device with its newest place and its newest report.",
    ("device_id", "VARCHAR", "Stable id."),
    ("profile", "VARCHAR", "Profile it is registered with."),
    ("site", "VARCHAR", "Site."),
    ("group", "VARCHAR", "Rollout group."),
    ("hardware", "VARCHAR", "Hardware class."),
    ("gateway", "VARCHAR", "Gateway that speaks for it, if any."),
    ("active", "BOOLEAN", "False: revoked, its messages are quarantined."),
    ("key_id", "VARCHAR", "Id of its signing key."),
    ("registered_at", "TIMESTAMPTZ", "UTC instant of its newest registration."),
    ("boot_id", "BIGINT", "Start of the device that reported last; null: it never reported."),
    ("event_time", "TIMESTAMPTZ", "UTC time of that report by the device's clock."),
    ("model_version", "VARCHAR", "Version of the model in force."),
    ("decision", "VARCHAR", "Local action in force."),
    ("spool_bytes", "BIGINT", "Size of its spool."),
    ("pending_rows", "BIGINT", "Rows waiting in its spool."),
    ("oldest_pending_s", "DOUBLE", "Age of the oldest waiting row, seconds."),
    ("last_seen", "TIMESTAMPTZ", "UTC instant its newest report reached the log."),
)

DATA_QUALITY = _view(
    "data_quality",
    "Per device: what it says it sensed against what landed. At drain acked = landed + quarantined.",
    ("device_id", "VARCHAR", "Stable id; of an unknown producer, the id it claims."),
    ("registered", "BOOLEAN", "True: the device is registered with this lake."),
    ("sensed", "BIGINT", "Rows sensed, by its newest books."),
    ("acked", "BIGINT", "Rows the broker has acknowledged."),
    ("filtered", "BIGINT", "Rows its filter did not select."),
    ("evicted", "BIGINT", "Rows given up because its spool was full."),
    ("refused", "BIGINT", "Rows that can never be sent."),
    ("pending", "BIGINT", "Rows that waited when the books were stated."),
    ("landed", "BIGINT", "Telemetry rows in this cut."),
    ("quarantined", "BIGINT", "Telemetry rows that were refused here."),
    ("quarantined_messages", "BIGINT", "Refusals of any kind: messages and single rows."),
    ("time_suspect", "BIGINT", "Landed rows whose own time was not believable."),
    ("gaps", "BIGINT", "Blocks of the books that the device gave up whole."),
    ("last_row_at", "TIMESTAMPTZ", "UTC instant its newest row reached the log."),
)

COHORTS = _view(
    "cohorts",
    "Devices by profile, site, group and hardware, as registered last.",
    ("cohort", "VARCHAR", "profile/site/group/hardware."),
    ("profile", "VARCHAR", "Profile."),
    ("site", "VARCHAR", "Site."),
    ("group", "VARCHAR", "Rollout group."),
    ("hardware", "VARCHAR", "Hardware class."),
    ("devices", "BIGINT", "Registered devices."),
    ("active", "BIGINT", "Devices that are not revoked."),
)

CUT = _view(
    "cut",
    "The cut that all views of this connection read; one row.",
    ("id", "BIGINT", "Its number; 0: nothing has been recorded yet."),
    ("created", "TIMESTAMPTZ", "UTC instant it was recorded; null: nothing has been."),
)

DERIVED_VIEWS = (ALARMS, FLEET, DATA_QUALITY, COHORTS, CUT)


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type that our tables use."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ" if kind.tz else "TIMESTAMP"
    return _SQL_TYPES[str(kind)]


_SQL_TYPES = {
    "bool": "BOOLEAN",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "binary": "BLOB",
    "date32[day]": "DATE",
}

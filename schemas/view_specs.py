"""The views that analysts query: names, columns and their meaning.

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
    "Local actions that were alarms: one row an incident and severity, from the row, its alert, or both.",
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
        "UTC end of the window in which the next action or idle began; over a restart, first sign of a later "
        "start at rest; null: none known.",
    ),
    ("known_at", "TIMESTAMPTZ", "UTC instant when we could first know of it."),
)

FLEET = _view(
    "fleet",
    "Every registered device with its newest registration and its newest report.",
    ("device_id", "VARCHAR", "Stable id."),
    ("profile", "VARCHAR", "Profile it is registered with."),
    ("site", "VARCHAR", "Site."),
    ("group", "VARCHAR", "Rollout group."),
    ("hardware", "VARCHAR", "Hardware class."),
    ("gateway", "VARCHAR", "Gateway that sends for it, if any."),
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
    "Per device: rows sensed, by its books, and rows landed. When all is sent acked = landed + quarantined.",
    ("device_id", "VARCHAR", "Stable id; of an unknown producer, the id it claims."),
    ("registered", "BOOLEAN", "True: the device is registered with this lake."),
    ("sensed", "BIGINT", "Rows sensed, by its newest books."),
    ("acked", "BIGINT", "Rows the broker has acknowledged."),
    ("filtered", "BIGINT", "Rows its filter did not select."),
    ("evicted", "BIGINT", "Rows given up because its spool was full."),
    ("refused", "BIGINT", "Rows that can never be sent."),
    ("pending", "BIGINT", "Rows that waited when the books were stated."),
    ("landed", "BIGINT", "Telemetry rows in this cut."),
    ("quarantined", "BIGINT", "Telemetry rows that it signed and that were refused here."),
    ("quarantined_messages", "BIGINT", "Refusals of any kind of what it signed: messages and single rows."),
    ("time_suspect", "BIGINT", "Landed rows whose own time was implausible."),
    ("gaps", "BIGINT", "Blocks of the books that the device gave up whole."),
    ("last_row_at", "TIMESTAMPTZ", "UTC instant its newest row reached the log."),
    ("missing_messages", "BIGINT", "Message numbers that it has used and that have not arrived."),
    ("out_of_range", "BIGINT", "Landed rows with samples outside their range in a row; always sent."),
    (
        "absurd_share",
        "DOUBLE",
        "Largest share of a channel's recent samples outside its range that its last start reported; null: "
        "never more than the profile's max_absurd.",
    ),
    ("absurd_channel", "VARCHAR", "That channel."),
    ("context", "BIGINT", "Landed rows that a later trigger had sent, to be looked at; in no estimate."),
    (
        "numbers_clipped",
        "BIGINT",
        "How often numbers of its actions were clipped to the profile's bounds, as its last start reported; "
        "null: none was.",
    ),
    ("clipped_number", "VARCHAR", "The one clipped most, as action.number."),
)

MISSING_CHANNELS = _view(
    "missing_channels",
    "Which channels were missing in the windows of landed rows; one line a row and channel.",
    ("profile", "VARCHAR", "Profile."),
    ("device_id", "VARCHAR", "Stable id of the device."),
    ("boot_id", "BIGINT", "Random id of one start of the device."),
    ("seq", "BIGINT", "Window number since that start."),
    ("event_time", "TIMESTAMPTZ", "UTC end of the window."),
    ("channel", "VARCHAR", "Channel; null: at least one from the 15th on, which ones is not known."),
    ("score", "FLOAT", "Score of the other channels; null: no usable score without it."),
)

REFUSALS = _view(
    "refusals",
    "What was refused, by who signed it, topic, partition and error; what nobody signed is one pool.",
    ("device_id", "VARCHAR", "Who signed it; null: nobody registered, or it was written by 0.2.0 or before."),
    ("verified", "BOOLEAN", "True: a registered producer signed it; false: nobody; null: 0.2.0 or before."),
    ("topic", "VARCHAR", "Source topic, without namespace."),
    ("partition", "INTEGER", "Partition of the source topic."),
    ("error", "VARCHAR", "Class of the error (schemas/errors.py)."),
    ("messages", "BIGINT", "Messages refused whole."),
    ("single_rows", "BIGINT", "Rows refused out of messages that landed."),
    ("rows", "BIGINT", "Rows lost to queries by both, by signed headers."),
    ("bytes", "BIGINT", "Keys, headers and values of these messages."),
    ("first_at", "TIMESTAMPTZ", "UTC instant the first reached the log."),
    ("last_at", "TIMESTAMPTZ", "UTC instant the last reached the log; of a sum, its first message's."),
    ("reason", "VARCHAR", "Reason of the newest."),
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

JOB_PROGRESS = _view(
    "job_progress",
    "How far the tables of each user job are behind the rows of this cut; one row a job and task.",
    ("job", "VARCHAR", "Name of the job."),
    ("task", "VARCHAR", "Task whose commits it reads: partition p of every topic is task p."),
    ("reached", "BIGINT", "Newest commit of the task that the job's tables take into account."),
    ("newest", "BIGINT", "Newest commit of the task in this cut."),
    ("behind", "BIGINT", "Commits that the job has yet to read; 0: its tables fit the other tables."),
    ("reached_at", "TIMESTAMPTZ", "UTC instant of the commit that it has reached; null: none yet."),
)

MODEL_VERSIONS = _view(
    "model_versions",
    "Every model version that rows or the lifecycle name: where and when it ran, and the steps of its life.",
    ("model_version", "VARCHAR", "Version: family-major.digest."),
    ("family", "VARCHAR", "Model family."),
    ("first_seen", "TIMESTAMPTZ", "UTC start of its first summary or end of its first row; null: never ran."),
    ("last_seen", "TIMESTAMPTZ", "UTC start of its newest summary or end of its newest row."),
    ("devices", "BIGINT", "Devices that it ran on, in force or in shadow."),
    ("windows", "BIGINT", "Windows that it scored, by summaries."),
    ("rows", "BIGINT", "Landed telemetry rows that it decided."),
    ("steps", "VARCHAR[]", "Steps of its life in order, from lifecycle."),
    ("last_step", "VARCHAR", "The newest of them; null: none is known, as for a factory model."),
    ("last_step_at", "TIMESTAMPTZ", "UTC time of that step."),
)

MODEL_PERFORMANCE = _view(
    "model_performance",
    "How each model version did, by cohort, site and day: scores and alarms, how right it was where labels "
    "are known (later ones revise it), and beside the other version that scored the same windows.",
    ("profile", "VARCHAR", "Profile."),
    ("model_version", "VARCHAR", "Version."),
    ("cohort", "VARCHAR", "profile/site/group/hardware at that time; empty: the device is not registered."),
    ("site", "VARCHAR", "Site."),
    ("day", "DATE", "UTC day of the event time."),
    ("period_start", "TIMESTAMPTZ", "UTC start of that day."),
    ("period_s", "DOUBLE", "Length of the day, seconds."),
    ("devices", "BIGINT", "Devices that it scored windows of, in force or in shadow."),
    ("windows", "BIGINT", "Windows with a score."),
    ("missing", "BIGINT", "Windows without one."),
    ("mean_score", "DOUBLE", "Mean score; null: no window has one."),
    ("share_045", "DOUBLE", "Share of windows with a score of 0.45 or more; null: other bin edges."),
    ("share_06", "DOUBLE", "Share of windows with a score of 0.6 or more."),
    ("share_09", "DOUBLE", "Share of windows with a score of 0.9 or more."),
    ("device_days", "DOUBLE", "Days that devices sensed with it in force, by summary periods."),
    ("alarms", "BIGINT", "Alarms that it raised, as in `alarms`."),
    (
        "alarms_per_device_day",
        "DOUBLE",
        "The same by device_days; an alarm whose row was thinned counts 1/q. Null: never in force that day.",
    ),
    ("basis", "VARCHAR", "labels: of precision and recall at least one is known; else not estimable."),
    ("judged_alarms", "BIGINT", "Alarms within a labelled span."),
    (
        "precision",
        "DOUBLE",
        "Share of these in a fault's span, each weighted by 1/label_probability; null: not estimable.",
    ),
    ("labelled_faults", "BIGINT", "Labelled faults that began under it that day."),
    ("recall", "DOUBLE", "Share of these with an alarm, weighted alike; null: not estimable."),
    ("delay_s", "DOUBLE", "Mean seconds from their start to the alarm; 0: it was on; null: none was found."),
    ("label_coverage", "DOUBLE", "Share of its windows in force that lie in a labelled span."),
    ("against", "VARCHAR", "Version that scored the most of the same windows, one of both in shadow."),
    ("paired_windows", "BIGINT", "Such windows."),
    ("paired_difference", "DOUBLE", "Mean score less that of the other version on these."),
    (
        "agreement",
        "DOUBLE",
        "Largest share of these on which both were in alarm or both were not, by the counts of summary "
        "periods and of the output that raises most alarms; null: no rule's `enter` is a bin edge.",
    ),
)

MODEL_COMPARISONS = _view(
    "model_comparisons",
    "Pairs of model versions that scored the same windows, as shadows do; each device counts once.",
    ("profile", "VARCHAR", "Profile."),
    ("model_version", "VARCHAR", "One version."),
    ("against", "VARCHAR", "The other; each pair appears both ways."),
    ("first_period", "TIMESTAMPTZ", "UTC start of the first period that both scored."),
    ("last_period", "TIMESTAMPTZ", "UTC start of the last one."),
    ("devices", "BIGINT", "Devices on which both scored the same windows."),
    ("windows", "BIGINT", "Such windows."),
    ("mean_difference", "DOUBLE", "Mean over devices of the mean score less that of the other version."),
    ("standard_error", "DOUBLE", "Of the mean difference, from its spread over devices; null: one device."),
)

RELEASE_OUTCOMES = _view(
    "release_outcomes",
    "What each rollout of a model brought, as measured last: its loop times, and champion and released model "
    "on the same windows since it began.",
    ("rollout_id", "VARCHAR", "Rollout."),
    ("group", "VARCHAR", "Rollout group."),
    ("model_version", "VARCHAR", "Released model."),
    ("champion", "VARCHAR", "Model that the group ran before."),
    ("state", "VARCHAR", "How the rollout ended."),
    ("revision", "INTEGER", "Number of the measurement; it is repeated as labels come."),
    ("measured_at", "TIMESTAMPTZ", "UTC instant of it."),
    ("onset", "TIMESTAMPTZ", "UTC start of the drift that led to the model; null: no drift did."),
    ("verdict", "TIMESTAMPTZ", "UTC end of the window that gave the first verdict on it."),
    ("run", "TIMESTAMPTZ", "UTC start of the training run."),
    ("trained", "TIMESTAMPTZ", "UTC end of it."),
    ("gated", "TIMESTAMPTZ", "UTC instant of the last gate."),
    ("published", "TIMESTAMPTZ", "UTC instant of its publication."),
    ("started", "TIMESTAMPTZ", "UTC start of the rollout."),
    ("first_device", "TIMESTAMPTZ", "UTC instant of the first report of a device that keeps the model."),
    ("last_device", "TIMESTAMPTZ", "The same of the last device; null: no device keeps it."),
    ("ended", "TIMESTAMPTZ", "UTC end of the rollout."),
    ("loop_s", "DOUBLE", "Seconds from the first of these that is known to last_device."),
    (
        "basis",
        "VARCHAR",
        "labels, or not estimable: no label covers a window that both scored; null: not yet.",
    ),
    ("devices", "BIGINT", "Devices with windows that both scored."),
    ("windows", "BIGINT", "Such windows."),
    ("gain", "DOUBLE", "Gain in 1 - Brier score by labels; null: not estimable."),
    ("gain_low", "DOUBLE", "Lower end of its 95 % interval over devices."),
    ("gain_high", "DOUBLE", "Upper end."),
    ("recall", "DOUBLE", "Share of the windows in a labelled fault that the released model alarmed."),
    ("champion_recall", "DOUBLE", "The same of the champion."),
    ("precision", "DOUBLE", "Share of its alarmed windows with a label that were in a fault."),
    ("champion_precision", "DOUBLE", "The same of the champion."),
    ("alarm_share", "DOUBLE", "Share of these windows that the released model alarmed."),
    ("champion_alarm_share", "DOUBLE", "The same of the champion."),
    ("agreement", "DOUBLE", "Largest share of these windows on which both were in alarm or both were not."),
)

LINEAGE = _view(
    "lineage",
    "Which rows trained and tested which model: ask by model_version, or by device_id, boot_id and seq.",
    ("model_version", "VARCHAR", "Model that came of it."),
    ("run_id", "VARCHAR", "Training run."),
    ("cut", "BIGINT", "Cut that the run read; null: its lifecycle has not reached the lake yet."),
    ("pin", "VARCHAR", "Pin that keeps that cut: connect(cut=pin) shows what the run read."),
    ("profile", "VARCHAR", "Profile."),
    ("device_id", "VARCHAR", "Stable id of the device."),
    ("boot_id", "BIGINT", "Random id of one start of the device."),
    ("seq", "BIGINT", "Window number since that start."),
    ("event_time", "TIMESTAMPTZ", "UTC end of the window."),
    ("part", "VARCHAR", "train or holdout."),
    ("weight", "DOUBLE", "What the row stood for."),
    ("label", "VARCHAR", "Label it was used with; null: healthy by absence of alarms."),
    ("scored_by", "VARCHAR", "Model that scored the row on the device; null: the row is in no table here."),
    ("score", "FLOAT", "Its score."),
    ("decision", "VARCHAR", "Local action in force after that window."),
    ("known_at", "TIMESTAMPTZ", "UTC instant the use was recorded."),
)

DAMAGED_FILES = _view(
    "damaged_files",
    "Data files that the cut names and no view reads, because they are missing or altered; normally empty.",
    ("table_name", "VARCHAR", "Table that lacks their rows."),
    ("path", "VARCHAR", "File, relative to the table's folder."),
    ("rows", "BIGINT", "Rows it held; null: not known."),
    ("reason", "VARCHAR", "What is wrong with it."),
    ("found_at", "TIMESTAMPTZ", "UTC instant it was found damaged."),
)

DERIVED_VIEWS = (
    ALARMS,
    FLEET,
    DATA_QUALITY,
    MISSING_CHANNELS,
    REFUSALS,
    COHORTS,
    CUT,
    JOB_PROGRESS,
    MODEL_VERSIONS,
    MODEL_PERFORMANCE,
    MODEL_COMPARISONS,
    RELEASE_OUTCOMES,
    LINEAGE,
    DAMAGED_FILES,
)


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type that our tables use."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ" if kind.tz else "TIMESTAMP"
    return _SQL_TYPES[str(kind)]


def arrow_type(sql: str) -> pa.DataType:
    """Arrow type of a DuckDB type that our tables use."""
    if sql.endswith("[]"):
        return pa.list_(arrow_type(sql[:-2]))
    if sql in ("TIMESTAMPTZ", "TIMESTAMP"):
        return pa.timestamp("us", tz="UTC" if sql == "TIMESTAMPTZ" else None)
    [name] = [name for name, known in _SQL_TYPES.items() if known == sql]
    return pa.type_for_alias(name)


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

"""SQL of the views: every table of a cut, and what is derived from them (``schemas/view_specs.py``)."""

# ruff: noqa: S608  # the SQL is made of constants, and of names and texts that the door quotes

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from feature_store import duck
from feature_store.block_sql import context_sql
from feature_store.cut import Cut, TableCut
from feature_store.damage_list import DamagedFile
from feature_store.data_file import origin
from feature_store.labels import LABELLER
from feature_store.lineage_view import LINEAGE
from feature_store.model_views import MODEL_COMPARISONS, MODEL_VERSIONS
from feature_store.performance_view import model_performance
from feature_store.release_view import OUTCOMES
from feature_store.retired_sql import RETIRED_NOW, corrected_aggregates_sql
from feature_store.sound_cut import SoundCut
from schemas.boot_ids import GATEWAY
from schemas.profile import Profile
from schemas.row_schemas import LAST_CHANNEL_BIT, Reason, channel_bit
from schemas.tables import (
    AGGREGATES,
    BOOKS,
    FIXED_TABLES,
    PARTITION_COLUMN,
    REPLAYS,
    RETIRED_BOOTS,
    SUMMARIES,
    TELEMETRY_COMMON,
    telemetry_table,
    telemetry_table_name,
)
from schemas.topics import TELEMETRY
from schemas.view_specs import BOOKS_STATEMENTS, DAMAGED_FILES, JOB_PROGRESS, MISSING_CHANNELS, sql_type

_BOOKS_KEY = "device_id, boot_id, period_start, model_version, stratum"
_PREFIX = telemetry_table_name("")


def statements(root: Path, sound: SoundCut, profiles: Mapping[str, Profile]) -> list[str]:
    """``CREATE VIEW`` statements for a cut, in order.

    Args:
        root: The lake's folder; empty: files are named relative to it.
        sound: Which files to read, and which are left out.
        profiles: Registered profiles, by name: each has its table, an empty one if the cut has none.
    """
    cut, today = sound.cut, _columns_today(profiles)
    tables = {name: TableCut(-1, columns, ()) for name, columns in today.items()} | dict(cut.tables)
    views = {
        (BOOKS_STATEMENTS if name == BOOKS.name else name): _table(root / name, table, today.get(name, {}))
        for name, table in tables.items()
    }
    if tables[RETIRED_BOOTS.name].files:
        views = _without_retired(views, tables, today)
    telemetry = [t.removeprefix(_PREFIX) for t in tables if t.startswith(_PREFIX)]
    views |= {
        "telemetry": _telemetry(telemetry),
        "books": _books(),
        "alarms": _alarms({p.name: p.decision.resting for p in profiles.values()}),
        "fleet": _FLEET,
        "data_quality": _DATA_QUALITY,
        MISSING_CHANNELS.name: _missing_channels(profiles),
        "refusals": _REFUSALS,
        "cohorts": _COHORTS,
        "cut": _cut(cut),
        JOB_PROGRESS.name: _job_progress(cut),
        "model_versions": MODEL_VERSIONS,
        "model_performance": model_performance(profiles.values()),
        "model_comparisons": MODEL_COMPARISONS,
        "release_outcomes": OUTCOMES,
        "lineage": LINEAGE,
        "damaged_files": _damaged_files(sound.left_out),
    }
    return [f"CREATE VIEW {duck.name(view)} AS {sql}" for view, sql in views.items()]


def _without_retired(
    views: Mapping[str, str], tables: Mapping[str, TableCut], today: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """The views of a cut that holds retired starts: first these, then tables without their rows."""
    retired = f"({RETIRED_NOW}) AS retired"
    found = {RETIRED_BOOTS.name: views[RETIRED_BOOTS.name]}
    for view, sql in views.items():
        table = BOOKS.name if view == BOOKS_STATEMENTS else view
        columns = {**tables[table].columns, **today.get(table, {})}
        if view in (RETIRED_BOOTS.name, REPLAYS.name):
            found[view] = sql
        elif {"device_id", "boot_id"} <= columns.keys():
            found[view] = f"SELECT * FROM ({sql}) ANTI JOIN {retired} USING (device_id, boot_id)"
        else:
            found[view] = sql
    summaries = f"SELECT * FROM ({views[SUMMARIES.name]}) SEMI JOIN {retired} USING (device_id, boot_id)"
    del found[AGGREGATES.name]  # it comes last: it is made of other tables
    return {**found, AGGREGATES.name: corrected_aggregates_sql(views[AGGREGATES.name], summaries)}


def _columns_today(profiles: Mapping[str, Profile]) -> dict[str, dict[str, str]]:
    """SQL type by column, for each table that a lake has by now."""
    specs = [*FIXED_TABLES, *(telemetry_table(p) for _, p in sorted(profiles.items()))]
    return {s.name: {f.name: sql_type(f.type) for f in s.schema} for s in specs}


def _table(folder: Path, table: TableCut, today: Mapping[str, str]) -> str:
    """SQL of one table of the cut; a column that no file has is typed all the same.

    Args:
        folder: The table's folder.
        table: Its files and columns in the cut.
        today: Columns that the table has by now: an older cut lacks those that were added since.
    """
    columns = {**table.columns, **{c: k for c, k in today.items() if c not in table.columns}}
    columns[PARTITION_COLUMN] = "DATE"
    if not table.files:
        return _empty(columns)
    widths = {found.width if (found := origin(f)) else len(table.columns) for f in table.files}
    held = {*list(table.columns)[: max(widths)], PARTITION_COLUMN}
    chosen = (duck.name(c) if c in held else f"NULL::{k} AS {duck.name(c)}" for c, k in columns.items())
    files = duck.file_list(folder / f for f in table.files)
    return (
        f"SELECT {', '.join(chosen)} FROM read_parquet({files}, hive_partitioning = true, "
        f"hive_types = {{'{PARTITION_COLUMN}': DATE}}, union_by_name = {str(len(widths) > 1).lower()})"
    )


def _empty(columns: Mapping[str, str]) -> str:
    return "SELECT " + ", ".join(f"NULL::{k} AS {duck.name(c)}" for c, k in columns.items()) + " WHERE false"


def _telemetry(profiles: Iterable[str]) -> str:
    shared = [f.name for f in TELEMETRY_COMMON if f.name != "profile"]
    columns = ", ".join(duck.name(c) for c in [*shared, PARTITION_COLUMN])
    parts = [
        f"SELECT {duck.text(p)} AS profile, {columns} FROM {duck.name(telemetry_table_name(p))}"
        for p in profiles
    ]
    types = {f.name: sql_type(f.type) for f in TELEMETRY_COMMON}
    return " UNION ALL ".join(parts) or _empty({**types, PARTITION_COLUMN: "DATE"})


def _books() -> str:
    newest = f"row_number() OVER (PARTITION BY {_BOOKS_KEY} ORDER BY revision DESC, known_at DESC)"
    return f"SELECT * FROM {BOOKS_STATEMENTS} QUALIFY {newest} = 1"


def _alarms(resting: Mapping[str, Sequence[str]]) -> str:
    """SQL of the view ``alarms``: spans of action without those that go on with an incident."""
    return f"SELECT * EXCLUDE (repeated) FROM ({alarms_sql(resting)}) WHERE NOT repeated"


def alarms_sql(resting: Mapping[str, Sequence[str]], known: str = "true") -> str:
    """SQL of all spans of action; ``repeated``: it goes on with an incident that has had its alarm.

    Args:
        resting: Each profile's actions that are no alarm: idle, and routine ones of its decision function.
        known: Condition on rows and alerts: an instant before which they must have been known.
    """
    lists = {p: ", ".join(map(duck.text, names)) for p, names in sorted(resting.items())}
    whens = "".join(f" WHEN {duck.text(p)} THEN [{names}]" for p, names in lists.items())
    no_alarms = f"CASE profile{whens} ELSE ['none'] END" if whens else "['none']"
    return f"""
WITH transitions AS (
    SELECT profile, device_id, boot_id, seq, event_time, decision AS action, score, model_version,
        (reasons & {int(Reason.FAIL_SAFE)}) <> 0 AS fail_safe, false AS alerted,
        (reasons & {int(Reason.REPEATED)}) <> 0 AS repeated, known_at
    FROM telemetry WHERE (reasons & {int(Reason.TRANSITION)}) <> 0 AND {known}
), starts AS (
    SELECT * FROM transitions
    UNION ALL BY NAME
    -- An alert copies a row that may arrive much later: both are one start, grouped below. Where a decision
    -- function has overruled the alarm of the rules, only the alert names it.
    SELECT profile, device_id, boot_id, seq, event_time, action, score, model_version,
        score IS NULL AS fail_safe, true AS alerted, false AS repeated, known_at FROM alerts WHERE {known}
), spans AS (
    SELECT device_id, profile, boot_id, seq, min(event_time) AS event_time,
        coalesce(any_value(action) FILTER (alerted), any_value(action)) AS action,
        any_value(score) AS score, any_value(model_version) AS model_version,
        bool_or(fail_safe) AS fail_safe, bool_or(alerted) AS alerted, bool_and(repeated) AS repeated,
        min(known_at) AS known_at
    FROM starts GROUP BY device_id, profile, boot_id, seq
), ends AS (
    -- A span ends with the next transition of the same boot, into idle or into another action.
    SELECT *, lead(event_time) OVER (PARTITION BY device_id, boot_id ORDER BY seq) AS next FROM spans
), acting AS (
    SELECT * FROM ends WHERE NOT list_contains({no_alarms}, action)
), {_later_ends_sql(no_alarms, known)}
SELECT device_id, profile, boot_id, seq, event_time, action, score, model_version, fail_safe, alerted,
    coalesce(next, rests_at) AS until, known_at, repeated
FROM acting LEFT JOIN later_ends USING (device_id, boot_id, seq)"""


def _later_ends_sql(no_alarms: str, known: str) -> str:
    """CTEs up to ``later_ends``: where a span of ``acting`` ends that no transition of its own boot ended."""
    return f"""open_spans AS (
    SELECT device_id, boot_id, seq, event_time FROM acting WHERE next IS NULL
), signs AS (
    SELECT profile, device_id, boot_id, event_time, decision, known_at FROM telemetry
    WHERE {known} AND NOT time_suspect
    UNION ALL SELECT profile, device_id, boot_id, event_time, decision, known_at FROM device_states
    WHERE {known}
    UNION ALL SELECT profile, device_id, boot_id, event_time, action, known_at FROM starts
), boots AS (
    SELECT device_id, boot_id, min(known_at) AS first_known FROM signs
    SEMI JOIN open_spans USING (device_id) GROUP BY ALL
), rests AS (
    -- The first of each hour is enough: nearly always it is the first of its boot.
    SELECT device_id, boot_id, min(event_time) AS rests_at FROM signs SEMI JOIN open_spans USING (device_id)
    WHERE list_contains({no_alarms}, decision) GROUP BY device_id, boot_id, date_trunc('hour', event_time)
), later_ends AS (
    -- A start goes on with the action in force, or begins idle where its state was lost: what was in force
    -- when a boot ended is over with the first sign of a later one in which it is not.
    SELECT o.device_id, o.boot_id, o.seq, min(r.rests_at) AS rests_at
    FROM open_spans o JOIN rests r ON o.device_id = r.device_id AND o.boot_id <> r.boot_id
        AND r.rests_at > o.event_time
    JOIN boots own ON own.device_id = o.device_id AND own.boot_id = o.boot_id
    JOIN boots other ON other.device_id = r.device_id AND other.boot_id = r.boot_id
        AND other.first_known >= own.first_known
    GROUP BY ALL
)"""


_NEWEST_DEVICES = f"""(
    SELECT * FROM devices WHERE hardware NOT IN ('{LABELLER}', '{GATEWAY}')
    QUALIFY row_number() OVER (PARTITION BY device_id ORDER BY _offset DESC, _row DESC) = 1)"""

_FLEET = f"""
SELECT d.device_id, d.profile, d.site, d."group", d.hardware, d.gateway, d.active, d.key_id,
    d.known_at AS registered_at, s.boot_id, s.event_time, s.model_version, s.decision, s.spool_bytes,
    s.pending_rows, s.oldest_pending_s, s.known_at AS last_seen
FROM {_NEWEST_DEVICES} d
LEFT JOIN (
    SELECT * FROM device_states
    QUALIFY row_number() OVER (PARTITION BY device_id ORDER BY known_at DESC, _offset DESC, _row DESC) = 1
) s USING (device_id)"""

_COHORTS = f"""
SELECT concat_ws('/', profile, site, "group", hardware) AS cohort, profile, site, "group", hardware,
    count(*) AS devices, count(*) FILTER (active) AS active
FROM {_NEWEST_DEVICES} GROUP BY ALL"""

_COUNTS = ("sensed", "acked", "filtered", "evicted", "refused", "pending")

_DATA_QUALITY = f"""
WITH stated AS (
    SELECT device_id, {", ".join(f"{duck.total(c)} AS {c}" for c in _COUNTS)},
        count(*) FILTER (gap) AS gaps
    FROM books GROUP BY device_id
), landed AS (
    SELECT device_id, count(*) AS landed, count(*) FILTER (time_suspect) AS time_suspect,
        max(known_at) AS last_row_at,
        count(*) FILTER ((reasons & {int(Reason.OUT_OF_RANGE)}) <> 0) AS out_of_range,
        count(*) FILTER ({context_sql("reasons")}) AS context
    FROM telemetry GROUP BY device_id
), refusals AS (
    SELECT producer AS device_id,
        {duck.total("n_rows", f"topic = '{TELEMETRY.base}' AND verified")} AS quarantined,
        {duck.total("greatest(coalesce(n_messages, 1), 1)")} AS quarantined_messages
    -- What nobody signed says nothing about anybody, whatever key it bears. 0.2.0 did not note who signed:
    -- what its rows claim balances no books.
    FROM quarantine WHERE producer IS NOT NULL AND verified IS NOT false GROUP BY producer
), unheard AS (
    SELECT device_id, {duck.total("missing")} AS missing_messages FROM (
        SELECT * FROM lane_gaps QUALIFY row_number() OVER (
            PARTITION BY device_id, spool_id, lane ORDER BY known_at DESC, _offset DESC, _row DESC) = 1
    ) GROUP BY device_id
), reported AS (
    SELECT device_id, max(absurd_share) AS absurd_share,
        arg_max(absurd_channel, absurd_share) AS absurd_channel,
        max(clipped_times) AS numbers_clipped,
        arg_max(clipped_number, clipped_times) AS clipped_number
    FROM device_states GROUP BY device_id, boot_id
    QUALIFY row_number() OVER (PARTITION BY device_id ORDER BY max(known_at) DESC) = 1
), known AS (SELECT DISTINCT device_id, true AS registered FROM devices)
SELECT device_id, coalesce(registered, false) AS registered,
    {", ".join(f"coalesce({c}, 0) AS {c}" for c in _COUNTS)},
    coalesce(landed, 0) AS landed, coalesce(quarantined, 0) AS quarantined,
    coalesce(quarantined_messages, 0) AS quarantined_messages,
    coalesce(time_suspect, 0) AS time_suspect, coalesce(gaps, 0) AS gaps, last_row_at,
    coalesce(missing_messages, 0) AS missing_messages, coalesce(out_of_range, 0) AS out_of_range,
    absurd_share, absurd_channel, coalesce(context, 0) AS context, numbers_clipped, clipped_number
FROM known FULL JOIN stated USING (device_id) FULL JOIN landed USING (device_id)
    FULL JOIN refusals USING (device_id) FULL JOIN unheard USING (device_id)
    LEFT JOIN reported USING (device_id)"""


def _missing_channels(profiles: Mapping[str, Profile]) -> str:
    """SQL of the view ``missing_channels``: bits of ``reasons``, by the newest version of each profile."""
    lines = [
        f"({duck.text(p.name)}, {channel_bit(n)}, {duck.text(name) if n < LAST_CHANNEL_BIT else 'NULL'})"
        for p in profiles.values()
        for n, name in enumerate(p.channel_names[: LAST_CHANNEL_BIT + 1])
    ]
    if not lines:
        return _empty({c.name: c.kind for c in MISSING_CHANNELS.columns})
    return f"""
SELECT profile, device_id, boot_id, seq, event_time, channel::VARCHAR AS channel, score
FROM telemetry JOIN (VALUES {", ".join(lines)}) AS c(profile, channel_bit, channel) USING (profile)
WHERE (reasons & channel_bit) <> 0"""


def _damaged_files(left_out: Iterable[DamagedFile]) -> str:
    columns = {column.name: column.kind for column in DAMAGED_FILES.columns}
    parts = []
    for file in left_out:
        found = duck.text(file.found.isoformat())
        values = (duck.text(file.table), duck.text(file.path), file.rows, duck.text(file.reason), found)
        shown = zip(("NULL" if v is None else v for v in values), columns.items(), strict=True)
        parts.append("SELECT " + ", ".join(f"{v}::{kind} AS {duck.name(c)}" for v, (c, kind) in shown))
    return " UNION ALL ".join(parts) or _empty(columns)


_REFUSALS = f"""
SELECT CASE WHEN verified THEN producer END AS device_id, verified, topic, _partition AS partition, error,
    {duck.total("coalesce(n_messages, 1)")} AS messages,
    count(*) FILTER (n_messages = 0) AS single_rows,
    {duck.total("n_rows")} AS "rows", {duck.total("n_bytes")} AS bytes,
    min(known_at) AS first_at, max(known_at) AS last_at, arg_max(reason, known_at) AS reason
FROM quarantine GROUP BY ALL"""


def _cut(cut: Cut) -> str:
    created = f"{duck.text(cut.created.isoformat())}" if cut.id else "NULL"
    return f"SELECT {cut.id}::BIGINT AS id, {created}::TIMESTAMPTZ AS created"


def _job_progress(cut: Cut) -> str:
    rows = []
    for job, tasks in sorted(cut.jobs.items()):
        for task, (n, clock) in sorted(tasks.items()):
            newest = max(cut.marks.get(task, n), n)
            at = f"{duck.text(clock)}::TIMESTAMPTZ" if clock else "NULL::TIMESTAMPTZ"
            rows.append(f"({duck.text(job)}, {duck.text(task)}, {n}, {newest}, {newest - n}, {at})")
    columns = {c.name: c.kind for c in JOB_PROGRESS.columns}
    if not rows:
        return _empty(columns)
    typed = ", ".join(f"{duck.name(c)}::{kind} AS {duck.name(c)}" for c, kind in columns.items())
    return f"SELECT {typed} FROM (VALUES {', '.join(rows)}) AS t({', '.join(map(duck.name, columns))})"

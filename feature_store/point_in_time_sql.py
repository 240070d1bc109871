"""Which rows a point-in-time set has, and their SQL: everything as it was known at the instant T."""

# ruff: noqa: S608  # names and texts are quoted by the door; the rest are constants and numbers

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from feature_store import duck
from feature_store.block_sql import (
    context_sql,
    design_blocks_sql,
    period_lengths_sql,
    period_start_sql,
    stratum_sql,
)
from feature_store.labels import LABELLER, healthy_sql, instant, labels_as_of
from feature_store.views import alarms_sql
from schemas.boot_ids import GATEWAY
from schemas.profile import Profile
from schemas.tables import telemetry_table_name

MARGIN_WINDOWS = 10
"""Windows before and after an alarm that are left out with it: what led to an alarm is not healthy either."""
IDENTITY = ("device_id", "boot_id", "seq", "event_time", "known_at", "model_version", "score")


@dataclass(frozen=True)
class Regime:
    """A new normal, in which alarms of the old model are no evidence of a fault.

    Attributes:
        onset: Alarms that began before are never explained by it.
        centre: Middle of each feature in the new regime; none: it is not known where it lies, and every alarm
            that began since the onset is explained.
        spread: Its standard deviation of one window, by feature.
        bound: Largest root mean square distance from ``centre``, in spreads, at which the regime explains an
            alarmed row, so that the row stays.
    """

    onset: datetime
    centre: Mapping[str, float]
    spread: Mapping[str, float]
    bound: float = 2.5


@dataclass(frozen=True)
class RowSelection:
    """Which rows a point-in-time set has.

    Attributes:
        profile: Its features are the columns, its training policy bounds the weights.
        event_from: First instant of event time.
        event_to: Instant after the last.
        known_at: The instant T: what became known later is left out.
        labelled: Keep rows that a label calls faulty, for a classifier; False: a healthy set.
        cohorts: ``profile/site/group/hardware`` as registered at T; empty: all.
        without: Devices to leave out because they are known to be faulty.
        regime: Keeps rows whose alarm a new regime explains.
    """

    profile: Profile
    event_from: datetime
    event_to: datetime
    known_at: datetime
    labelled: bool = False
    cohorts: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    regime: Regime | None = None


def blocks_sql(selection: RowSelection) -> str:
    """Blocks of the books that lie within the span, as last stated by T, numbered from 0."""
    start, end = instant(selection.event_from), instant(selection.event_to)
    blocks = design_blocks_sql("statements", {"acked": "acked"}, {"lacking": "gap OR pending + refused > 0"})
    return f"""
    WITH statements AS (
        SELECT * FROM books_statements
        WHERE profile = {duck.text(selection.profile.name)} AND {_known(selection)}
        QUALIFY row_number() OVER (PARTITION BY device_id, boot_id, period_start, model_version, stratum
            ORDER BY revision DESC, known_at DESC) = 1
    ), design AS (SELECT * EXCLUDE (design_stratum), design_stratum AS stratum FROM ({blocks}))
    SELECT row_number() OVER (
        ORDER BY device_id, boot_id, model_version, stratum, period_start) - 1 AS block, *
    FROM design
    WHERE period_start >= {start} AND period_start + to_microseconds((period_s * 1e6)::BIGINT) <= {end}
    ORDER BY block"""


def rows_sql(selection: RowSelection) -> str:
    """Landed rows of the span, with block, label, and the first reason to leave each out (null: it stays)."""
    known = _known(selection)
    start, end = instant(selection.event_from), instant(selection.event_to)
    features = ", ".join(duck.name(f) for f in selection.profile.feature_names)
    return f"""
    WITH landed AS (
        SELECT {", ".join(IDENTITY)}, {features}, inclusion_probability AS q, time_suspect, device_time,
            {stratum_sql("reasons")} AS stratum, {context_sql("reasons")} AS context, decision
        FROM {duck.name(telemetry_table_name(selection.profile.name))}
        WHERE event_time >= {start} AND event_time < {end} AND {known}
    ), registered AS (
        -- Commit order decides which registration is the newest: clocks of registering hosts may differ.
        SELECT device_id, concat_ws('/', profile, site, "group", hardware) AS cohort, active FROM devices
        WHERE {known} AND hardware NOT IN ('{LABELLER}', '{GATEWAY}')
        QUALIFY row_number() OVER (PARTITION BY device_id ORDER BY _offset DESC, _row DESC) = 1
    ), alarmed AS ({_alarmed_sql(selection)}
    ), labels_in_force AS ({labels_as_of(selection.known_at)}
    ), labelled AS ({_LABELLED}
    ), blocks AS ({blocks_sql(selection)}
    ), joined AS (
        -- No join may multiply rows: each right side has at most one row per key.
        SELECT t.*, b.block, r.cohort, r.active, l.label, l.confidence,
            l.label_probability, a.seq IS NOT NULL AS alarmed,
            coalesce(a.explainable, false) AND {_within(selection.regime)} AS explained
        FROM landed t
        LEFT JOIN ({period_lengths_sql("blocks")}) s USING (device_id, boot_id)
        LEFT JOIN blocks b ON b.device_id = t.device_id AND b.boot_id = t.boot_id
            AND b.model_version = t.model_version AND b.stratum = t.stratum
            AND b.period_start = {period_start_sql("t", "s.period_s")}
        LEFT JOIN registered r ON r.device_id = t.device_id
        LEFT JOIN alarmed a ON a.device_id = t.device_id AND a.boot_id = t.boot_id AND a.seq = t.seq
        LEFT JOIN labelled l ON l.device_id = t.device_id AND l.boot_id = t.boot_id AND l.seq = t.seq
    )
    SELECT * EXCLUDE (explained, context, decision), explained AND label IS NULL AS explained,
        {_exclusion_sql(selection)} AS excluded
    FROM joined ORDER BY event_time, device_id, boot_id, seq"""


_LABELLED = """
        -- A window ends at event_time, so a span holds it where the end lies within (start, end].
        SELECT t.device_id, t.boot_id, t.seq, l.label, l.confidence, l.label_probability
        FROM landed t JOIN labels_in_force l ON t.device_id = l.device_id
            AND t.event_time > l.span_start AND t.event_time <= l.span_end
        -- Where spans overlap the newest label decides; the id breaks ties, so that a repeat agrees.
        QUALIFY row_number() OVER (PARTITION BY t.device_id, t.boot_id, t.seq
            ORDER BY l.known_at DESC, l.confidence DESC, l.label_id) = 1"""
"""Label of each landed row that has one."""


def _alarmed_sql(selection: RowSelection) -> str:
    """Rows of ``landed`` within an alarm or close to one, and whether a new regime may explain them."""
    profile, end = selection.profile, instant(selection.event_to)
    margin = f"to_microseconds({round(MARGIN_WINDOWS * profile.sampling.hop_s * 1e6)})"
    onset = instant(selection.regime.onset) if selection.regime else "NULL::TIMESTAMPTZ"
    return f"""
        WITH alarm_spans AS (
            -- An alarm without a known end lasts to the end of the selection.
            SELECT a.device_id, a.event_time - {margin} AS opens, a.event_time >= {onset} AS after_onset,
                coalesce(a.until, {end}) + {margin} AS closes
            FROM ({alarms_sql({profile.name: profile.decision.resting}, _known(selection))}) a
            WHERE a.profile = {duck.text(profile.name)} AND a.event_time < {end} + {margin}
        ), spanned AS (
            -- One alarm from before the onset is enough: the regime does not explain the row.
            SELECT device_id, boot_id, seq, bool_and(coalesce(after_onset, false)) AS explainable
            FROM landed JOIN alarm_spans USING (device_id)
            WHERE event_time > opens AND event_time <= closes GROUP BY ALL
        )
        FROM spanned UNION ALL BY NAME
        -- A row that says itself that an action was in force, though no span that is known holds it.
        SELECT device_id, boot_id, seq, false AS explainable
        FROM landed ANTI JOIN spanned USING (device_id, boot_id, seq)
        WHERE {_not_in("decision", tuple(profile.decision.resting))}"""


def _exclusion_sql(selection: RowSelection) -> str:
    """First reason to leave out a row of ``joined``; null: it stays."""
    features = [duck.name(f) for f in selection.profile.feature_names]
    fault = f"(label IS NOT NULL AND NOT {healthy_sql('label')})"
    # Order matters: facts about the row itself come before judgements that a label can overrule.
    return f"""CASE
        WHEN context THEN 'context'
        WHEN time_suspect THEN 'time_suspect'
        WHEN active IS NULL THEN 'unregistered'
        WHEN NOT active THEN 'inactive'
        WHEN {_not_in("cohort", selection.cohorts)} THEN 'other_cohort'
        WHEN {_in("device_id", selection.without)} THEN 'faulty_device'
        WHEN {" OR ".join(f"{f} IS NULL OR NOT isfinite({f})" for f in features)} THEN 'missing_feature'
        WHEN {"false" if selection.labelled else fault} THEN 'faulty_label'
        WHEN label IS NULL AND alarmed AND NOT explained THEN 'alarmed' END"""


def _known(selection: RowSelection) -> str:
    """SQL condition: known at the instant of the selection."""
    return f"known_at <= {instant(selection.known_at)}"


def _within(regime: Regime | None) -> str:
    """SQL condition: the row lies within the new regime."""
    if regime is None:
        return "false"
    if not regime.centre:
        return "true"
    terms = [
        f"(({duck.name(f)}::DOUBLE - {regime.centre[f]!r}::DOUBLE) / {regime.spread[f]!r}::DOUBLE) ** 2"
        for f in sorted(regime.centre)
    ]
    return f"(({' + '.join(terms)}) / {len(terms)} <= {regime.bound**2!r}::DOUBLE)"


def _in(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(map(duck.text, values))})" if values else "false"


def _not_in(column: str, values: tuple[str, ...]) -> str:
    return f"NOT ({_in(column, values)})" if values else "false"

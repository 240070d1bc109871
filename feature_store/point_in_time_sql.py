"""The question of a point-in-time set, and its SQL: everything as it was known at the instant T."""

# ruff: noqa: S608  # names and texts are quoted by the door; the rest are constants and numbers

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from feature_store import duck
from feature_store.labels import LABELLER, healthy_sql, instant, labels_as_of
from feature_store.views import alarms_sql
from schemas.profile import Profile
from schemas.row_schemas import RULES
from schemas.tables import telemetry_table_name

MARGIN_WINDOWS = 10
"""Windows before and after an alarm that count to it: what led to it is no more healthy than it is."""
IDENTITY = ("device_id", "boot_id", "seq", "event_time", "known_at", "model_version", "score")


@dataclass(frozen=True)
class Regime:
    """A new normal, in which alarms of the old model are no evidence of a fault.

    Attributes:
        onset: Alarms that began before are never explained by it.
        centre: Middle of each feature in the new regime.
        spread: Its standard deviation of one window, by feature.
        bound: An alarmed row whose root mean square distance from ``centre`` is at most so many spreads is
            explained by the regime, and stays.
    """

    onset: datetime
    centre: Mapping[str, float]
    spread: Mapping[str, float]
    bound: float = 2.5


@dataclass(frozen=True)
class RowSelection:
    """Which rows.

    Attributes:
        profile: Whose; its features are the columns, its training policy bounds the weights.
        event_from: First instant of event time.
        event_to: Instant after the last.
        known_at: T.
        labelled: Keep rows that a label calls faulty, for a classifier; False: a healthy set.
        cohorts: ``profile/site/group/hardware`` as registered at T; empty: all.
        without: Devices to leave out: they are known to be faulty.
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


def blocks_sql(wanted: RowSelection) -> str:
    """Blocks of the books within the span, newest statement known at T, numbered from 0."""
    start, end = instant(wanted.event_from), instant(wanted.event_to)
    return f"""
    WITH statements AS (
        SELECT device_id, boot_id, model_version, stratum, period_start, period_s, sensed, acked,
            gap OR pending + refused > 0 AS lacking
        FROM books_statements
        WHERE profile = {duck.text(wanted.profile.name)} AND known_at <= {instant(wanted.known_at)}
        QUALIFY row_number() OVER (PARTITION BY device_id, boot_id, period_start, model_version, stratum
            ORDER BY revision DESC, known_at DESC) = 1
    )
    SELECT row_number() OVER (
        ORDER BY device_id, boot_id, model_version, stratum, period_start) - 1 AS block, *
    FROM statements
    WHERE period_start >= {start} AND period_start + to_microseconds((period_s * 1e6)::BIGINT) <= {end}
    ORDER BY block"""


def rows_sql(wanted: RowSelection) -> str:
    """Landed rows of the span with book, label, and the first reason that keeps each out."""
    profile, known = wanted.profile, f"known_at <= {instant(wanted.known_at)}"
    start, end = instant(wanted.event_from), instant(wanted.event_to)
    features = [duck.name(f) for f in profile.feature_names]
    margin = f"to_microseconds({round(MARGIN_WINDOWS * profile.sampling.hop_s * 1e6)})"
    onset = instant(wanted.regime.onset) if wanted.regime else "NULL::TIMESTAMPTZ"
    fault = f"(label IS NOT NULL AND NOT {healthy_sql('label')})"
    faulty_stays = "false" if wanted.labelled else fault
    return f"""
    WITH landed AS (
        SELECT {", ".join(IDENTITY)}, {", ".join(features)}, inclusion_probability AS q, time_suspect,
            if((reasons & {RULES}) <> 0, 'rule', 'sample') AS stratum,
            epoch_us(coalesce(device_time, event_time)) AS at_us
        FROM {duck.name(telemetry_table_name(profile.name))}
        WHERE event_time >= {start} AND event_time < {end} AND {known}
    ), places AS (
        SELECT device_id, concat_ws('/', profile, site, "group", hardware) AS cohort, active FROM devices
        WHERE {known} AND hardware <> '{LABELLER}'
        QUALIFY row_number() OVER (PARTITION BY device_id ORDER BY _offset DESC, _row DESC) = 1
    ), alarm_spans AS (
        SELECT a.device_id, a.event_time - {margin} AS opens, a.event_time >= {onset} AS after_onset,
            coalesce(a.until, {end}) + {margin} AS closes
        FROM ({alarms_sql({profile.name: profile.decision.idle}, known)}) a
        WHERE a.profile = {duck.text(profile.name)} AND a.event_time < {end} + {margin}
    ), alarmed AS (
        SELECT device_id, boot_id, seq, bool_and(coalesce(after_onset, false)) AS explainable
        FROM landed JOIN alarm_spans USING (device_id)
        WHERE event_time > opens AND event_time <= closes GROUP BY ALL
    ), labels_in_force AS ({labels_as_of(wanted.known_at)}
    ), labelled AS (
        SELECT t.device_id, t.boot_id, t.seq, l.label, l.confidence, l.label_probability
        FROM landed t JOIN labels_in_force l ON t.device_id = l.device_id
            AND t.event_time > l.span_start AND t.event_time <= l.span_end
        QUALIFY row_number() OVER (PARTITION BY t.device_id, t.boot_id, t.seq
            ORDER BY l.known_at DESC, l.confidence DESC, l.label_id) = 1
    ), blocks AS ({blocks_sql(wanted)}
    ), joined AS (
        SELECT t.*, b.block, p.cohort, p.active, l.label, l.confidence,
            l.label_probability, a.seq IS NOT NULL AS alarmed,
            coalesce(a.explainable, false) AND {_within(wanted.regime)} AS explained
        FROM landed t
        LEFT JOIN (SELECT device_id, boot_id, any_value(period_s) AS period_s FROM blocks GROUP BY ALL) s
            USING (device_id, boot_id)
        LEFT JOIN blocks b ON b.device_id = t.device_id AND b.boot_id = t.boot_id
            AND b.model_version = t.model_version AND b.stratum = t.stratum
            AND epoch_us(b.period_start) = t.at_us - (t.at_us % (s.period_s * 1e6)::BIGINT)
        LEFT JOIN places p ON p.device_id = t.device_id
        LEFT JOIN alarmed a ON a.device_id = t.device_id AND a.boot_id = t.boot_id AND a.seq = t.seq
        LEFT JOIN labelled l ON l.device_id = t.device_id AND l.boot_id = t.boot_id AND l.seq = t.seq
    )
    SELECT * EXCLUDE (explained), explained AND label IS NULL AS explained, CASE
        WHEN time_suspect THEN 'time_suspect'
        WHEN active IS NULL THEN 'unregistered'
        WHEN NOT active THEN 'inactive'
        WHEN {_not_in("cohort", wanted.cohorts)} THEN 'other_cohort'
        WHEN {_in("device_id", wanted.without)} THEN 'faulty_device'
        WHEN {" OR ".join(f"{f} IS NULL OR NOT isfinite({f})" for f in features)} THEN 'missing_feature'
        WHEN {faulty_stays} THEN 'faulty_label'
        WHEN label IS NULL AND alarmed AND NOT explained THEN 'alarmed' END AS excluded
    FROM joined ORDER BY event_time, device_id, boot_id, seq"""


def _within(regime: Regime | None) -> str:
    """SQL condition: the row lies within the new regime."""
    if regime is None:
        return "false"
    terms = [
        f"(({duck.name(f)}::DOUBLE - {regime.centre[f]!r}::DOUBLE) / {regime.spread[f]!r}::DOUBLE) ** 2"
        for f in sorted(regime.centre)
    ]
    return f"(({' + '.join(terms)}) / {len(terms)} <= {regime.bound**2!r}::DOUBLE)"


def _in(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(map(duck.text, values))})" if values else "false"


def _not_in(column: str, values: tuple[str, ...]) -> str:
    return f"NOT ({_in(column, values)})" if values else "false"

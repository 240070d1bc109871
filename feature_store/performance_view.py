"""SQL of the view ``model_performance``: alarms of each version by cohort and day, and what labels say."""

# ruff: noqa: S608  # the SQL is made of constants, and of names and numbers of profiles that the door quotes

from __future__ import annotations

from collections.abc import Iterable, Mapping

from feature_store import duck
from feature_store.labels import LABELLER, healthy_sql, labels_in_force
from feature_store.model_views import MEAN_SCORE
from schemas.alarm_bounds import AlarmBounds
from schemas.boot_ids import GATEWAY
from schemas.manifest import SCORE_EDGES
from schemas.output_names import PRIMARY
from schemas.profile import Profile

BY_LABELS, NOT_ESTIMABLE = "labels", "not estimable"
"""Values of the column ``basis``."""
_KEY = "profile, model_version, cohort, site, day"
_BINS = len(SCORE_EDGES) + 1


def _at_least(first: int | str) -> str:
    """Windows of a summary row whose score lies in this bin, counted from 1, or a higher one."""
    return f"CASE WHEN len(bin_counts) = {_BINS} THEN list_sum(bin_counts[{first}:{_BINS}]) END"


def _edge_bin(edge: float) -> int:
    return SCORE_EDGES.index(edge) + 2  # SQL counts from 1, and the first bin lies below the first edge


_PLACES = f"""
    -- Where a device stood: its registration as of an instant, or its first one for rows from before it.
    SELECT device_id, known_at, concat_ws('/', profile, site, "group", hardware) AS cohort, site,
        row_number() OVER (PARTITION BY device_id ORDER BY known_at, _offset, _row) = 1 AS is_first
    FROM devices WHERE hardware NOT IN ('{LABELLER}', '{GATEWAY}')"""


def _placed(rows: str, at: str) -> str:
    """SQL of rows with the device's cohort and site at the time in a column, and the day of that time."""
    return f"""
    SELECT r.*, coalesce(p.cohort, f.cohort, '') AS cohort, coalesce(p.site, f.site, '') AS site,
        r.{at}::DATE AS day
    FROM {rows} r ASOF LEFT JOIN places p ON r.device_id = p.device_id AND r.{at} >= p.known_at
    LEFT JOIN places f ON r.device_id = f.device_id AND f.is_first"""


def model_performance(profiles: Iterable[Profile]) -> str:
    """SQL of the view.

    Args:
        profiles: The mildest rule on each output says which of its scores are alarms.
    """
    firsts = {p.name: AlarmBounds.of(p.decision).first_bins() for p in profiles if p.decision.rules}
    return f"WITH places AS ({_PLACES}),{_raised(firsts)},{_scored()},{_labelled()},{_FIGURES}"


def _raised(firsts: Mapping[str, Mapping[str, int]]) -> str:
    """CTE of windows in alarm: of the output that raises most, since summaries hold outputs apart.

    Args:
        firsts: By profile and column, the first bin of alarms, from 0.
    """
    whens = "".join(
        f" WHEN profile = {duck.text(name)} AND feature = {duck.text(column)} THEN {_at_least(first + 1)}"
        for name, columns in sorted(firsts.items())
        for column, first in columns.items()
    )
    columns = sorted({PRIMARY, *(column for columns in firsts.values() for column in columns)})
    return f"""
raised_of AS (
    SELECT profile, model_version, device_id, boot_id, period_start, part < 0 AS in_shadow, feature,
        sum({f"CASE{whens} END" if whens else "NULL"}) AS above
    FROM summaries WHERE feature IN ({", ".join(map(duck.text, columns))}) GROUP BY ALL
), raised_most AS (
    SELECT * EXCLUDE (feature, above), max(above) AS above FROM raised_of GROUP BY ALL
)"""


def _scored() -> str:
    """CTEs of windows with a score, of pairs of versions on the same windows, and of device days."""
    return f"""
scored_alone AS (
    SELECT profile, model_version, device_id, boot_id, period_start, part < 0 AS in_shadow,
        any_value(period_s) AS period_s, {duck.total("n")} AS n, {duck.total("n_missing")} AS n_missing,
        sum(n * {MEAN_SCORE}) AS total,
        sum(CASE WHEN len(bin_counts) = {_BINS} THEN n END) AS n_binned,
        sum({_at_least(_edge_bin(0.45))}) AS above_045, sum({_at_least(_edge_bin(0.6))}) AS above_06,
        sum({_at_least(_edge_bin(0.9))}) AS above_09
    FROM summaries WHERE feature = 'score' GROUP BY ALL
), scored_unplaced AS (
    SELECT s.*, m.above FROM scored_alone s
    LEFT JOIN raised_most m USING (profile, model_version, device_id, boot_id, period_start, in_shadow)
), scored AS ({_placed("scored_unplaced", "period_start")}
), scores AS (
    SELECT {_KEY}, count(DISTINCT device_id) AS devices, {duck.total("n")} AS windows,
        {duck.total("n_missing")} AS missing, sum(total) / nullif(sum(n), 0) AS mean_score,
        sum(above_045) / nullif(sum(n_binned), 0) AS share_045,
        sum(above_06) / nullif(sum(n_binned), 0) AS share_06,
        sum(above_09) / nullif(sum(n_binned), 0) AS share_09
    FROM scored GROUP BY ALL
), pairs AS (
    -- Joined by n too: unequal counts mean that the two scored different windows of the period.
    SELECT a.profile, a.model_version, a.cohort, a.site, a.day, b.model_version AS against, a.n,
        a.total - b.total AS difference, abs(a.above - b.above) AS apart
    FROM scored a JOIN scored b USING (profile, device_id, boot_id, period_start, n)
    WHERE a.model_version <> b.model_version AND a.in_shadow <> b.in_shadow AND n > 0
), paired AS (
    SELECT {_KEY}, against, {duck.total("n")} AS paired_windows,
        sum(difference) / sum(n) AS paired_difference,
        1 - sum(apart) / nullif(sum(n) FILTER (apart IS NOT NULL), 0) AS agreement
    FROM pairs GROUP BY {_KEY}, against
    QUALIFY row_number() OVER (PARTITION BY {_KEY} ORDER BY sum(n) DESC, against) = 1
), in_force AS (
    -- A period in which a device changed its model is shared by its versions, by windows.
    SELECT *, (n + n_missing) / nullif(sum(n + n_missing) OVER (
            PARTITION BY device_id, boot_id, period_start), 0) * period_s / 86400 AS device_days,
        make_timestamptz(
            epoch_us(period_start) + coalesce(try_cast(period_s * 1e6 AS BIGINT), 0)) AS period_end
    FROM scored WHERE NOT in_shadow
)"""


def _labelled() -> str:
    """CTEs of alarms and of labelled faults, each with its weight: one over the chance to be known."""
    return f"""
spans AS (
    SELECT device_id, label_id, span_start, span_end, NOT {healthy_sql("label")} AS is_fault,
        1 / label_probability AS weight
    FROM ({labels_in_force()})
), alarms_unplaced AS (
    -- An alert always arrives. A row of an alarm may have been thinned, and stands for 1/q of them.
    SELECT a.*, CASE WHEN a.alerted THEN 1 ELSE coalesce(1 / t.inclusion_probability, 1) END AS stands_for
    FROM alarms a LEFT JOIN telemetry t USING (device_id, boot_id, seq)
), raised AS ({_placed("alarms_unplaced", "event_time")}
), judged AS (
    SELECT r.profile, r.model_version, r.cohort, r.site, r.day, r.stands_for,
        bool_or(s.is_fault) AS is_right, max(s.weight) AS weight
    FROM raised r LEFT JOIN spans s ON r.device_id = s.device_id
        AND r.event_time BETWEEN s.span_start AND s.span_end
    GROUP BY r.profile, r.model_version, r.cohort, r.site, r.day, r.stands_for, r.device_id, r.boot_id, r.seq
), alarmed AS (
    SELECT {_KEY}, count(*) AS alarms, sum(stands_for) AS alarms_estimated, count(is_right) AS judged_alarms,
        sum(stands_for * weight) FILTER (is_right) AS right_weight, sum(stands_for * weight) AS judged_weight
    FROM judged GROUP BY ALL
), span_overlaps AS (
    SELECT i.device_id, i.boot_id, i.model_version, i.period_start,
        sum(epoch(least(s.span_end, i.period_end)) - epoch(greatest(s.span_start, i.period_start))) AS seconds
    FROM in_force i JOIN spans s ON i.device_id = s.device_id
        AND s.span_start < i.period_end AND s.span_end > i.period_start
    GROUP BY ALL
), covered AS (
    SELECT i.*, least(1, coalesce(seconds, 0) / i.period_s) AS covered
    FROM in_force i LEFT JOIN span_overlaps USING (device_id, boot_id, model_version, period_start)
), active AS (
    SELECT {_KEY}, sum(device_days) AS device_days,
        sum(covered * (n + n_missing)) / nullif(sum(n + n_missing), 0) AS label_coverage
    FROM covered GROUP BY ALL
), faults AS (
    -- A fault counts for the version and the day in force when it began, or when the device was next on.
    SELECT s.device_id, s.label_id, any_value(s.span_start) AS span_start, any_value(s.span_end) AS span_end,
        any_value(s.weight) AS weight, arg_min(i.profile, i.period_start) AS profile,
        arg_min(i.model_version, i.period_start) AS model_version,
        arg_min(i.cohort, i.period_start) AS cohort, arg_min(i.site, i.period_start) AS site,
        arg_min(i.day, i.period_start) AS day
    FROM spans s JOIN in_force i ON i.device_id = s.device_id
        AND i.period_end > s.span_start AND i.period_start < s.span_end
    WHERE s.is_fault GROUP BY s.device_id, s.label_id
), met AS (
    SELECT f.device_id, f.label_id, min(a.event_time) AS alarm_time
    FROM faults f JOIN alarms a ON a.device_id = f.device_id AND a.event_time <= f.span_end
        AND (a.until IS NULL OR a.until >= f.span_start)
    GROUP BY ALL
), delays AS (
    SELECT f.*, CASE WHEN alarm_time IS NOT NULL
            THEN greatest(0, epoch(alarm_time) - epoch(f.span_start)) END AS delay_s
    FROM faults f LEFT JOIN met USING (device_id, label_id)
), found AS (
    SELECT {_KEY}, count(*) AS labelled_faults, sum(weight) AS fault_weight,
        sum(weight) FILTER (delay_s IS NOT NULL) AS found_weight, sum(weight * delay_s) AS delayed
    FROM delays GROUP BY ALL
)"""


_FIGURES = f"""
keys AS (
    SELECT {_KEY} FROM scores UNION SELECT {_KEY} FROM alarmed
    UNION SELECT {_KEY} FROM found
)
SELECT {_KEY}, day::TIMESTAMPTZ AS period_start, 86400.0::DOUBLE AS period_s,
    coalesce(devices, 0) AS devices, coalesce(windows, 0) AS windows, coalesce(missing, 0) AS missing,
    mean_score, share_045, share_06, share_09, coalesce(device_days, 0)::DOUBLE AS device_days,
    coalesce(alarms, 0) AS alarms,
    CASE WHEN device_days > 0 THEN coalesce(alarms_estimated, 0) / device_days END AS alarms_per_device_day,
    CASE WHEN judged_weight > 0 OR fault_weight > 0 THEN '{BY_LABELS}' ELSE '{NOT_ESTIMABLE}' END AS basis,
    coalesce(judged_alarms, 0) AS judged_alarms,
    CASE WHEN judged_weight > 0 THEN coalesce(right_weight, 0) / judged_weight END AS "precision",
    coalesce(labelled_faults, 0) AS labelled_faults,
    CASE WHEN fault_weight > 0 THEN coalesce(found_weight, 0) / fault_weight END AS recall,
    delayed / nullif(found_weight, 0) AS delay_s, coalesce(label_coverage, 0)::DOUBLE AS label_coverage,
    against, coalesce(paired_windows, 0) AS paired_windows, paired_difference, agreement
FROM keys LEFT JOIN scores USING ({_KEY}) LEFT JOIN active USING ({_KEY}) LEFT JOIN alarmed USING ({_KEY})
    LEFT JOIN found USING ({_KEY}) LEFT JOIN paired USING ({_KEY})"""

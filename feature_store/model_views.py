"""SQL of the views on models: versions, and how two that scored the same windows compare."""

# ruff: noqa: S608  # the SQL is made of constants

from __future__ import annotations

from feature_store import duck

_VERSION = r"^(.+)-\d+\.[0-9a-f]{8}$"
"""Lifecycle subjects of this form are model versions; others are runs and rollouts."""

MEAN_SCORE = "greatest(0, least(1, mean))"
"""A mean outside [0, 1] is that of no score; as it comes, it would move or break the figures of a fleet."""

MODEL_VERSIONS = f"""
WITH uses AS (
    SELECT model_version, device_id, event_time AS used_at, 0::HUGEINT AS windows, 1::BIGINT AS landed
    FROM telemetry
    UNION ALL
    SELECT model_version, device_id, period_start, n::HUGEINT + n_missing, 0
    FROM summaries WHERE feature = 'score'
), ran AS (
    SELECT model_version, min(used_at) AS first_seen, max(used_at) AS last_seen,
        count(DISTINCT device_id) AS devices, {duck.total("windows")} AS windows,
        {duck.total("landed")} AS landed
    FROM uses GROUP BY model_version
), history AS (
    SELECT subject AS model_version, list(step ORDER BY event_time, event_id) AS steps,
        arg_max(step, (event_time, event_id)) AS last_step, max(event_time) AS last_step_at
    FROM (SELECT DISTINCT event_id, event_time, subject, step FROM lifecycle)
    WHERE regexp_matches(subject, '{_VERSION}') GROUP BY subject
)
SELECT model_version, nullif(regexp_extract(model_version, '{_VERSION}', 1), '') AS family, first_seen,
    last_seen, coalesce(devices, 0) AS devices, coalesce(windows, 0) AS windows,
    coalesce(landed, 0) AS "rows", coalesce(steps, []) AS steps, last_step, last_step_at
FROM ran FULL JOIN history USING (model_version)"""

MODEL_COMPARISONS = f"""
WITH scored AS (
    SELECT profile, model_version, device_id, boot_id, period_start, sum(n) AS n,
        sum(n * {MEAN_SCORE}) / nullif(sum(n), 0) AS mean
    FROM summaries WHERE feature = 'score' GROUP BY ALL
), paired AS (
    -- Joined by n too: unequal counts mean that the two scored different windows of the period, as before and
    -- after a switch without a shadow.
    SELECT a.profile, a.model_version, b.model_version AS against, a.device_id,
        min(a.period_start) AS first_period, max(a.period_start) AS last_period, sum(a.n) AS n,
        sum(a.n * (a.mean - b.mean)) / sum(a.n) AS difference
    FROM scored a JOIN scored b USING (profile, device_id, boot_id, period_start, n)
    WHERE a.model_version <> b.model_version AND n > 0 GROUP BY ALL
)
SELECT profile, model_version, against, min(first_period) AS first_period, max(last_period) AS last_period,
    count(*) AS devices, {duck.total("n")} AS windows, avg(difference) AS mean_difference,
    stddev_samp(difference) / sqrt(count(*)) AS standard_error
FROM paired GROUP BY profile, model_version, against"""

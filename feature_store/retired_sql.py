"""SQL of window aggregates without the starts of devices that were retired."""

# ruff: noqa: S608  # the SQL is made of constants, and of SQL that the views are made of

from __future__ import annotations

from feature_store import duck

RETIRED_NOW = """
SELECT device_id, boot_id FROM (
    SELECT * FROM retired_boots
    QUALIFY row_number() OVER (PARTITION BY device_id, boot_id ORDER BY _offset DESC, _row DESC) = 1
) WHERE counts IS NOT TRUE"""
"""SQL of the starts whose rows do not count: the newest fact of each holds."""

_KEY = "cohort, profile, model_version, feature, window_start, window_s"


def _before_end(instant: str, window: str) -> str:
    """SQL: whether an instant lies before a window's end; in DOUBLE, which no instant overflows."""
    return f"epoch_us({instant})::DOUBLE < epoch_us({window}.window_start)::DOUBLE + {window}.window_s * 1e6"


def corrected_aggregates_sql(aggregates: str, retired: str) -> str:
    """The partials of windows that no retired start touched, and the others made anew from what is left.

    A partial says how many devices gave how many windows, not which: so a touched window is summed again from
    the summaries that count, as its one partial, number 0, of no event.

    Args:
        aggregates: SQL of the partials as the job wrote them.
        retired: SQL of the summaries of retired starts. The view ``summaries`` holds the others.
    """
    return f"""
WITH partials AS ({aggregates}), gone AS ({retired}), placed AS (
    SELECT device_id, concat_ws('/', profile, site, "group", hardware) AS cohort FROM devices
    QUALIFY row_number() OVER (PARTITION BY device_id ORDER BY _offset DESC, _row DESC) = 1
), touched AS (
    SELECT DISTINCT p.cohort, p.profile, p.model_version, p.feature, p.window_start, p.window_s
    FROM partials p JOIN gone g ON g.profile = p.profile AND g.feature = p.feature
        AND g.model_version = p.model_version AND g.period_start >= p.window_start
        AND {_before_end("g.period_start", "p")}
    JOIN placed d ON d.device_id = g.device_id AND d.cohort = p.cohort
), provenance AS (
    SELECT {_KEY}, max(watermark) AS watermark, max(known_at) AS known_at, max(day) AS day,
        max(_partition) AS _partition, max(_offset) AS _offset, max(_row) AS _row
    FROM partials JOIN touched USING ({_KEY}) GROUP BY ALL
), parts AS (
    SELECT t.cohort, t.profile, t.model_version, t.feature, t.window_start, t.window_s, s.device_id,
        s.n, s.mean, s.m2, s."min" AS low, s."max" AS high
    FROM touched t JOIN placed d USING (cohort)
    JOIN summaries s ON s.device_id = d.device_id AND s.profile = t.profile AND s.feature = t.feature
        AND s.model_version = t.model_version AND s.part >= 0 AND s.n > 0
        AND s.period_start >= t.window_start
        AND {_before_end("s.period_start", "t")}
), means AS (
    SELECT {_KEY}, sum(n * mean) / sum(n) AS grand FROM parts GROUP BY ALL
), again AS (
    -- Chan, Golub and LeVeque (1979): squared deviations of parts and of their means add up.
    SELECT {_KEY}, {duck.total("n")} AS n, any_value(grand) AS mean, sum(m2 + n * (mean - grand) ** 2) AS m2,
        min(low) AS "min", max(high) AS "max", count(DISTINCT device_id)::INTEGER AS devices
    FROM parts JOIN means USING ({_KEY}) GROUP BY ALL
)
SELECT p.* FROM partials p ANTI JOIN touched USING ({_KEY})
UNION ALL BY NAME
SELECT '' AS event_id, a.cohort, a.profile, a.model_version, a.feature, a.window_start, a.window_s,
    0::INTEGER AS part, a.n, a.mean, a.m2, a."min", a."max", a.devices, false AS late, v.watermark,
    v.known_at, v._partition, v._offset, v._row, v.day
FROM again a JOIN provenance v USING ({_KEY})"""

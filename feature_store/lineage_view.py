"""SQL of the view ``lineage``: from a model to its rows, and from a row to the models it was used for."""

from __future__ import annotations

LINEAGE = """
WITH pinned AS (
    SELECT subject AS run_id, try_cast(any_value(json_extract_string(detail, '$.cut')) AS BIGINT) AS cut
    FROM lifecycle WHERE step = 'run_building' GROUP BY subject
), used AS (
    SELECT run_id, model_version, profile, device_id, boot_id, seq, event_time, part, weight, label,
        min(known_at) AS known_at
    FROM training_sets GROUP BY ALL
)
SELECT u.model_version, u.run_id, p.cut, 'run-' || u.run_id AS pin, u.profile, u.device_id, u.boot_id, u.seq,
    u.event_time, u.part, u.weight, u.label, t.model_version AS scored_by, t.score, t.decision, u.known_at
FROM used u LEFT JOIN pinned p USING (run_id)
LEFT JOIN telemetry t ON t.device_id = u.device_id AND t.boot_id = u.boot_id AND t.seq = u.seq"""

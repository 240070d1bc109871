"""Labels as they were known at an instant, who may give them, and ids that make a repeat recognisable."""

# ruff: noqa: S608  # the SQL is made of constants and of an instant that the door quotes

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

from feature_store import duck

LABELLER = "labeller"
"""Hardware class in ``devices`` of a source of labels: it may label any device, and sends no rows."""
ANY_PROFILE = "*"
"""Profile of a registered labeller."""
HEALTHY = ("healthy", "normal", "ok", "false_alarm")
"""Labels that say that nothing was wrong; every other one names a fault."""


def label_id(device_id: str, span_start: datetime, span_end: datetime, label: str, source: str) -> str:
    """Id of a label that brought none: the same words about the same span are the same label."""
    spans = [at.astimezone(UTC).isoformat() for at in (span_start, span_end)]
    text = json.dumps([device_id, *spans, label, source], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def is_healthy(label: str) -> bool:
    """Whether the label says that nothing was wrong."""
    return label.strip().lower() in HEALTHY


def labels_as_of(known_at: datetime) -> str:
    """SQL of the labels in force at an instant: the newest statement of each id, less what others replace.

    Only labels of the same device replace one another; one that was replaced stays so.
    """
    return f"""
    WITH stated AS (
        SELECT * FROM labels WHERE known_at <= {instant(known_at)}
        QUALIFY row_number() OVER (
            PARTITION BY label_id ORDER BY known_at DESC, _partition DESC, _offset DESC, _row DESC) = 1
    ), replaced AS (
        SELECT DISTINCT device_id, supersedes AS label_id FROM stated
        WHERE supersedes IS NOT NULL AND supersedes <> label_id
    )
    SELECT * FROM stated ANTI JOIN replaced USING (device_id, label_id)"""


def healthy_sql(column: str) -> str:
    """SQL condition: the label says that nothing was wrong."""
    words = ", ".join(duck.text(word) for word in HEALTHY)
    return f"lower(trim({column})) IN ({words})"


def instant(at: datetime) -> str:
    """SQL literal of an instant; naive means UTC."""
    aware = at if at.tzinfo else at.replace(tzinfo=UTC)
    return f"{duck.text(aware.astimezone(UTC).isoformat())}::TIMESTAMPTZ"

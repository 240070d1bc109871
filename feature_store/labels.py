"""Labels as they were known at an instant; who may give them; ids by which a repeat is recognised."""

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
"""Labels of a healthy device; every other label names a fault."""


def label_id(device_id: str, span_start: datetime, span_end: datetime, label: str, source: str) -> str:
    """Id for a label that came without one: equal labels of one span by one source get one id."""
    spans = [at.astimezone(UTC).isoformat() for at in (span_start, span_end)]
    text = json.dumps([device_id, *spans, label, source], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def is_healthy(label: str) -> bool:
    """Whether the label stands for a healthy device."""
    return label.strip().lower() in HEALTHY


def labels_as_of(known_at: datetime) -> str:
    """SQL of the labels in force at an instant: the newest statement of each id that no label replaced.

    A label replaces only labels of its own device, and a replaced label stays replaced.
    """
    return labels_in_force(f"known_at <= {instant(known_at)}")


def labels_in_force(known: str = "true") -> str:
    """The same of all labels of the cut that fulfil an SQL condition."""
    return f"""
    WITH stated AS (
        SELECT * FROM labels WHERE {known}
        QUALIFY row_number() OVER (
            PARTITION BY label_id ORDER BY known_at DESC, _partition DESC, _offset DESC, _row DESC) = 1
    ), replaced AS (
        SELECT DISTINCT device_id, supersedes AS label_id FROM stated
        WHERE supersedes IS NOT NULL AND supersedes <> label_id
    )
    SELECT * FROM stated ANTI JOIN replaced USING (device_id, label_id)"""


def healthy_sql(column: str) -> str:
    """SQL condition: the label stands for a healthy device."""
    healthy = ", ".join(map(duck.text, HEALTHY))
    return f"lower(trim({column})) IN ({healthy})"


def instant(at: datetime) -> str:
    """SQL literal of an instant; naive means UTC."""
    aware = at if at.tzinfo else at.replace(tzinfo=UTC)
    return f"{duck.text(aware.astimezone(UTC).isoformat())}::TIMESTAMPTZ"

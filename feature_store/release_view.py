"""SQL of the view ``release_outcomes``: what each rollout brought, out of the events of its measurements."""

# ruff: noqa: S608  # the SQL is made of constants

from __future__ import annotations

from feature_store import duck
from schemas.view_specs import RELEASE_OUTCOMES

_TIMES = (
    "onset",
    "verdict",
    "run",
    "trained",
    "gated",
    "published",
    "started",
    "first_device",
    "last_device",
    "ended",
)
_PATHS = {
    "group": "group",
    "model_version": "version",
    "champion": "champion",
    "state": "state",
    "loop_s": "loop_s",
    "basis": "gain.basis",
    "devices": "gain.devices",
    "windows": "gain.windows",
    "gain": "gain.gain.value",
    "gain_low": "gain.gain.low",
    "gain_high": "gain.gain.high",
    "recall": "gain.released.recall",
    "champion_recall": "gain.champion.recall",
    "precision": "gain.released.precision",
    "champion_precision": "gain.champion.precision",
    "alarm_share": "gain.released.share",
    "champion_alarm_share": "gain.champion.share",
    "agreement": "gain.agreement",
}
"""Where each column stands in the outcome."""


def _column(name: str, kind: str) -> str:
    if name == "rollout_id":
        value = "subject"
    elif name == "revision":
        value = "revision"
    elif name == "measured_at":
        value = "event_time"
    elif name in _TIMES:
        seconds = f"try_cast(json_extract_string(outcome, '$.times.{name}') AS DOUBLE)"
        value = f"make_timestamptz(({seconds} * 1e6)::BIGINT)"
    else:
        value = f"try_cast(json_extract_string(outcome, '$.{_PATHS[name]}') AS {kind})"
    return f"{value} AS {duck.name(name)}"


OUTCOMES = f"""
SELECT {", ".join(_column(c.name, c.kind) for c in RELEASE_OUTCOMES.columns)} FROM (
    SELECT subject, event_time, json_extract_string(detail, '$.outcome') AS outcome,
        try_cast(json_extract_string(detail, '$.revision') AS INTEGER) AS revision
    FROM (SELECT DISTINCT event_id, event_time, subject, step, detail FROM lifecycle)
    WHERE step = 'release_measured'
    QUALIFY row_number() OVER (PARTITION BY subject ORDER BY event_time DESC, event_id DESC) = 1
)"""

"""Alarm rates of treated and held-out devices, from the summaries of all windows that every device sends."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

import feature_store
from feature_store import duck
from model_service.registry import candidates
from model_service.rollout.observed import AlarmRates
from model_service.rollout.rollout_record import RolloutRecord
from schemas.errors import QueryError
from schemas.profile import Profile

FRESH_S = 10.0
MIN_WINDOWS = 10
"""A device with fewer windows since the canary document is left out."""
_SCORES = """
SELECT device_id, model_version, bin_counts, epoch(period_start) AS began FROM summaries
WHERE feature = 'score' AND bin_counts IS NOT NULL AND epoch(period_start) >= {since:f}
"""


@dataclass
class LakeRates:
    """Reads alarm rates from the lake, and keeps each answer for ``FRESH_S``.

    Args:
        lake_root: The lake's folder.
        monotonic: Seconds; measures how old a kept answer is.
    """

    lake_root: Path
    monotonic: Callable[[], float] = time.monotonic
    _kept: dict[str, tuple[float, AlarmRates | None]] = field(default_factory=dict)

    def of(
        self, connection: Connection, record: RolloutRecord, since: float | None, profile: Profile | None
    ) -> AlarmRates | None:
        """Alarm rates since an instant; None: there is no holdout, or the lake does not hold what they need.

        Args:
            connection: Reads the registry.
            record: The rollout.
            since: When the canary document was published, UTC seconds; None: it was not.
            profile: The devices' profile; None: unknown.
        """
        if since is None or not record.holdout.share or profile is None or not profile.decision.score_rules:
            return None
        kept = self._kept.get(record.rollout_id)
        if kept is None or self.monotonic() - kept[0] > FRESH_S:
            edges = _score_edges(connection, record.version)
            kept = (self.monotonic(), self._read(record, since, profile.decision.alarm, edges))
            self._kept[record.rollout_id] = kept
        return kept[1]

    def _read(
        self, record: RolloutRecord, since: float, enter: float, edges: Sequence[float]
    ) -> AlarmRates | None:
        if enter not in edges:
            return None  # alarms begin inside one of the bundle's bins: they cannot be counted
        try:
            with feature_store.connect(self.lake_root) as connection:
                found = duck.query(connection, _SCORES.format(since=since)).to_pylist()
        except QueryError:
            return None
        return alarm_rates(record, found, bisect_left(edges, enter) + 1, len(edges) + 1)


def alarm_rates(
    record: RolloutRecord, rows: Sequence[Mapping[str, Any]], first: int, bins: int
) -> AlarmRates:
    """Share of alarms among the windows of each device.

    Args:
        record: Names the holdout, and the version that each device should run.
        rows: ``device_id``, ``model_version`` and ``bin_counts`` of scores, and when the period ``began``.
        first: Index of the first bin whose scores are alarms.
        bins: Number of bins; rows with another number were counted with other edges and are left out.
    """
    baseline = record.baseline[record.family].version
    counts: dict[tuple[str, bool], list[int]] = {}
    newest: dict[str, float] = {}
    for row in rows:
        newest[row["device_id"]] = max(row["began"], newest.get(row["device_id"], 0.0))
        held = record.holdout.includes(row["device_id"])
        # Windows under any other version are from before the swap, or after a restore.
        if len(row["bin_counts"]) == bins and row["model_version"] == (baseline if held else record.version):
            counted = counts.setdefault((row["device_id"], held), [0, 0])
            counted[0] += sum(row["bin_counts"][first:])
            counted[1] += sum(row["bin_counts"])
    shares = {key: alarms / n for key, (alarms, n) in sorted(counts.items()) if n >= MIN_WINDOWS}
    return AlarmRates(
        [rate for (_, held), rate in shares.items() if not held],
        [rate for (_, held), rate in shares.items() if held],
        newest,
    )


def _score_edges(connection: Connection, version: str) -> tuple[float, ...]:
    manifest = candidates.manifest_of(connection, version)
    return tuple(manifest.get("bin_edges", {}).get("score", ()))

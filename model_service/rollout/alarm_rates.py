"""Alarm rates of treated and held-out devices, from the summaries that all devices send of all windows."""

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
"""Devices with fewer windows since then say nothing."""
_SCORES = """
SELECT device_id, model_version, bin_counts FROM summaries
WHERE feature = 'score' AND bin_counts IS NOT NULL AND epoch(period_start) >= {since:f}
"""


@dataclass
class LakeRates:
    """Reads rates, and keeps each answer for a short while.

    Args:
        lake_root: The lake's folder.
        monotonic: Clock of the memory.
    """

    lake_root: Path
    monotonic: Callable[[], float] = time.monotonic
    _kept: dict[str, tuple[float, AlarmRates | None]] = field(default_factory=dict)

    def of(
        self, connection: Connection, record: RolloutRecord, since: float | None, profile: Profile | None
    ) -> AlarmRates | None:
        """Rates since an instant; None: there is no holdout, or the lake cannot tell.

        Args:
            connection: A look into the registry.
            record: The rollout.
            since: When its canary came out, UTC seconds.
            profile: Of the devices.
        """
        if since is None or not record.holdout.share or profile is None or not profile.decision.rules:
            return None
        kept = self._kept.get(record.rollout_id)
        if kept is None or self.monotonic() - kept[0] > FRESH_S:
            edges = _score_edges(connection, record.version)
            kept = (self.monotonic(), self._read(record, since, profile.decision.rules[0].enter, edges))
            self._kept[record.rollout_id] = kept
        return kept[1]

    def _read(
        self, record: RolloutRecord, since: float, enter: float, edges: Sequence[float]
    ) -> AlarmRates | None:
        if enter not in edges:
            return None  # the bundle's bins do not tell alarms apart
        try:
            with feature_store.connect(self.lake_root) as con:
                found = duck.query(con, _SCORES.format(since=since)).to_pylist()
        except QueryError:
            return None
        return alarm_rates(record, found, bisect_left(edges, enter) + 1, len(edges) + 1)


def alarm_rates(
    record: RolloutRecord, rows: Sequence[Mapping[str, Any]], first: int, bins: int
) -> AlarmRates:
    """Rates per device.

    Args:
        record: Says who is held out, and which version counts where.
        rows: ``device_id``, ``model_version`` and ``bin_counts`` of scores.
        first: First bin that is an alarm.
        bins: Bins that a row must have.
    """
    baseline = record.baseline[record.family].version
    counts: dict[tuple[str, bool], list[int]] = {}
    for row in rows:
        held = record.holdout.includes(row["device_id"])
        if len(row["bin_counts"]) == bins and row["model_version"] == (baseline if held else record.version):
            counted = counts.setdefault((row["device_id"], held), [0, 0])
            counted[0] += sum(row["bin_counts"][first:])
            counted[1] += sum(row["bin_counts"])
    shares = {key: alarms / n for key, (alarms, n) in sorted(counts.items()) if n >= MIN_WINDOWS}
    return AlarmRates(
        [rate for (_, held), rate in shares.items() if not held],
        [rate for (_, held), rate in shares.items() if held],
    )


def _score_edges(connection: Connection, version: str) -> tuple[float, ...]:
    manifest = candidates.manifest_of(connection, version)
    return tuple(manifest.get("bin_edges", {}).get("score", ()))

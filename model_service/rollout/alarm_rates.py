"""Alarm rates of treated and held-out devices, from the summaries of all windows that every device sends."""

from __future__ import annotations

import time
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
from schemas.alarm_bounds import AlarmBounds
from schemas.errors import QueryError
from schemas.manifest import SCORE_EDGES
from schemas.output_names import PRIMARY
from schemas.profile import Profile

FRESH_S = 10.0
MIN_WINDOWS = 10
"""A device with fewer windows since the canary document is left out."""
_SCORES = """
SELECT device_id, model_version, feature, bin_counts, epoch(period_start) AS began FROM summaries
WHERE feature IN ({columns}) AND bin_counts IS NOT NULL AND epoch(period_start) >= {since:f}
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
        if since is None or not record.holdout.share or profile is None or not profile.decision.rules:
            return None
        kept = self._kept.get(record.rollout_id)
        if kept is None or self.monotonic() - kept[0] > FRESH_S:
            edges = {PRIMARY: (), **candidates.manifest_of(connection, record.version).get("bin_edges", {})}
            kept = (self.monotonic(), self._read(record, since, AlarmBounds.of(profile.decision), edges))
            self._kept[record.rollout_id] = kept
        return kept[1]

    def _read(
        self, record: RolloutRecord, since: float, alarms: AlarmBounds, edges: Mapping[str, Sequence[float]]
    ) -> AlarmRates | None:
        first = alarms.first_bins(edges)
        if not first:
            return None  # alarms begin inside one of the bundle's bins: they cannot be counted
        columns = ", ".join(map(duck.text, first))
        try:
            with feature_store.connect(self.lake_root, comments=False) as connection:
                found = duck.query(connection, _SCORES.format(columns=columns, since=since)).to_pylist()
        except QueryError:
            return None
        bins = {column: len(edges.get(column, SCORE_EDGES)) + 1 for column in first}
        return alarm_rates(record, found, first, bins)


def alarm_rates(
    record: RolloutRecord,
    rows: Sequence[Mapping[str, Any]],
    first: Mapping[str, int],
    bins: Mapping[str, int],
) -> AlarmRates:
    """Share of alarms among the windows of each device: of the output that raises most of them.

    Outputs are summarised apart, so windows with an alarm of any output are no fewer than that.

    Args:
        record: Names the holdout, and the version that each device should run.
        rows: ``device_id``, ``model_version``, ``feature`` and ``bin_counts`` of scores, and when the period
            ``began``.
        first: By feature, index of the first bin whose scores are alarms.
        bins: By feature, number of bins; rows with another number were counted with other edges and are left
            out.
    """
    baseline = record.baseline[record.family].version
    counts: dict[tuple[str, bool], dict[str, list[int]]] = {}
    newest: dict[str, float] = {}
    for row in rows:
        newest[row["device_id"]] = max(row["began"], newest.get(row["device_id"], 0.0))
        held = record.holdout.includes(row["device_id"])
        # Windows under any other version are from before the swap, or after a restore.
        feature, of_bins = row["feature"], row["bin_counts"]
        wanted = baseline if held else record.version
        if len(of_bins) == bins[feature] and row["model_version"] == wanted:
            of_device = counts.setdefault((row["device_id"], held), {})
            counted = of_device.setdefault(feature, [0, 0])
            counted[0] += sum(of_bins[first[feature] :])
            counted[1] += sum(of_bins)
    most = {key: [max(n) for n in zip(*found.values(), strict=True)] for key, found in counts.items()}
    shares = {key: alarms / n for key, (alarms, n) in sorted(most.items()) if n >= MIN_WINDOWS}
    return AlarmRates(
        [rate for (_, held), rate in shares.items() if not held],
        [rate for (_, held), rate in shares.items() if held],
        newest,
    )

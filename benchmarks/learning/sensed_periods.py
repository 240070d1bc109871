"""The devices of a fleet in simulated time: score, decide, filter, summarise, period by period."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from benchmarks.learning.fleet_story import START, FleetStory
from benchmarks.learning.memory_lake import MemoryLake
from edge_producer.decider import Decider
from edge_producer.filter import RowFilter
from edge_producer.sensed_rows import Row
from model_service.models.mahalanobis import Array
from model_service.models.training_rows import ROW_KEY
from schemas.instants import to_us
from schemas.tables import ALERTS, DEVICES, SUMMARIES
from stream_processors.windowing.moments import Moments
from stream_processors.windowing.partials import TaskShare
from stream_processors.windowing.windows import TumblingWindow

SEEN_AFTER_S = 2.0
"""Rows and summaries are in the lake so long after the end of their period."""
BOOT = 1
assert ROW_KEY == ("device_id", "boot_id", "seq")


class SensedPeriod(NamedTuple):
    """What one drift window of a fleet shows the drift watch.

    Attributes:
        shares: By (model version, feature), the score as feature ``score``.
        known_at: When all of it is known.
    """

    window: TumblingWindow
    shares: dict[tuple[str, str], TaskShare]
    known_at: datetime


class SensingFleet:
    """All devices of a story; what they send lands in a lake.

    Args:
        story: What they measure.
        lake: Gets registrations, rows, alerts and summaries.
    """

    def __init__(self, story: FleetStory, lake: MemoryLake) -> None:
        self._story, self._lake = story, lake
        profile = story.profile
        self._deciders = [Decider(profile.decision) for _ in story.devices]
        self._filters = [
            RowFilter(profile.filter, profile.feature_names, profile.sampling.hop_s, _secret(story, d))
            for d in story.devices
        ]
        self._ends = [to_us(story.end(k)) for k in range(story.windows)]
        self._register()

    def periods(self) -> Iterator[tuple[int, int]]:
        """First window of each drift window, and the first one after it."""
        for first in range(0, self._story.windows - self._story.period + 1, self._story.period):
            yield first, first + self._story.period

    def sense(self, first: int, end: int, scores: Array, version: str) -> SensedPeriod:
        """One drift window of all devices.

        Args:
            first: Its first window.
            end: The first window after it.
            scores: Of the model in force, shape (devices, end - first).
            version: Of that model.
        """
        known_at = self._story.end(end - 1) + timedelta(seconds=SEEN_AFTER_S)
        rows: list[tuple[int, Row]] = []
        alerts: list[tuple[int, Row]] = []
        for d, (decider, sieve) in enumerate(zip(self._deciders, self._filters, strict=True)):
            for k in range(first, end):
                score = float(scores[d, k - first])
                decision = decider.decide(self._story.end(k), score)
                row = Row(
                    BOOT, k, self._ends[k], 0, 0, 1, self._story.features[d, k], score,
                    decision.action, version, 0.0,
                )  # fmt: skip
                rows += [(d, r) for r in sieve.offer(row, decision) if r.selected]
                alerts += [(d, row)] if decision.alert else []
        self._land(rows, alerts, known_at)
        return self._summarise(first, end, scores, version, known_at)

    def _register(self) -> None:
        _, site, group, hardware = self._story.cohort.split("/")
        devices = list(self._story.devices)
        columns = {
            "device_id": devices, "profile": self._story.profile.name, "site": site, "group": group,
            "hardware": hardware, "key_id": devices, "public_key": "", "active": True,
            "known_at": START - timedelta(days=1), "_partition": -1, "_offset": 0,
            "_row": list(range(len(devices))),
        }  # fmt: skip
        self._lake.add(DEVICES.name, columns)

    def _land(self, rows: list[tuple[int, Row]], alerts: list[tuple[int, Row]], known_at: datetime) -> None:
        profile = self._story.profile
        if rows:
            values = np.array([r.features for _, r in rows], dtype=np.float32)
            columns = {
                **self._identity(rows, known_at),
                "mono_ns": 0, "time_quality": 1,
                "decision": [r.decision for _, r in rows],
                "reasons": [r.reasons for _, r in rows],
                "sample_p": [r.sample_p for _, r in rows],
                "inclusion_probability": [r.pi for _, r in rows],
                "featureset": profile.featureset, "time_suspect": False,
                **{f: values[:, i] for i, f in enumerate(profile.feature_names)},
            }  # fmt: skip
            self._lake.add("telemetry", columns)
        if alerts:
            told = {"profile": profile.name, "action": [r.decision for _, r in alerts]}
            told["features"] = json.dumps({})
            self._lake.add(ALERTS.name, {**self._identity(alerts, known_at), **told})

    def _identity(self, rows: list[tuple[int, Row]], known_at: datetime) -> dict[str, Any]:
        return {
            "device_id": [self._story.devices[d] for d, _ in rows],
            "boot_id": BOOT,
            "seq": [r.seq for _, r in rows],
            "event_time": [self._story.end(r.seq) for _, r in rows],
            "score": [r.score for _, r in rows],
            "model_version": [r.model_version for _, r in rows],
            "known_at": known_at,
            "_partition": 0,
            "_offset": 0,
            "_row": list(range(len(rows))),
        }

    def _summarise(
        self, first: int, end: int, scores: Array, version: str, known_at: datetime
    ) -> SensedPeriod:
        """The period's summaries into the lake; all devices together for the drift watch."""
        story = self._story
        names = [*story.profile.feature_names, "score"]
        values = np.concatenate([story.features[:, first:end], scores[:, :, None]], axis=2)
        mean = values.mean(axis=1)
        m2 = ((values - mean[:, None]) ** 2).sum(axis=1)
        devices, width = mean.shape
        period_s = story.profile.drift.window_s
        start = story.end(first) - timedelta(seconds=story.profile.sampling.hop_s)
        columns = {
            "profile": story.profile.name, "boot_id": BOOT, "model_version": version,
            "device_id": np.repeat(story.devices, width).tolist(),
            "featureset": story.profile.featureset, "feature": names * devices,
            "period_start": start, "period_s": period_s, "part": 0, "n": end - first, "n_missing": 0,
            "mean": mean.ravel(), "m2": m2.ravel(), "min": values.min(axis=1).ravel(),
            "max": values.max(axis=1).ravel(), "known_at": known_at, "_partition": 0, "_offset": 0,
            "_row": 0,
        }  # fmt: skip
        self._lake.add(SUMMARIES.name, columns)
        window = TumblingWindow(to_us(start), round(period_s * 1e6))
        flat = values.reshape(-1, width)
        shares = {(version, n): _share(flat[:, i], devices) for i, n in enumerate(names)}
        return SensedPeriod(window, shares, known_at)


def _share(values: Array, devices: int) -> TaskShare:
    mean = float(values.mean())
    m2 = float(((values - mean) ** 2).sum())
    return TaskShare(Moments(len(values), mean, m2, float(values.min()), float(values.max())), devices)


def _secret(story: FleetStory, device: str) -> bytes:
    return hashlib.sha256(f"{story.seed}/{device}".encode()).digest()

"""Judges a cohort's windows one after the other: readings, alarms, verdicts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from schemas.instants import from_us
from schemas.profile import Profile
from stream_processors.drift.change import SeriesChange
from stream_processors.drift.drift_kinds import ACTIONS, DriftEvidence, channels_of, classify, moved_share
from stream_processors.drift.series import Reading, SeriesBaseline
from stream_processors.drift.watched_feature import (
    STATISTICS,
    SeasonPhase,
    Statistic,
    WatchedFeature,
    readings_of,
)
from stream_processors.windowing.moments import merge
from stream_processors.windowing.partials import TaskShare
from stream_processors.windowing.windows import CohortScope, TumblingWindow

_SEP = "\x1f"
SCORE = "score"
ANY_MODEL = "*"
"""Model under which features are watched: they go on over a change of model. Scores are watched by model."""
_FORGOTTEN = 2048
"""Windows without a value after which a watch is dropped: its model version is gone."""


class _Found(NamedTuple):
    """A change to speak of."""

    feature: str
    statistic: Statistic
    change: SeriesChange
    onset: int
    share: TaskShare


class CohortJudge:
    """Windows of one cohort, in order.

    Args:
        scope: Whose windows.
        profile: Its drift policy, features and channels.
        known: State of watches (``watch``, model, feature) and of phases (``phase``, model, feature,
            statistic, number) as JSON.
    """

    def __init__(self, scope: CohortScope, profile: Profile, known: Mapping[str, Any]) -> None:
        self._scope = scope
        self._profile = profile
        self._policy = profile.drift
        self._known = dict(known)
        self.changed: dict[str, Any] = {}

    def window(
        self, window: TumblingWindow, shares: Mapping[tuple[str, str], TaskShare]
    ) -> list[dict[str, Any]]:
        """Judge a window.

        Args:
            window: Starts after the one before.
            shares: Whole window by (model version, feature).

        Returns:
            Verdicts: fields of ``schemas.events.Drift`` without ``event_id``.
        """
        watched = {key: share for key, share in shares.items() if self._watches(key[1])}
        features = self._pooled({key: share for key, share in watched.items() if key[1] != SCORE})
        scores = {m: share for (m, f), share in watched.items() if f == SCORE}
        lead = _lead(shares)
        seen = {f: self._observed(window, (ANY_MODEL, f), share) for f, share in features.items()}
        verdicts = []
        for model in sorted({lead, *scores}):
            own = {f: (ANY_MODEL, f) for f in features} if model == lead else {}
            watches = dict(seen)
            if model in scores:
                own[SCORE] = (model, SCORE)
                watches[SCORE] = self._observed(window, own[SCORE], scores[model])
            told, spoken = self._judge(window, model, watches, {**features, SCORE: scores.get(model)}, own)
            verdicts += told
            for feature, place in own.items():
                self._save(_SEP.join(("watch", *place)), spoken[feature].to_state())
        self._forget(window)
        return verdicts

    def _pooled(self, shares: Mapping[tuple[str, str], TaskShare]) -> dict[str, TaskShare]:
        """Whole cohort by feature, whatever model its devices run: features do not depend on it.

        So a rollout changes neither the devices behind a watch nor its baseline. A device that changed its
        model within the window is in two shares; how many windows one device has tells.
        """
        by_feature: dict[str, list[TaskShare]] = {}
        for (_model, feature), share in sorted(shares.items()):
            by_feature.setdefault(feature, []).append(share)
        full = max(self._policy.window_s / self._profile.sampling.hop_s, 1.0)
        pooled = {}
        for feature, parts in by_feature.items():
            moments, counted = merge(s.moments for s in parts), [s.devices for s in parts]
            devices = min(sum(counted), max(*counted, 0, math.ceil(moments.n / full)))
            pooled[feature] = TaskShare(moments, devices)
        return pooled

    def _watches(self, feature: str) -> bool:
        return not self._policy.features or feature in self._policy.features

    def _judge(
        self,
        window: TumblingWindow,
        model: str,
        watches: Mapping[str, WatchedFeature],
        shares: Mapping[str, TaskShare | None],
        own: Mapping[str, tuple[str, str]],
    ) -> tuple[list[dict[str, Any]], dict[str, WatchedFeature]]:
        """Verdicts on ``own`` features in the light of all watches, and the watches after them."""
        number = window.start_us // window.length_us
        found = [
            _Found(f, statistic, change, number - watches[f].series[statistic].windows_back(change.at), share)
            for f in sorted(own)
            if (share := shares[f]) is not None
            for statistic, change in watches[f].changes(self._policy).items()
        ]
        found = self._same_onset(found)
        verdicts = [self._verdict(window, model, item, watches) for item in found]
        after = dict(watches)
        for item, verdict in zip(found, verdicts, strict=True):
            onset = None if verdict["kind"] == "single_device_fault" else item.onset
            after[item.feature] = after[item.feature].spoken(onset, self._policy)
        return verdicts, after

    def _observed(self, window: TumblingWindow, place: tuple[str, str], share: TaskShare) -> WatchedFeature:
        number = window.start_us // window.length_us
        raw = self._known.get(_SEP.join(("watch", *place)))
        watch = WatchedFeature(number - 1) if raw is None else WatchedFeature.from_state(raw)
        readings = readings_of(share.moments, share.devices)
        if self._policy.seasonal_s is not None:
            readings = {s: self._in_season(window, place, s, readings[s], watch) for s in STATISTICS}
        return watch.observe(number, readings, self._policy)

    def _in_season(
        self,
        window: TumblingWindow,
        which: tuple[str, str],
        statistic: Statistic,
        reading: Reading | None,
        watch: WatchedFeature,
    ) -> Reading | None:
        """The reading less what is expected at this phase; None in the first season. Learns the phase."""
        if reading is None or self._policy.seasonal_s is None:
            return None
        season_us = round(self._policy.seasonal_s * 1e6)
        phase = window.start_us % season_us // window.length_us
        key = _SEP.join(("phase", *which, statistic, str(phase)))
        expected = SeasonPhase(*self._known[key]) if key in self._known else None
        learnt = _learn(expected, reading.value, watch.series[statistic].baseline)
        if learnt is not None:
            self._save(key, list(learnt))
        return None if expected is None else reading._replace(value=reading.value - expected.level)

    def _same_onset(self, found: list[_Found]) -> list[_Found]:
        """Features of one channel that move in one window moved together: the largest shift dates them."""
        channels = {s.name: s.channel for s in self._profile.feature_specs()}
        largest: dict[str, _Found] = {}
        for item in found:
            channel = channels.get(item.feature, item.feature)
            if channel not in largest or abs(item.change.size) > abs(largest[channel].change.size):
                largest[channel] = item
        return [i._replace(onset=largest[channels.get(i.feature, i.feature)].onset) for i in found]

    def _verdict(
        self, window: TumblingWindow, model: str, item: _Found, watches: Mapping[str, WatchedFeature]
    ) -> dict[str, Any]:
        number = window.start_us // window.length_us
        moved = {f: w.has_moved(item.onset, self._policy) for f, w in watches.items()} | {item.feature: True}
        channels, scaled = channels_of(moved, self._profile)
        series = watches[item.feature].series
        level = series["level"].baseline
        share = moved_share(level.level, level.spread, item.share.moments) if level else 1.0
        if self._policy.seasonal_s is not None:
            share = 1.0  # the level's baseline is of residuals: it cannot be set against the window's mean
        evidence = DriftEvidence(
            abrupt=item.change.abrupt,
            windows_since_onset=number - item.onset + 1,
            devices=item.share.devices,
            moved_share=share,
            channels_moved=channels,
            scaled_share=scaled,
        )
        kind = classify(evidence)
        baseline = series[item.statistic].baseline
        numbers = evidence._asdict() | {
            "features_moved": sum(map(bool, moved.values())),
            "n": item.share.moments.n,
            "window_mean": item.share.moments.mean,
            "window_std": item.share.moments.variance**0.5,
            "noise": item.change.noise,
            "abruptness": item.change.abruptness,
        }
        if baseline is not None:
            numbers |= {"baseline_level": baseline.level, "baseline_unit": baseline.unit}
        return {
            "cohort": self._scope.cohort,
            "profile": self._scope.profile,
            "model_version": model,
            "feature": item.feature,
            "statistic": item.statistic,
            "kind": kind,
            "onset": from_us(item.onset * window.length_us),
            "detected": from_us(window.end_us),
            "size": item.change.size,
            "devices": item.share.devices,
            "evidence": {name: float(value) for name, value in numbers.items()},
            "suggested_action": ACTIONS[kind],
        }

    def _forget(self, window: TumblingWindow) -> None:
        newest = window.start_us // window.length_us
        gone = {
            key.split(_SEP, 1)[1]
            for key, value in self._known.items()
            if key.startswith(f"watch{_SEP}") and abs(newest - value["newest"]) > _FORGOTTEN
        }
        for key in list(self._known) if gone else []:
            _what, model, feature, *_rest = key.split(_SEP)
            if _SEP.join((model, feature)) in gone:
                del self._known[key]
                self.changed[key] = None

    def _save(self, key: str, value: Any) -> None:
        self._known[key] = value
        self.changed[key] = value


def _lead(shares: Mapping[tuple[str, str], TaskShare]) -> str:
    """Version in force on most of the cohort's windows; shadows score, they have no features."""
    windows: Counter[str] = Counter()
    for (model, feature), share in shares.items():
        if feature != SCORE:
            windows[model] = max(windows[model], share.moments.n)
    return min(windows, key=lambda m: (-windows[m], m), default="")


def _learn(expected: SeasonPhase | None, value: float, baseline: SeriesBaseline | None) -> SeasonPhase | None:
    """What to expect at this phase next season; None: no change.

    After a drift the season goes on around the new level, so only the rest is learnt; and what lies far out,
    as the first windows of a drift do before they have their verdict, is learnt no further than two units.
    """
    if expected is None:
        return SeasonPhase(0, 0.0).learn(value - (baseline.level if baseline else 0.0))
    if baseline is None:
        return None
    rest, bound = value - expected.level - baseline.level, 2 * baseline.unit
    return expected.learn(expected.level + min(max(rest, -bound), bound))

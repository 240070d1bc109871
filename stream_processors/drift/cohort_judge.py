"""Judges a cohort's windows one after the other: readings become alarms, and alarms become verdicts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

from schemas.drift_vocabulary import DriftKind
from schemas.instants import from_us
from schemas.profile import Profile
from stream_processors.drift.change import SeriesChange
from stream_processors.drift.change_evidence import ChangeTest, longest_memory
from stream_processors.drift.drift_kinds import (
    ACTIONS,
    DriftEvidence,
    channels_of,
    classify,
    is_single,
    moved_share,
)
from stream_processors.drift.false_discoveries import ALONE, FleetTests
from stream_processors.drift.series import Reading, SeriesBaseline, lacks_rows
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
"""Model under which features are watched, so that a change of model does not end their watch as it ends a
score's."""
_WHOLE_DEVICE = 0.6
"""Estimated number of moved devices from which it is one."""
_DROPPED_AFTER = 2048
"""Windows without a value after which a watch is dropped: no device runs its model version any more."""


class _ReportedChange(NamedTuple):
    """A change that is large and lasting enough for a verdict.

    Attributes:
        onset: Number of the first window of the new regime: start over length.
        share: The whole cohort's, in the window that is judged.
    """

    feature: str
    statistic: Statistic
    change: SeriesChange
    onset: int
    share: TaskShare


class CohortJudge:
    """Windows of one cohort, in order.

    Args:
        scope: The cohort and its profile.
        profile: Its drift policy, features and channels are used.
        known: State of watches (``watch``, model, feature) and of phases (``phase``, model, feature,
            statistic, number) as JSON.

    Attributes:
        changed: State that this object has changed, by key; None removes a key.
        not_compared: Features of the last window that had other devices than their baseline.
    """

    def __init__(self, scope: CohortScope, profile: Profile, known: Mapping[str, Any]) -> None:
        self._scope = scope
        self._profile = profile
        self._policy = profile.drift
        # The calendar moves with the clock, and further outputs are of one model as features are not.
        self._by_default = {SCORE, *(s.name for s in profile.feature_specs() if s.sources)}
        self._known = dict(known)
        self.changed: dict[str, Any] = {}
        self.not_compared = 0
        self._missing_tasks = 0
        rows = profile.drift.window_s / profile.sampling.hop_s
        self._full = max(rows, 1.0)
        self._test = ChangeTest(math.inf, longest_memory(rows))

    def window(
        self,
        window: TumblingWindow,
        shares: Mapping[tuple[str, str], TaskShare],
        missing_tasks: int = 0,
        fleet: FleetTests = ALONE,
    ) -> list[dict[str, Any]]:
        """Judge a window.

        Args:
            window: Starts after the window of the call before.
            shares: The window by (model version, feature), as far as tasks have sent it.
            missing_tasks: Tasks that have devices of the cohort and sent nothing of this window.
            fleet: Series and verdicts of all cohorts of the task; at least this cohort's series count.

        Returns:
            Verdicts: fields of ``schemas.events.DriftVerdict`` without ``event_id``.
        """
        self.not_compared, self._missing_tasks = 0, missing_tasks
        watched = {key: share for key, share in shares.items() if self._is_watched(key[1])}
        own = len(STATISTICS) * len({key if key[1] == SCORE else (ANY_MODEL, key[1]) for key in watched})
        needed = fleet._replace(series=max(fleet.series, own)).needed(self._policy)
        self._test = self._test._replace(needed=needed)
        features = self._pooled({key: share for key, share in watched.items() if key[1] != SCORE})
        scores = {m: share for (m, f), share in watched.items() if f == SCORE}
        in_force = _version_in_force(shares)
        observed = {f: self._observe(window, (ANY_MODEL, f), share) for f, share in features.items()}
        verdicts = []
        for model in sorted({in_force, *scores}):
            # Features are judged once, under the version in force; each score under the model that gave it.
            keys = {f: (ANY_MODEL, f) for f in features} if model == in_force else {}
            watches = dict(observed)
            if model in scores:
                keys[SCORE] = (model, SCORE)
                watches[SCORE] = self._observe(window, keys[SCORE], scores[model])
            in_window = {**features, SCORE: scores.get(model)}
            found, after = self._judge(window, model, watches, in_window, set(keys))
            verdicts += found
            for feature, key in keys.items():
                self._save(_SEP.join(("watch", *key)), after[feature].to_state())
        self._drop_unused(window)
        return verdicts

    def _pooled(self, shares: Mapping[tuple[str, str], TaskShare]) -> dict[str, TaskShare]:
        """Whole cohort by feature, whatever model its devices run: features do not depend on it.

        So a rollout changes neither the devices behind a watch nor its baseline. A device that changed its
        model within the window is in two shares: the count of devices is bounded by the windows that they can
        have sensed.
        """
        by_feature: dict[str, list[TaskShare]] = {}
        for (_model, feature), share in sorted(shares.items()):
            by_feature.setdefault(feature, []).append(share)
        pooled = {}
        for feature, parts in by_feature.items():
            moments, counted = merge(s.moments for s in parts), [s.devices for s in parts]
            devices = min(sum(counted), max(*counted, 0, math.ceil(moments.n / self._full)))
            pooled[feature] = TaskShare(moments, devices)
        return pooled

    def _is_watched(self, feature: str) -> bool:
        return feature in (self._policy.features or self._by_default)

    def _judge(
        self,
        window: TumblingWindow,
        model: str,
        watches: Mapping[str, WatchedFeature],
        shares: Mapping[str, TaskShare | None],
        judged: Set[str],
    ) -> tuple[list[dict[str, Any]], dict[str, WatchedFeature]]:
        """Verdicts on some features, and all watches after these verdicts.

        Args:
            window: The newest window; ``watches`` have observed it.
            model: Version that the verdicts name.
            watches: All features of the cohort: what else moved decides the kind of a drift.
            shares: The window by feature; None: no device reported the feature.
            judged: Features that may get a verdict.
        """
        # Windows are numbered by start over length: the number of an onset outlives the series it came from.
        number = window.start_us // window.length_us
        # A change is placed by its index among the values there are; windows without a value have no index.
        found = [
            _ReportedChange(
                f, statistic, change, number - watches[f].series[statistic].windows_back(change.at), share
            )
            for f in sorted(judged)
            if (share := shares[f]) is not None
            for statistic, change in watches[f]
            .changes(self._policy, self._test, few=self._few(watches[f], share))
            .items()
        ]
        # Before any verdict: the onset decides which other features count as moved, and so the kind.
        found = self._same_onset(found)
        # All verdicts come from the watches as they are now: a watch that was reset between two verdicts
        # would hide its shift from the second.
        verdicts = [self._verdict(window, model, item, watches) for item in found]
        after = dict(watches)
        for item, verdict in zip(found, verdicts, strict=True):
            # One faulty device is no new regime of the cohort: no later verdict may lean on its onset.
            onset = None if verdict["kind"] is DriftKind.SINGLE_DEVICE_FAULT else item.onset
            after[item.feature] = after[item.feature].after_verdict(onset, self._policy)
        return verdicts, after

    def _observe(self, window: TumblingWindow, key: tuple[str, str], share: TaskShare) -> WatchedFeature:
        """The watch under this key (model, feature) after the window."""
        number = window.start_us // window.length_us
        raw = self._known.get(_SEP.join(("watch", *key)))
        watch = WatchedFeature(number - 1) if raw is None else WatchedFeature.from_state(raw)
        readings = readings_of(share.moments, share.devices)
        if self._policy.seasonal_s is not None and raw is None and self._in_part(share):
            readings = dict.fromkeys(STATISTICS)  # else its phase would expect next season what a part showed
        elif self._policy.seasonal_s is not None:
            readings = {s: self._in_season(window, key, s, readings[s], watch) for s in STATISTICS}
        observed = watch.observe(number, readings, self._policy)
        self.not_compared += observed.resized > 0
        return observed

    def _in_part(self, share: TaskShare) -> bool:
        """Whether devices lack rows of the window, by the rate that the profile gives."""
        return lacks_rows(share.moments.n, self._full * share.devices, share.devices)

    def _in_season(
        self,
        window: TumblingWindow,
        watched: tuple[str, str],
        statistic: Statistic,
        reading: Reading | None,
        watch: WatchedFeature,
    ) -> Reading | None:
        """The reading less what is expected at this phase, None in the first season; learns the phase."""
        if reading is None or self._policy.seasonal_s is None:
            return None
        season_us = round(self._policy.seasonal_s * 1e6)
        phase = window.start_us % season_us // window.length_us
        key = _SEP.join(("phase", *watched, statistic, str(phase)))
        expected = SeasonPhase(*self._known[key]) if key in self._known else None
        learnt = _expectation_after(expected, reading.value, watch.series[statistic].baseline)
        if learnt is not None:
            self._save(key, list(learnt))
        return None if expected is None else reading._replace(value=reading.value - expected.level)

    def _same_onset(self, found: list[_ReportedChange]) -> list[_ReportedChange]:
        """The changes with one onset for all features of a channel: that of the largest shift."""
        channels = {s.name: s.channel for s in self._profile.feature_specs()}
        largest: dict[str, _ReportedChange] = {}
        for item in found:
            channel = channels.get(item.feature, item.feature)
            if channel not in largest or abs(item.change.size) > abs(largest[channel].change.size):
                largest[channel] = item
        return [i._replace(onset=largest[channels.get(i.feature, i.feature)].onset) for i in found]

    def _verdict(
        self, window: TumblingWindow, model: str, item: _ReportedChange, watches: Mapping[str, WatchedFeature]
    ) -> dict[str, Any]:
        number = window.start_us // window.length_us
        moved = {f: w.has_moved(item.onset, self._policy) for f, w in watches.items()} | {item.feature: True}
        channels, scaled = channels_of(moved, self._profile)
        share = self._moved_share(watches[item.feature], item.share)
        evidence = DriftEvidence(
            abrupt=item.change.abrupt,
            windows_since_onset=number - item.onset + 1,
            devices=item.share.devices,
            moved_share=share,
            channels_moved=channels,
            scaled_share=scaled,
        )
        kind = classify(evidence)
        baseline = watches[item.feature].series[item.statistic].baseline
        numbers = evidence._asdict() | {
            "features_moved": sum(map(bool, moved.values())),
            "n": item.share.moments.n,
            "window_mean": item.share.moments.mean,
            "window_std": item.share.moments.variance**0.5,
            "noise": item.change.noise,
            "chance": item.change.chance,
            "abruptness": item.change.abruptness,
            "missing_tasks": self._missing_tasks,
            "log10_e_value": item.change.evidence / math.log(10),
            "log10_e_needed": self._test.needed / math.log(10),
        }
        if baseline is not None:
            unit = baseline.unit * item.change.noise
            numbers |= {"baseline_level": baseline.level, "baseline_unit": unit}
            numbers["baseline_devices"] = baseline.devices
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

    def _moved_share(self, watch: WatchedFeature, share: TaskShare) -> float:
        """Estimated share of the devices that moved since the baseline."""
        level = watch.series["level"].baseline
        # With a season the baseline is of residuals and cannot be compared with the window's mean.
        if level is None or self._policy.seasonal_s is not None:
            return 1.0
        return moved_share(level.level, level.spread, share.moments)

    def _few(self, watch: WatchedFeature, share: TaskShare) -> bool:
        """Whether one whole device accounts for what the window shows.

        A share that comes to half a device is no device: the rows of all of them spread wider.
        """
        moved = self._moved_share(watch, share)
        return is_single(share.devices, moved) and moved * share.devices >= _WHOLE_DEVICE

    def _drop_unused(self, window: TumblingWindow) -> None:
        newest = window.start_us // window.length_us
        gone = {
            key.split(_SEP, 1)[1]
            for key, value in self._known.items()
            if key.startswith(f"watch{_SEP}") and abs(newest - value["newest"]) > _DROPPED_AFTER
        }
        for key in list(self._known) if gone else []:
            _what, model, feature, *_rest = key.split(_SEP)
            if _SEP.join((model, feature)) in gone:
                del self._known[key]
                self.changed[key] = None

    def _save(self, key: str, value: Any) -> None:
        self._known[key] = value
        self.changed[key] = value


def _version_in_force(shares: Mapping[tuple[str, str], TaskShare]) -> str:
    """Version in force for most of the cohort's windows; a shadow does not count, as it sends scores only."""
    windows: Counter[str] = Counter()
    for (model, feature), share in shares.items():
        if feature != SCORE:
            windows[model] = max(windows[model], share.moments.n)
    return min(windows, key=lambda m: (-windows[m], m), default="")


def _expectation_after(
    expected: SeasonPhase | None, value: float, baseline: SeriesBaseline | None
) -> SeasonPhase | None:
    """The level to expect at this phase next season; None: as before.

    After a drift the season goes on around the new level, so the expectation follows only what differs from
    that level. It follows an outlier, such as the first windows of a drift before their verdict, by two units
    at most.
    """
    if expected is None:
        return SeasonPhase(0, 0.0).learn(value - (baseline.level if baseline else 0.0))
    if baseline is None:
        return None
    rest, bound = value - expected.level - baseline.level, 2 * baseline.unit
    return expected.learn(expected.level + min(max(rest, -bound), bound))

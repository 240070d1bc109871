"""Policies to compare with: never, by the calendar, always, and at each alarm of a plain drift detector.

They train as the trainer does (``adapt``, the model in force as prior, all features free to move), on what
devices sampled in the newest minute of windows, and ship what they make: no examination, no gate. Their
models take as long to reach the fleet as those of the loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from river.drift import ADWIN

from benchmarks.learning.fleet_story import FleetStory
from benchmarks.learning.simulated_loop import ModelInForce
from model_service.detectors.kinds import detector_of
from model_service.models.adapt import AdaptableModel, RegimeRows, adapt

SPAN = 60
"""Windows that a plain retraining learns from."""
PHASES = 20
"""Calendars of one period that are tried, each begun a twentieth of the period later."""


def never(story: FleetStory) -> list[ModelInForce]:
    """The first model for ever."""
    return [_first(story)]


def calendar(story: FleetStory, retrains: int, phase: int) -> list[ModelInForce]:
    """So many retrainings at equal distances, the first at a phase of the period."""
    period = story.windows / max(retrains, 1)
    times = [round((i + (phase + 0.5) / PHASES) * period) for i in range(retrains)]
    return retrained_at(story, times)


def always(story: FleetStory) -> list[ModelInForce]:
    """A retraining whenever there are as many new windows as one learns from."""
    return retrained_at(story, range(SPAN, story.windows, SPAN))


def at_alarms(story: FleetStory) -> list[ModelInForce]:
    """A retraining at each alarm of ADWIN, with river's defaults, on the fleet's mean score a window."""
    watch, models = ADWIN(), [_first(story)]
    model, busy_until = _model(story), 0
    current = model
    for window in range(story.windows):
        if window >= models[-1].first:
            current = model
        watch.update(float(np.nan_to_num(current.score(story.features[:, window])).mean()))
        if watch.drift_detected and window >= busy_until:
            model = _retrained(story, model, window + 1)
            arrives = window + 1 + story.rollout_windows
            models.append(ModelInForce(arrives, f"adwin-{window}", model.score))
            busy_until = arrives  # one rollout at a time
    return _landed(story, models)


def retrained_at(story: FleetStory, times: Sequence[int]) -> list[ModelInForce]:
    """A retraining at each of these windows."""
    model, models = _model(story), [_first(story)]
    for window in times:
        if window < SPAN // 4:
            continue  # nothing to learn from yet
        model = _retrained(story, model, window)
        models.append(ModelInForce(window + story.rollout_windows, f"at-{window}", model.score))
    return _landed(story, models)


def _landed(story: FleetStory, models: list[ModelInForce]) -> list[ModelInForce]:
    return [m for m in models if m.first < story.windows]


def _model(story: FleetStory) -> AdaptableModel:
    return detector_of(story.first.manifest)


def _first(story: FleetStory) -> ModelInForce:
    return ModelInForce(0, story.first.manifest.version, _model(story).score)


def _retrained(story: FleetStory, model: AdaptableModel, window: int) -> AdaptableModel:
    """The model adapted on rows sampled of the newest windows."""
    rows = story.features[:, max(window - SPAN, 0) : window]
    rng = np.random.default_rng([story.seed, window])
    device, at = np.nonzero(rng.random(rows.shape[:2]) < story.profile.filter.p)
    names, number = np.unique(device, return_inverse=True)
    if len(names) < 2:
        return model
    chosen = RegimeRows(rows[device, at], np.ones(len(at)), number, len(names))
    moved = np.ones(rows.shape[2], dtype=bool)
    return adapt(model, chosen, moved, story.first.manifest.baselines["score"].mean)


def calendars(story: FleetStory, retrains: int) -> Iterator[list[ModelInForce]]:
    """The models of each phase."""
    for phase in range(PHASES):
        yield calendar(story, retrains, phase)

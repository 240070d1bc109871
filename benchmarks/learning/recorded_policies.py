"""A recording under every policy: the loop with labels that come late, and plain retraining beside it.

Plain policies adapt with the product's arithmetic on a sample of the newest week (or what there is), all
features free to move, and leave out rows that are known by then to be faulty. Of one machine the days stand
for devices: they show how its normal varies. The loop is the product's own; labels land in its lake when
they become known.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
from river.drift import ADWIN

from benchmarks.learning.fleet_story import START, Array
from benchmarks.learning.memory_lake import MemoryLake
from benchmarks.learning.plain_policies import PHASES
from benchmarks.learning.prequential_cost import window_sums
from benchmarks.learning.recorded_story import RecordedStory
from benchmarks.learning.simulated_loop import LoopHistory, ModelInForce, SimulatedLoop
from model_service.detectors.kinds import detector_of
from model_service.models.adapt import AdaptableModel, RegimeRows, adapt
from schemas.tables import LABELS

LEARNT_DAYS = 7.0
"""Days of the recording's clock that a plain retraining learns from; of a scaled recording its own days."""
LEAST = 60
"""Windows below which it does not retrain."""
DELAYS = (0.0, 1.0, 7.0)
"""Days until a label is known."""


class PolicyRun(NamedTuple):
    """What a policy did with a recording.

    Attributes:
        sums: By window, as ``prequential_cost.window_sums``; shape (windows, 6).
        retrains: Models that came into force.
    """

    sums: Array
    retrains: int


class LabelledLoop(SimulatedLoop):
    """The loop on a recording, whose labels become known after a delay.

    Args:
        recorded: What happens.
        delay_days: Until a label is known.
    """

    def __init__(self, recorded: RecordedStory, delay_days: float) -> None:
        super().__init__(recorded.story)
        self._recorded, self._delay, self._labelled_to = recorded, delay_days, 0

    @property
    def lake(self) -> MemoryLake:
        """What has landed."""
        return self._lake

    def _work(self, now: datetime) -> None:
        end = self._period[1]
        known = self._recorded.known_before(end, self._delay)
        if self._recorded.labelled:
            self._land_labels(self._labelled_to, known, now)
        self._labelled_to = known
        super()._work(now)

    def _land_labels(self, first: int, end: int, now: datetime) -> None:
        """Labels of faulty spans within some windows; each device gets its own."""
        story = self._story
        flags = np.concatenate([[False], story.faulty[0, first:end], [False]]).astype(int)
        starts, ends = (np.flatnonzero(np.diff(flags) == way) for way in (1, -1))
        for at, stop in zip(starts + first, ends + first, strict=True):
            begin = story.end(int(at) - 1) if at else START
            ids = [f"{d}-{at}" for d in story.devices]
            self._lake.add(
                LABELS.name,
                {
                    "label_id": ids, "device_id": list(story.devices), "span_start": begin,
                    "span_end": story.end(int(stop) - 1), "label": "fault", "source": "recording",
                    "confidence": 1.0, "label_probability": 1.0, "labelled_at": now, "known_at": now,
                    "_partition": 1, "_offset": int(at), "_row": list(range(len(ids))),
                },
            )  # fmt: skip


def loop_run(recorded: RecordedStory, delay_days: float) -> tuple[PolicyRun, LoopHistory]:
    """The loop."""
    history = LabelledLoop(recorded, delay_days).run()
    return _run(recorded, history.models), history


def never_run(recorded: RecordedStory) -> PolicyRun:
    """The first model for ever."""
    return _run(recorded, [_first(recorded)])


def always_run(recorded: RecordedStory, delay_days: float) -> PolicyRun:
    """A retraining after each drift window."""
    story = recorded.story
    return _retrained(recorded, range(story.period, story.windows, story.period), delay_days)


def calendar_runs(recorded: RecordedStory, retrains: int, delay_days: float) -> list[PolicyRun]:
    """So many retrainings at equal distances, at each phase; none where there are none."""
    period = recorded.story.windows / max(retrains, 1)
    return [
        _retrained(recorded, [round((i + (p + 0.5) / PHASES) * period) for i in range(retrains)], delay_days)
        for p in range(PHASES if retrains else 0)
    ]


def adwin_run(recorded: RecordedStory, delay_days: float) -> PolicyRun:
    """A retraining at each alarm of ADWIN, with river's defaults, on the mean score of the windows."""
    story, watch = recorded.story, ADWIN()
    models, model = [_first(recorded)], _model(recorded)
    since, busy_until = 0, 0
    scores = _scores(recorded, model, since)
    for window in range(story.windows):
        if 0 < window == models[-1].first:
            since, scores = window, _scores(recorded, model, window)
        watch.update(float(scores[window - since]))
        if watch.drift_detected and window >= busy_until:
            model = adapted(recorded, model, window + 1, delay_days)
            busy_until = window + 1 + story.rollout_windows
            models.append(ModelInForce(busy_until, f"adwin-{window}", model.score))
    return _run(recorded, [m for m in models if m.first < story.windows])


def _scores(recorded: RecordedStory, model: AdaptableModel, first: int) -> Array:
    rows = recorded.story.features[:, first:]
    found = model.score(rows.reshape(-1, rows.shape[2])).reshape(rows.shape[:2])
    return np.asarray(np.nan_to_num(found).mean(axis=0))


def _retrained(recorded: RecordedStory, times: Sequence[int], delay_days: float) -> PolicyRun:
    story, model, models = recorded.story, _model(recorded), [_first(recorded)]
    for window in times:
        model = adapted(recorded, model, window, delay_days)
        models.append(ModelInForce(window + story.rollout_windows, f"at-{window}", model.score))
    return _run(recorded, [m for m in models if m.first < story.windows])


def adapted(recorded: RecordedStory, model: AdaptableModel, window: int, delay_days: float) -> AdaptableModel:
    """The model adapted on rows sampled of the newest week, without those known to be faulty."""
    story, ends = recorded.story, recorded.ends_us
    if window < LEAST:
        return model
    first = int(np.searchsorted(ends, ends[window - 1] - LEARNT_DAYS * recorded.day_us))
    known = recorded.known_before(window, delay_days) if recorded.labelled else first
    usable = ~(story.faulty[:, first:window] & (np.arange(first, window) < known))
    rng = np.random.default_rng([story.seed, window])
    device, at = np.nonzero(usable & (rng.random(usable.shape) < story.profile.filter.p))
    if len(story.features) == 1:
        device = (ends[first + at] // recorded.day_us).astype(np.int64)
    names, number = np.unique(device, return_inverse=True)
    if len(names) < 2 or len(at) < LEAST // 4:
        return model
    rows = story.features[np.zeros_like(at) if len(story.features) == 1 else device, first + at]
    chosen = RegimeRows(rows, np.ones(len(at)), number, len(names))
    moved = np.ones(rows.shape[1], dtype=bool)
    return adapt(model, chosen, moved, story.first.manifest.baselines["score"].mean)


def _model(recorded: RecordedStory) -> AdaptableModel:
    return detector_of(recorded.story.first.manifest)


def _first(recorded: RecordedStory) -> ModelInForce:
    return ModelInForce(0, recorded.story.first.manifest.version, _model(recorded).score)


def _run(recorded: RecordedStory, models: Sequence[ModelInForce]) -> PolicyRun:
    story = recorded.story
    ends = [*(m.first for m in models[1:]), story.windows]
    parts = [
        window_sums(story, m.score, m.first, min(end, story.windows))
        for m, end in zip(models, ends, strict=True)
        if m.first < min(end, story.windows)
    ]
    return PolicyRun(np.concatenate(parts), len(models) - 1)

"""Laws of what counts as an alarm of a model: every output that a rule reads, on a device and in a trial."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edge_producer.device import Device
from edge_producer.inference import OnnxPredictor
from edge_producer.model_switch import ActiveModels, ModelSwitch, ScoredWindow
from edge_producer.updates.fault_trial import TrialModel, compare_on_faults
from edge_producer.updates.report_content import shadow_message
from edge_producer.updates.shadow_comparison import ShadowComparison
from edge_producer.updates.soak_watch import SoakWatch
from edge_producer.updates.trials import ShadowWatch, TrialChild, TrialFeed
from edge_producer.window import Window
from model_service.rollout.observed import PairedAlarms
from model_service.rollout.paired_reading import paired_shadow
from schemas.alarm_bounds import AlarmBounds
from schemas.fault_effects import FaultEffects
from schemas.instants import from_us
from schemas.profile_file import find_profile
from schemas.row_schemas import TimeQuality
from tests.edge_producer.output_models import FIRST_US, PUMP, Levels, device_bundle, pump_bundle
from tests.edge_producer.spool_rig import SpoolRig, summary_rows
from tests.waiting import wait_until

QUIET, BUSY, FULL = 8.0, 14.0, 19.0
"""Flows: at this time of day queues of 0.2, 0.5 and 0.75. The rule on queues enters at 0.7; no flow moves the
score, whose rule enters at 0.6."""


class Queues(Levels):
    """As ``Levels``, with queues so many times as long."""

    def __init__(self, times: float) -> None:
        self.times = times

    def further(self, features):
        return np.minimum(super().further(features) * self.times, 1.0)

    def write_all(self, writer, features):
        score, queue = super().write_all(writer, features)
        longer = writer.op("Mul", queue, writer.floats(self.times))
        return score, writer.op("Min", longer, writer.floats(1.0))


RIGHT, DEAF, JUMPY = (pump_bundle(model=Queues(times)) for times in (1.0, 0.5, 2.0))


def window(flow: float, number: int) -> Window:
    samples = np.tile(np.array([5.0, flow], np.float32), (8, 1))
    samples += np.linspace(-0.1, 0.1, 8, dtype=np.float32)[:, np.newaxis]
    at = from_us(FIRST_US + number * 1_000_000)
    return Window("d-1", samples, at, number * 10**9, TimeQuality.SYNCHRONISED)


class QueuesRig(SpoolRig):
    """A device with real models of the pump, one in force and maybe one in shadow."""

    def open(self):
        super().open()
        self.switch = ModelSwitch(ActiveModels(OnnxPredictor(device_bundle(RIGHT), PUMP)))
        self.device = Device(self.identities["d-1"], PUMP, self.switch, self._host)
        self.devices = {"d-1": self.device}


@pytest.fixture
def rig(tmp_path):
    found = QueuesRig(tmp_path, PUMP)
    yield found
    found.close()


def predictor(bundle):
    return OnnxPredictor(device_bundle(bundle), PUMP)


def test_the_mildest_rule_on_each_output_says_from_where_it_is_an_alarm():
    robot = AlarmBounds.of(find_profile("robot").decision)
    assert robot.by_column == {"score_degradation": 0.5, "score_slip": 0.5, "score_collision": 0.5}
    assert not robot.raised(1.0, {"collision": 0.49, "slip": None})
    assert robot.raised(None, {"collision": 0.5})
    machine = find_profile("machine").decision
    assert AlarmBounds.of(machine).by_column == {"score": machine.alarm}
    assert AlarmBounds.of(machine.model_copy(update={"rules": ()})).by_column == {"score": 1.0}


def test_a_watch_and_a_soak_count_alarms_of_further_outputs(rig):
    """The new model is in force and hears no queue; the old one in its shadow does."""
    start = ShadowComparison.start(RIGHT.manifest.version, DEAF.manifest.version, PUMP)
    watch, soak = ShadowWatch(start, lambda: None), SoakWatch(start, PUMP)
    flows = [QUIET, FULL, FULL, QUIET, FULL]
    for observer, first in ((watch, 0), (soak, 100)):
        rig.switch.models = ActiveModels(predictor(DEAF), predictor(RIGHT), observer)
        for number, flow in enumerate(flows, first):
            rig.device.process(window(flow, number))
        found = observer.comparison
        assert (found.windows, found.old_alarms, found.new_alarms) == (5, 3, 0)
        read = paired_shadow(shadow_message(found.summary(in_force=True)), {DEAF.manifest.version})
        assert read.alarms == PairedAlarms(old=3, new=0, gained=0, lost=3, gained_runs=0, lost_runs=2)


def test_a_shadows_summaries_hold_its_further_outputs(rig):
    rig.switch.models = ActiveModels(predictor(RIGHT), predictor(DEAF))
    for number in range(4):
        rig.device.process(window(FULL, number))
    rig.flush()
    rig.settle(rig.seal_statements())
    rows = [r for r in summary_rows(rig.delivered, PUMP) if r["feature"] == "score_queue"]
    means = {r["part"] < 0: (r["n"], round(r["mean"], 2), r["model_version"]) for r in rows}
    assert means == {
        False: (4, 0.75, RIGHT.manifest.version),
        True: (4, pytest.approx(0.375, abs=0.01), DEAF.manifest.version),
    }


def test_a_window_with_an_alarm_of_any_output_is_not_kept_as_healthy(rig):
    for number, flow in enumerate([FULL, QUIET, FULL]):
        rig.device.process(window(flow, number))
    assert [kept.samples[0, 1] for kept in rig.switch.healthy.newest] == [pytest.approx(QUIET - 0.1)]


def tried(folder, bundle, flows):
    """The outcome of a trial in a real child process, and its counts."""
    bundle.write(folder)
    child, woken, model = TrialChild(folder, PUMP), threading.Event(), predictor(RIGHT)
    start = ShadowComparison.start(RIGHT.manifest.version, bundle.manifest.version, PUMP)
    feed = TrialFeed("d-1", child, start, 0, woken.set, time.monotonic)
    try:
        wait_until(lambda: child.ready or child.failure_reason, 60.0, "the child")
        for number, flow in enumerate(flows):
            given = window(flow, number)
            numbers, score = model.score("d-1", given.samples, given.end)
            alarm = AlarmBounds.of(PUMP.decision).raised(score, {"queue": float(numbers[-1])})
            feed.observe(given, ScoredWindow(model.version, score, 0.0, alarm=alarm))
        wait_until(lambda: feed.comparison.seen == len(flows), 60.0, "the answers")
        return feed.progress(len(flows))[0], feed.comparison
    finally:
        child.end()


def test_a_model_that_alarms_wildly_by_an_output_alone_fails_its_trial(tmp_path):
    state, found = tried(tmp_path, JUMPY, [BUSY, QUIET, QUIET] * 30)
    assert (found.old_alarms, found.new_alarms, found.gained_runs) == (0, 30, 30)
    assert state == "fail"
    assert abs(found.difference) < 1e-6, "the scores alone are the same"


def test_a_model_that_hears_an_output_no_more_fails_on_superposed_faults():
    surge = np.zeros((1, len(PUMP.feature_names)))
    surge[0, 2] = 2 * QUIET
    effects = FaultEffects(("surge",), np.zeros(surge.shape[1], dtype=bool), surge)
    samples = np.stack([window(QUIET, n).samples for n in range(12)])
    ends = np.array([FIRST_US + n * 1_000_000 for n in range(12)])
    bounds = AlarmBounds.of(PUMP.decision)

    def outcome(bundle):
        old, new = (TrialModel(device_bundle(b), PUMP, None) for b in (RIGHT, bundle))
        return compare_on_faults(old, new, samples, effects, bounds, ends)

    lost, same = outcome(DEAF), outcome(RIGHT)
    assert (lost.old, lost.new, lost.judge()[0]) == (1.0, 0.0, "fail")
    assert (same.old, same.new, same.judge()[0]) == (1.0, 1.0, "pass")

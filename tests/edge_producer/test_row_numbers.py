"""Laws of a row's numbers: the calendar of its event time and the model's further outputs, up to the wire.

Rig: `output_models.py` builds a real bundle; a `PumpRig` is a device with it and its spool.
"""

from __future__ import annotations

import json
import threading
import time
from datetime import timedelta

import numpy as np
import pytest

from edge_producer.bundle import BUNDLES, check_fit, open_bundle
from edge_producer.decider import Decider
from edge_producer.device import Device
from edge_producer.golden_scores import golden_scores
from edge_producer.inference import OnnxPredictor
from edge_producer.model_switch import ScoredWindow
from edge_producer.updates.shadow_comparison import ShadowComparison
from edge_producer.updates.trials import TrialChild, TrialFeed
from edge_producer.window import Window
from model_service.models.factory_models import anomaly_graph, learnt_bundle
from model_service.models.features import profile_features
from model_service.models.golden import golden_feeds, golden_outputs
from model_service.models.runtime import OrtGraph
from schemas.errors import BundleError
from schemas.instants import from_us
from schemas.row_schemas import TimeQuality, telemetry_layout
from tests.edge_producer.output_models import (
    FIRST_US,
    HOUR_US,
    PUMP,
    Levels,
    device_bundle,
    ends,
    pump_bundle,
    pump_profile,
    windows,
)
from tests.edge_producer.spool_rig import SpoolRig, statements, summary_rows
from tests.waiting import wait_until

MADE = pump_bundle()
ROBUST = PUMP.model_copy(update={"model": PUMP.model.model_copy(update={"name": "robust"})})


class PumpRig(SpoolRig):
    """The pump's device with its real graph; a window an hour."""

    predictor: OnnxPredictor | None = None

    def _begin_boots(self) -> None:
        model = self.predictor or OnnxPredictor(device_bundle(MADE), self.profile)
        self.devices = {
            n: Device(self.identities[n], self.profile, model, self._host, self.spool.state(n))
            for n in self.names
        }

    def process(self, samples: np.ndarray, at_us: int):
        return self.devices["d-1"].process(
            Window("d-1", samples, from_us(at_us), 0, TimeQuality.SYNCHRONISED, 0.0)
        )


@pytest.fixture
def rig(tmp_path):
    made = PumpRig(tmp_path, PUMP)
    yield made
    made.close()


def sent(rig: PumpRig) -> list[dict]:
    rig.flush()
    rig.settle([*rig.seal(), *rig.seal_statements()])
    return sorted(rig.rows_of(rig.delivered), key=lambda r: r["seq"])


def test_rows_hold_features_calendar_and_outputs_as_training_computes_them(tmp_path):
    always = PUMP.model_copy(update={"filter": PUMP.filter.model_copy(update={"p": 1.0})})
    rig = PumpRig(tmp_path, always)
    given, at = windows(30), ends(30)
    for samples, us in zip(given, at.tolist(), strict=True):
        rig.process(samples, us)
    rows = sent(rig)
    features = profile_features(PUMP, given, at)
    wanted = np.hstack([features, Levels().further(features)])
    assert [c.name for c in telemetry_layout(always).columns[6:-6]] == list(PUMP.row_columns)
    assert PUMP.row_columns[-4:] == (
        "calendar_hour_sin",
        "calendar_hour_cos",
        "calendar_weekend",
        "score_queue",
    )
    np.testing.assert_allclose([[r[n] for n in PUMP.row_columns] for r in rows], wanted, atol=1e-5)
    np.testing.assert_allclose([r["score"] for r in rows], Levels().score(features), atol=1e-5)
    summaries = [s for s in summary_rows(rig.delivered, always) if s["feature"] == "score_queue"]
    total = sum(s["n"] * s["mean"] for s in summaries) / sum(s["n"] for s in summaries)
    assert total == pytest.approx(wanted[:, -1].mean(), abs=1e-5)
    rig.close()


def test_moments_in_the_books_are_those_of_features_alone(rig):
    for k in range(12):
        rig.process(windows(1, seed=k)[0], FIRST_US + k * 1_000_000)
    sent(rig)
    lines = [r for r in statements(rig.delivered) if r["feature_means"]]
    assert lines
    assert {len(r["feature_means"]) for r in lines} == {len(PUMP.feature_names)}


def test_a_rule_on_an_output_reads_that_output_and_no_other(rig):
    full = np.random.default_rng(0).normal([5.0, 19.0], 0.1, (8, 2))
    assert rig.process(windows(1)[0], FIRST_US).action == "none"
    assert rig.process(full.astype(np.float32), FIRST_US + HOUR_US).action == "drain"
    assert rig.process(windows(1)[0], FIRST_US + 2 * HOUR_US).action == "none"
    off = full - [20, 14]
    assert rig.process(off.astype(np.float32), FIRST_US + 3 * HOUR_US).action == "inspect"


def test_a_rule_whose_output_is_missing_lasts_to_the_end_of_its_hold_and_needs_no_fail_safe():
    held = PUMP.decision.rules[1].model_copy(update={"hold_s": 10.0})
    policy = PUMP.decision.model_copy(update={"rules": (PUMP.decision.rules[0], held), "fail_safe": "hold"})
    decider, start = Decider(policy), from_us(FIRST_US)
    given = [(0, 0.1, {"queue": 0.9}), (5, 0.1, {"queue": None}), (20, 0.1, {}), (21, None, {"queue": 0.9})]
    actions = [
        decider.decide(start + timedelta(seconds=s), score, further=further).action
        for s, score, further in given
    ]
    assert actions == ["drain", "drain", "none", "drain"], "the output alone holds its rule in force"


def test_without_a_required_channel_there_is_neither_score_nor_output(tmp_path):
    always = PUMP.filter.model_copy(update={"p": 1.0})
    rig = PumpRig(tmp_path, PUMP.model_copy(update={"filter": always}))
    dead = windows(1)[0].copy()
    dead[:, 1] = np.nan
    rig.process(dead, FIRST_US)
    [row] = sent(rig)
    assert (row["score"], row["score_queue"]) == (None, None)
    assert row["calendar_hour_sin"] == pytest.approx(np.sin(2 * np.pi * 18 / 24), abs=1e-6), (
        "the clock goes on"
    )
    predictor = OnnxPredictor(device_bundle(MADE), PUMP)
    numbers, score = predictor.score("d-1", dead, from_us(FIRST_US))
    assert score is None
    assert np.isnan(numbers[-1])
    rig.close()


def test_an_output_outside_its_range_is_counted_and_never_sent(tmp_path):
    class Wild:
        version, featureset, bin_edges = "wild-0.00000000", "pump@1", {}

        def score(self, device_id, samples, at=None):
            return np.array([*range(7), 1.7], dtype=np.float32), 0.9

        def take_over(self, device_id, predecessor):
            """It keeps nothing."""

    rig = PumpRig(tmp_path, PUMP)
    rig.predictor = Wild()
    rig._begin_boots()
    decision = rig.process(windows(1)[0], FIRST_US)
    update = rig.devices["d-1"].take_update()
    assert update.meters["scores_outside"] == 1
    assert decision.action == "inspect", "the primary score is as good as before"
    rig.close()


def test_the_generic_model_gives_rows_the_calendar_and_no_outputs_and_judges_channels_alone():
    plain = pump_profile(calendar=[], time_zone="UTC")
    plain = plain.model_copy(update={"model": ROBUST.model})
    robust = open_bundle(BUNDLES / "robust")
    with_calendar, without = OnnxPredictor(robust, ROBUST), OnnxPredictor(robust, plain)
    for k, samples in enumerate(windows(60)):
        at = from_us(FIRST_US + k * HOUR_US)
        numbers, score = with_calendar.score("d", samples, at)
        same, judged = without.score("d", samples)
        assert score == judged
        np.testing.assert_array_equal(numbers[:4], same[:4])
    wanted = profile_features(PUMP, windows(60)[-1:], ends(60)[-1:])[0, 4:]
    np.testing.assert_allclose(numbers[4:7], wanted, atol=1e-6)
    assert np.isnan(numbers[-1])
    assert score is not None


def test_a_device_whose_time_zones_differ_from_the_makers_refuses_the_model():
    manifest = MADE.manifest.model_copy(update={"time_zone": "Europe/Berlin"})
    elsewhere = pump_profile(time_zone="Europe/Berlin")
    with pytest.raises(BundleError, match="golden window 0 misses its outputs"):
        OnnxPredictor(device_bundle(MADE).__class__(manifest, MADE.model, MADE.golden), elsewhere)


@pytest.mark.parametrize(
    ("profile", "what"),
    [
        (pump_profile(time_zone="Europe/Berlin"), "features.time_zone: wants America/Chicago"),
        (PUMP.model_copy(update={"model": PUMP.model.model_copy(update={"outputs": ()})}), "model.outputs"),
    ],
)
def test_a_model_of_another_calendar_or_of_other_outputs_does_not_fit(profile, what):
    with pytest.raises(BundleError, match=what):
        check_fit(MADE.manifest, profile)


def test_a_model_that_reads_the_calendar_is_asked_with_a_time():
    with pytest.raises(ValueError, match="with its event time"):
        OnnxPredictor(device_bundle(MADE), PUMP).score("d", windows(1)[0])


def test_golden_vectors_hold_what_the_graph_gives_and_a_device_scores_them_the_same():
    manifest, graph = MADE.manifest, OrtGraph(MADE.model, "pump")
    names = ("features", "score", "score_queue")
    given = [graph.run(names, feed) for feed in golden_feeds(MADE.golden, manifest)]
    got = np.array([np.concatenate([f[0], *rest]) for f, *rest in given])
    np.testing.assert_allclose(got, golden_outputs(MADE.golden), atol=1e-4)
    scores = golden_scores(device_bundle(MADE))(PUMP)
    np.testing.assert_allclose(scores, got[:, 7], atol=1e-6)


def test_a_graph_whose_output_leaves_its_range_becomes_no_bundle():
    class Loud(Levels):
        def further(self, features):
            return super().further(features) * 3

        def write_all(self, writer, features):
            score, queue = super().write_all(writer, features)
            return score, writer.op("Mul", queue, writer.floats(3.0))

    with pytest.raises(BundleError, match=r"a score lies .* outside \[0, 1\]"):
        pump_bundle(model=Loud())


def test_a_real_trial_process_gets_each_windows_time(tmp_path):
    """Without it the candidate could score nothing, and no trial of such a model would ever end."""
    MADE.write(tmp_path)
    child, woken = TrialChild(tmp_path, PUMP), threading.Event()
    feed = TrialFeed(
        "d-1", child, ShadowComparison.start("old", "new", PUMP), 0, woken.set, time.monotonic, None
    )
    wait_until(lambda: child.ready or child.failure_reason, 60.0, "the child")
    at, samples = from_us(FIRST_US + 15 * HOUR_US), windows(1)[0]
    _, score = OnnxPredictor(device_bundle(MADE), PUMP).score("d-1", samples, at)
    feed.observe(Window("d-1", samples, at, 0, TimeQuality.SYNCHRONISED), ScoredWindow("old", score, 0.0))
    wait_until(lambda: feed.comparison.seen, 60.0, "the answer")
    assert (feed.comparison.windows, feed.comparison.lost) == (1, 0)
    assert feed.comparison.new_mean == pytest.approx(score)
    child.end()


def test_a_profile_without_the_younger_keys_has_bundles_of_the_same_bytes_as_before():
    plain = pump_profile(calendar=[], time_zone="UTC")
    plain = plain.model_copy(
        update={"model": plain.model.model_copy(update={"outputs": ()}), "decision": plain.decision}
    )

    class Score(Levels):
        def write(self, writer, features):
            return writer.op("Clip", writer.op("Gather", features, writer.integer(0), axis=1), *(
                writer.floats(n) for n in (0.0, 1.0)
            ))  # fmt: skip

        def score(self, features):
            return np.clip(features[:, 0], 0, 1)

    healthy = profile_features(plain, windows(200), ends(200))
    facts = MADE.manifest.training
    made = learnt_bundle(plain, "pump", Score(), [[healthy]], windows(8, seed=1), facts)
    stated = json.loads(made.manifest.to_json())
    assert not {"outputs", "calendar", "time_zone"} & stated.keys()
    assert b"ends_us" not in made.golden
    assert b"calendar" not in anomaly_graph(plain, Score())

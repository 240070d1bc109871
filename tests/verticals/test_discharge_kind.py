"""Laws of the feature ``discharge``: a blocked approach shows in it, other traffic does not."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import onnxruntime as ort
import pytest

from edge_producer.sources.scenario import Injection
from edge_producer.sources.sensor_generator import GeneratorRequest
from edge_producer.verticals.traffic.intersection_sensors import CHANNELS, IntersectionSensors
from model_service.models.feature_kind import kind_named
from model_service.models.graph import FLOAT, GraphWriter, tensor
from model_service.verticals.traffic.discharge_kind import LEAST_GREEN, STARTED, Discharge

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
NORTH = [CHANNELS.index(name) for name in ("green_ns", "flow_n", "queue_n")]
SOUTH = [CHANNELS.index(name) for name in ("green_ns", "flow_s", "queue_s")]
WIDTH = 60


def windows(*injections: Injection, columns: list[int], demand: float = 0.7) -> np.ndarray:
    """A minute each, of a quarter of an hour."""
    items = (*injections, Injection(kind="steady_demand", start_s=0.0, severity=demand))
    rows = IntersectionSensors.of(GeneratorRequest(7, "x-1", 1.0, items, 0.0, MONDAY)).block(0, 900)
    return rows[:, columns].reshape(-1, WIDTH, 3).astype(np.float64)


@pytest.fixture(scope="module")
def blocked() -> dict[str, np.ndarray]:
    """The north approach blocked, as both approaches see it."""
    item = Injection(kind="incident", start_s=0.0, channel="queue_n")
    return {"n": windows(item, columns=NORTH), "s": windows(item, columns=SOUTH)}


def test_where_an_approach_is_blocked_its_whole_flow_is_missing_and_the_other_ones_is_not(blocked):
    kind = kind_named("discharge")
    found = kind.compute(blocked["n"])
    assert set(found) == {0.0, 1.0}  # a minute may have too little green to tell
    assert found[3:].mean() > 0.5
    assert kind.compute(blocked["s"]).max() < 0.3


@pytest.mark.parametrize("demand", [0.12, 0.7, 1.15])
def test_in_ordinary_traffic_little_is_missing(demand):
    assert Discharge().compute(windows(columns=NORTH, demand=demand)).max() < 0.3


def test_the_graph_computes_the_same_whatever_is_missing():
    rng = np.random.default_rng(3)
    green = (np.arange(WIDTH) % 30 < rng.integers(5, 30, (40, 1))).astype(float)
    made = np.stack(
        [green, rng.integers(0, 2, (40, WIDTH)), rng.integers(0, 30, (40, WIDTH))], axis=2
    ).astype(float)
    made[::3][rng.random(made[::3].shape) < 0.1] = np.nan
    made[1, :, 1] = np.nan
    made[2, :, 0] = np.inf
    made[4] = np.nan
    writer = GraphWriter()
    writer.op("Identity", Discharge().write(writer, "window"), output="made")
    graph = writer.build("d", [tensor("window", FLOAT, ["B", "W", 3])], [tensor("made", FLOAT, ["B"])])
    got = ort.InferenceSession(graph).run(None, {"window": made.astype(np.float32)})[0]
    want = Discharge().compute(np.where(np.isfinite(made), made, np.nan))
    assert np.allclose(got, want, atol=1e-6, equal_nan=True)
    assert np.isnan(want[[1, 2, 4]]).all()
    assert len(set(np.round(want[np.isfinite(want)], 3))) > 5


@pytest.mark.parametrize("kind", ["queued_mean", "queued_last", "queued_least"])
def test_a_queue_is_one_more_than_what_waits_in_numpy_and_in_the_graph(kind):
    made = np.random.default_rng(4).integers(0, 20, (9, WIDTH, 1)).astype(float)
    made[1, ::2] = np.nan
    made[2, -5:] = np.nan
    made[3] = np.nan
    made[4] = 0.0
    writer, found = GraphWriter(), kind_named(kind)
    writer.op("Identity", found.write(writer, "window"), output="made")
    graph = writer.build("q", [tensor("window", FLOAT, ["B", "W", 1])], [tensor("made", FLOAT, ["B"])])
    got = ort.InferenceSession(graph).run(None, {"window": made.astype(np.float32)})[0]
    want = found.compute(made)
    assert np.allclose(got, want, atol=1e-5, equal_nan=True)
    assert want[4] == 1.0
    assert np.isnan(want[3])
    assert found.logged


def test_too_little_green_of_a_queue_says_nothing():
    rows = np.zeros((1, WIDTH, 3))
    rows[0, :, 2] = 9.0
    for seconds in range(WIDTH):
        rows[0, :seconds, 0] = 1.0
        used = max(seconds - STARTED, 0)
        assert Discharge().compute(rows)[0] == (1.0 if used >= LEAST_GREEN else 0.0)

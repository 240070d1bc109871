"""Laws of the simulated robot, and of the feature kinds of its motion."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from edge_producer.sources.scenario import Injection
from edge_producer.sources.sensor_generator import GeneratorRequest
from edge_producer.verticals.robot.arm_dynamics import ArmBody, Contact
from edge_producer.verticals.robot.robot_sensors import CHANNELS, RobotSensors
from edge_producer.verticals.robot.work_program import CYCLE_S
from model_service.models.graph import FLOAT, GraphWriter, tensor
from model_service.models.runtime import OrtGraph
from model_service.verticals.robot.motion_kinds import SAMPLES, RateOfChange, Ripple

START = datetime(2026, 1, 5, tzinfo=UTC)
RATE_HZ = 500.0
CYCLE = round(CYCLE_S * RATE_HZ)


def robot(*items, device="r-1", seed=1):
    return RobotSensors.of(GeneratorRequest(seed, device, RATE_HZ, items, 0.0, START))


def change(kind, **given):
    return Injection(kind=kind, start_s=0.0, **given)


def tips(samples):
    """Where the tip is at each sample, shape (n, 2)."""
    angles = samples[:, [CHANNELS.index(f"position_{j}") for j in (1, 2)]].astype(float)
    return np.array([ArmBody().tip(tuple(q)) for q in angles])


def inwards(samples, at):
    """Unit vector in which the tip moves at a sample."""
    way = tips(samples)[at + 2] - tips(samples)[at - 2]
    return way / np.linalg.norm(way)


def test_motion_under_the_torques_of_a_motion_is_that_motion():
    rng, body = np.random.default_rng(3), ArmBody()
    q, dq, ddq = (rng.normal(size=(50, 2)) for _ in range(3))
    for k, torque in enumerate(body.torques(q, dq, ddq)):
        found = body.accelerations(tuple(q[k]), tuple(dq[k]), tuple(torque))
        assert found == pytest.approx(tuple(ddq[k]), abs=1e-9)


def test_the_tips_speed_is_the_rate_of_its_place():
    body, q, dq, step_s = ArmBody(), (0.4, -1.1), (1.3, -0.7), 1e-6
    later = body.tip((q[0] + step_s * dq[0], q[1] + step_s * dq[1]))
    moved = [(b - a) / step_s for a, b in zip(body.tip(q), later, strict=True)]
    assert [x * dq[0] + y * dq[1] for x, y in body.jacobian(q)] == pytest.approx(moved, abs=1e-4)


def test_a_wall_pushes_back_and_never_pulls():
    wall = Contact((0.0, 0.0), (1.0, 0.0), 1000.0, 10.0)
    assert wall.force((-0.001, 5.0), (3.0, 0.0)) == 0.0
    assert wall.force((0.01, 5.0), (0.0, 0.0)) == pytest.approx(10.0)
    assert wall.force((0.001, 0.0), (-9.0, 0.0)) == 0.0


def test_a_sample_depends_on_seed_device_and_time_alone():
    whole = robot().block(1, CYCLE)
    assert np.array_equal(whole[50:60], robot().block(CYCLE // 10 + 5, 10))
    assert not np.array_equal(whole, robot(device="r-2").block(1, CYCLE))
    assert not np.array_equal(whole, robot(seed=2).block(1, CYCLE))


def test_a_heavier_tool_loads_both_joints_and_moves_nothing():
    shift = robot(change("payload")).block(0, CYCLE) - robot().block(0, CYCLE)
    mean = dict(zip(CHANNELS, shift.mean(axis=0), strict=True))
    assert min(mean["current_1"], mean["current_2"]) > 0.3
    assert all(abs(v) < 1e-6 for name, v in mean.items() if not name.startswith("current_"))


def test_the_tip_does_not_pass_what_it_strikes_and_the_cycle_still_ends_at_home():
    free, struck = robot().block(0, CYCLE), robot(change("collision")).block(0, CYCLE)
    first = np.flatnonzero(np.abs(struck - free).max(axis=1) > 0)[0]
    deep = [tips(samples)[first + 50] @ inwards(free, first) for samples in (free, struck)]
    face = tips(free)[first] @ inwards(free, first)
    assert deep[0] - face > 0.04
    assert 0.0 < deep[1] - face < 0.5 * (deep[0] - face)
    places = [CHANNELS.index(f"position_{j}") for j in (1, 2)]
    assert struck[-1, places] == pytest.approx(free[-1, places], abs=0.01)


def test_a_slipping_wheel_runs_ahead_of_the_vehicle_and_wear_ripples_one_joint():
    free, slips = robot().block(0, CYCLE), robot(change("slip")).block(0, CYCLE)
    wheel = CHANNELS.index("wheel_speed")
    assert np.abs(slips[:, wheel]).max() > 1.2 * np.abs(free[:, wheel]).max()
    worn = robot(change("joint_wear", channel="current_2", ramp_s=0.001)).block(0, CYCLE) - free
    assert np.abs(worn[:, 3]).max() > 0.3
    assert np.abs(np.delete(worn, 3, axis=1)).max() == 0.0


def in_a_graph(kind):
    writer = GraphWriter()
    writer.op("Identity", kind.write(writer, "window"), output="value")
    given = tensor("window", FLOAT, ["batch", SAMPLES, 1])
    return OrtGraph(writer.build("kind", [given], [tensor("value", FLOAT, ["batch"])]), "kind")


@pytest.mark.parametrize("kind", [RateOfChange(), Ripple()])
def test_a_kind_is_the_same_in_numpy_and_in_a_graph_whatever_is_missing(kind):
    windows = np.random.default_rng(5).normal(3.0, 1.0, (40, SAMPLES, 1))
    windows[1:20][np.random.default_rng(6).random((19, SAMPLES, 1)) < 0.3] = np.nan
    windows[20], windows[21, 3] = np.nan, np.inf
    masked = np.where(np.isfinite(windows), windows, np.nan)
    [found] = in_a_graph(kind).run(("value",), {"window": windows.astype(np.float32)})
    assert np.allclose(found, kind.compute(masked), atol=1e-5, equal_nan=True)
    assert np.isnan(found[20])


def test_a_rate_is_what_a_line_rises_and_no_smooth_motion_ripples():
    t = np.linspace(0.0, 1.0, SAMPLES)
    parabolas = np.stack([2.0 + 3.0 * t, 1.0 - t + 4.0 * t**2])[:, :, None]
    assert RateOfChange().compute(parabolas)[0] == pytest.approx(3.0)
    assert Ripple().compute(parabolas) == pytest.approx([0.0, 0.0], abs=1e-6)
    wave = np.sin(2 * np.pi * 2.5 * t)[None, :, None]
    assert Ripple().compute(wave)[0] > 0.5


def test_a_window_of_another_length_is_refused():
    with pytest.raises(ValueError, match="takes 10"):
        Ripple().compute(np.zeros((1, 12, 1)))

"""The demo's fleet, sensor by sensor, through aggregate and drift: verdicts where there is drift only."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pytest

from edge_producer.sources.scenario import Injection, Scenario, share_of
from edge_producer.verticals.machine.rotating_machine import RotatingMachine
from model_service.models.features import compute
from schemas.events import DriftVerdict, parse_event
from schemas.topics import DEVICE_PARTITIONS, partition_for
from stream_processors.aggregate.aggregate_job import AggregateWindows
from stream_processors.drift.drift_job import DriftWatch
from tests.quick_machine_profile import quick_machine_profile
from tests.stream_processors.cohorts import PERIOD_S, T0, Context, JobRunner, Period, logged, summaries

SECONDS = 90
SITES = {"north": [f"m{k:02d}" for k in range(10)], "south": [f"m{k:02d}" for k in range(10, 20)]}
CUT_S = (27.0, 45.0)
"""When the south has no network: what it would have sent comes afterwards."""


def fleet(seed: int, *injections: Injection) -> list[Period]:
    """Every device's summaries, in the order of their arrival."""
    devices = tuple(d for site in SITES.values() for d in site)
    scenario = Scenario(seed=seed, start=T0, devices=devices, injections=injections)
    rows = [p for site in SITES for d in SITES[site] for p in machine(scenario, d, site)]
    return sorted(rows, key=lambda p: (p.known_s, p.at))


def machine(scenario: Scenario, device: str, site: str) -> list[Period]:
    """One device's summaries."""
    profile, phase = quick_machine_profile(), share_of(device, "phase")
    sensors = RotatingMachine(scenario.seed, device, 512.0, scenario.of(device), phase)
    blocks = np.stack([sensors.block(k, 512) for k in range(SECONDS)])
    values = compute(blocks, profile.feature_specs(), profile.channel_names)
    period = np.ceil((np.arange(1, SECONDS + 1) + phase) / PERIOD_S).astype(int) - 1
    rows = []
    for at in range(int(period.max())):
        known_s = (at + 1) * PERIOD_S + phase + 0.5
        if site == "south" and CUT_S[0] <= known_s < CUT_S[1]:
            known_s = CUT_S[1] + phase
        for feature, column in zip(profile.feature_names, values[period == at].T, strict=True):
            rows.append(Period(f"{device}@{site}", at, column.tolist(), feature, known_s=known_s))
    return rows


def line(rows: Sequence[Period]) -> list[DriftVerdict]:
    """Verdicts of eight device tasks and one cohort task, committing twice a second."""
    tasks = [JobRunner(AggregateWindows(Context()), f"task-{p:02d}") for p in range(DEVICE_PARTITIONS)]
    watch, offset, rest = JobRunner(DriftWatch(Context()), "task-00"), 0, list(rows)
    for tick in range(2 * (SECONDS + 30)):
        now_s = tick / 2
        due = [p for p in rest if p.known_s <= now_s]
        rest = rest[len(due) :]
        values = []
        for number, task in enumerate(tasks):
            own = [p for p in due if partition_for(p.device.partition("@")[0]) == number]
            output = task.run(now_s, {"summaries": summaries(own)} if own else {})
            values += [m.value for m in output.messages]
        watch.run(now_s, messages=logged(values, now_s, offset))
        offset += len(values)
    return [parse_event(DriftVerdict, m.value) for o in watch.outputs for m in o.messages]


def rolled_out(rows: Sequence[Period], canaries: Sequence[str], at: int, everybody_at: int) -> list[Period]:
    """The same summaries where canaries change their model at a period, everybody else later."""
    return [
        p._replace(model="m@2")
        if p.at >= (at if p.device.partition("@")[0] in canaries else everybody_at)
        else p
        for p in rows
    ]


def test_a_rollout_in_steps_is_no_drift():
    wear = Injection(kind="bearing_wear", start_s=22, ramp_s=5.0, devices=("m07",))
    rows = rolled_out(fleet(7, wear), canaries=("m01", "m07", "m12"), at=11, everybody_at=14)
    assert {v.kind for v in line(rows)} == {"single_device_fault"}


@pytest.mark.long
def test_a_healthy_fleet_with_a_network_cut_gives_no_verdict():
    for seed in (7, 8):
        assert line(fleet(seed)) == []


def test_a_failing_machine_and_a_recalibration_are_found_and_told_apart():
    wear = Injection(kind="bearing_wear", start_s=18, ramp_s=5.0, devices=("m07",))
    recalibration = Injection(kind="recalibration", start_s=45, channel="temperature", offset=6.0, share=0.8)
    verdicts = line(fleet(7, wear, recalibration))
    vibration = [v for v in verdicts if v.feature.startswith("vibration")]
    temperature = [v for v in verdicts if v.feature == "temperature_mean"]
    assert {(v.cohort, v.kind) for v in vibration} == {("north", "single_device_fault")}
    assert {(v.cohort, v.kind) for v in temperature} == {
        ("north", "sensor_recalibration"),
        ("south", "sensor_recalibration"),
    }
    assert all(v.onset == T0 + timedelta(seconds=45) for v in temperature)
    assert min(v.detected for v in temperature) <= T0 + timedelta(seconds=65)
    assert all(v.detected <= T0 + timedelta(seconds=70) for v in temperature)

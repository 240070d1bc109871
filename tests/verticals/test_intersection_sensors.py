"""Laws of the simulated intersection, of generators of packages."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from edge_producer.sources import Injection, Scenario, SimulateSource
from edge_producer.sources.sensor_generator import GeneratorRequest, load_generator
from edge_producer.verticals.traffic.intersection_sensors import CHANNELS, CHUNK_S, IntersectionSensors
from schemas.errors import SourceError
from schemas.profile import Profile
from schemas.profile_file import find_profile
from schemas.verticals.traffic.standard_junction import APPROACHES
from tests.simulators.installed_jobs import install

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
PEAK_S = 17 * 3600.0


def sensors(*injections: Injection, first_s: float = PEAK_S, device: str = "x-1") -> IntersectionSensors:
    return IntersectionSensors.of(GeneratorRequest(7, device, 1.0, injections, first_s, MONDAY))


@pytest.fixture(scope="module")
def peak() -> np.ndarray:
    """A quarter of an hour of the evening peak."""
    return sensors().block(0, CHUNK_S)


def test_a_sample_depends_on_its_time_alone(peak):
    later = sensors()
    later.block(5, 60)
    assert np.array_equal(later.block(2, 60), peak[120:180])
    assert np.array_equal(sensors(first_s=PEAK_S + 60).block(0, 60), peak[60:120])


def test_a_chunk_begins_in_the_middle_of_traffic_and_not_with_empty_streets(peak):
    queues = peak[:, [CHANNELS.index(c) for c in CHANNELS if c.startswith("queue_")]].sum(axis=1)
    first = np.mean([sensors(device=f"d{k}").block(0, 20)[:, -4:].sum(axis=1).mean() for k in range(4)])
    assert first > 0.3 * queues.mean()


def test_samples_are_within_the_channels_ranges(peak):
    assert peak.shape == (CHUNK_S, len(CHANNELS))
    assert (peak >= 0).all()
    assert (peak[:, [CHANNELS.index(c) for c in CHANNELS if c.startswith("occupancy_")]] <= 1).all()


def test_nights_and_weekends_have_less_traffic_than_a_weekdays_peak(peak):
    flow = CHANNELS.index("flow_ns")
    night = sensors(first_s=3 * 3600.0).block(0, CHUNK_S)
    sunday = sensors(first_s=6 * 86400 + PEAK_S).block(0, CHUNK_S)
    assert night[:, flow].sum() < 0.5 * peak[:, flow].sum()
    assert sunday[:, flow].sum() < peak[:, flow].sum()


def test_a_shift_of_demand_moves_traffic_and_is_no_fault(peak):
    shifted = sensors(Injection(kind="demand_shift", start_s=0.0)).block(0, CHUNK_S)
    flow = CHANNELS.index("flow_ns")
    assert abs(shifted[:, flow].sum() / peak[:, flow].sum() - 1) > 0.2
    assert not IntersectionSensors.kinds["demand_shift"]


def test_a_failed_detector_reads_occupied_and_counts_nothing():
    item = Injection(kind="detector_failure", start_s=PEAK_S, channel="flow_ns")
    rows = sensors(item).block(0, 60)
    assert (rows[:, CHANNELS.index("occupancy_ns")] == 1).all()
    assert (rows[:, CHANNELS.index("flow_ns")] == 0).all()


def column(name: str) -> int:
    return CHANNELS.index(name)


def test_what_approaches_count_adds_up_to_their_phase(peak):
    for phase, parts in APPROACHES.items():
        for what in ("flow", "queue"):
            each = [peak[:, column(f"{what}_{part}")] for part in parts]
            assert np.array_equal(sum(each), peak[:, column(f"{what}_{phase}")])


def test_an_incident_of_one_approach_leaves_the_others_as_they_were():
    item = Injection(kind="incident", start_s=PEAK_S, channel="queue_n")
    blocked = sensors(item).block(0, CHUNK_S)[300:]
    assert blocked[:, column("flow_n")].sum() == 0
    assert blocked[:, column("flow_s")].sum() > 0
    assert blocked[-1, column("queue_n")] > 50


def test_loops_in_pulse_mode_report_what_passes_and_nothing_that_stands(peak):
    pulsed = sensors(Injection(kind="pulse_mode", start_s=PEAK_S)).block(0, CHUNK_S)
    at = column("occupancy_ns")
    stands = peak[:, at] == 1
    assert stands.any()
    assert (pulsed[stands, at] == 0).all()
    assert np.array_equal(pulsed[~stands, at], peak[~stands, at])
    assert np.array_equal(np.delete(pulsed, slice(4, 8), axis=1), np.delete(peak, slice(4, 8), axis=1))


def test_loops_that_miss_vehicles_count_fewer_in_each_approach_and_see_the_same_queues(peak):
    missed = sensors(Injection(kind="undercount", start_s=PEAK_S, severity=0.3)).block(0, CHUNK_S)
    for name in ("flow_n", "flow_s", "flow_ns", "flow_ew_left"):
        assert 0.55 < missed[:, column(name)].sum() / peak[:, column(name)].sum() < 0.85
    assert np.array_equal(
        missed[:, column("flow_n")] + missed[:, column("flow_s")], missed[:, column("flow_ns")]
    )
    flows = [column(name) for name in CHANNELS if name.startswith("flow_")]
    assert np.array_equal(np.delete(missed, flows, axis=1), np.delete(peak, flows, axis=1))


def test_a_recalibrated_counter_reads_its_gain_times_what_passes_and_nothing_else_changes(peak):
    item = Injection(kind="recalibration", start_s=PEAK_S, channel="flow_ns", gain=3.0, offset=0.5)
    told, at = sensors(item).block(0, CHUNK_S), column("flow_ns")
    assert peak[:, at].any()
    assert np.array_equal(told[:, at], 3.0 * peak[:, at] + 0.5)
    assert np.array_equal(np.delete(told, at, axis=1), np.delete(peak, at, axis=1))


def test_a_steady_demand_is_the_same_at_night_and_from_the_first_second_on():
    item = Injection(kind="steady_demand", start_s=0.0, severity=0.7)
    night = sensors(item, first_s=3 * 3600.0).demand(3 * 3600.0)
    assert np.allclose(night, sensors(item).demand(PEAK_S))
    assert np.allclose(night, sensors(item).demand(-300.0), rtol=0.4)  # another day


def test_ten_samples_a_second_are_the_same_street_ten_times_as_fast():
    item = Injection(kind="steady_demand", start_s=0.0, severity=0.7)
    slow, fast = (
        IntersectionSensors.of(GeneratorRequest(7, "x-1", rate_hz, (item,), 0.0, MONDAY)).block(0, 300)
        for rate_hz in (1.0, 10.0)
    )
    assert np.array_equal(slow, fast)


def traffic(**simulate: str) -> Profile:
    """A profile of one channel of the intersection."""
    content = find_profile("machine").model_dump() | {
        "name": "crossing",
        "sampling": {"rate_hz": 1.0, "window_samples": 60, "hop_samples": 2},
        "channels": [{"name": "queue_ns", "unit": "veh", "min": 0.0, "max": 200.0}],
        "features": {"set": "crossing", "compute": [{"channel": "queue_ns", "kinds": ["last", "min"]}]},
        "filter": {"p": 0.1},
        "simulate": {"generator": "intersection"} | simulate,
    }
    return Profile.model_validate(content)


@pytest.fixture
def installed(tmp_path, monkeypatch) -> None:
    """The generator as a package of a user's would be."""
    site = tmp_path / "site"
    site.mkdir()
    text = "from edge_producer.verticals.traffic.intersection_sensors import IntersectionSensors\n"
    install(site, "own_crossing", text, "IntersectionSensors", "own_crossing", group="edgeloop.generators")
    monkeypatch.syspath_prepend(str(site))


def test_a_generator_of_a_package_feeds_windows(installed):
    scenario = Scenario(seed=7, start=MONDAY, devices=("x-1",))
    source = SimulateSource(traffic(generator="own_crossing"), ["x-1"], scenario, MONDAY, 70.0)
    windows = list(source.windows())
    assert len(windows) >= 4
    assert all(w.samples.shape == (60, 1) for w in windows)


def test_what_a_generator_does_not_know_is_refused(installed):
    with pytest.raises(
        SourceError, match=r"unknown generator 'roundabout'; known: .*own_crossing, rotating_machine"
    ):
        load_generator("roundabout")
    items = (Injection(kind="bearing_wear", start_s=0.0),)
    scenario = Scenario(seed=7, start=MONDAY, devices=("x-1",), injections=items)
    with pytest.raises(SourceError, match=r"knows no \['bearing_wear'\]"):
        SimulateSource(traffic(generator="own_crossing"), ["x-1"], scenario, MONDAY)

"""What every source promises, and the laws of the simulated one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edge_producer.settings import EdgeSettings
from edge_producer.sources import (
    Injection,
    ReplaySource,
    Scenario,
    SimulateSource,
    load_scenario,
    open_source,
    truth,
)
from edge_producer.window import Window, WindowSource
from schemas.errors import SourceError
from schemas.profile import Profile
from schemas.profile_file import find_profile

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MACHINE = find_profile("machine")
FLEET = ("m1", "m2", "m3")
OPENERS = ["simulate", "replay"]


def simulated(
    *injections: Injection,
    devices: tuple[str, ...] = FLEET,
    after_s: float = 0.0,
    seconds: float = 6.0,
    profile: Profile = MACHINE,
) -> list[Window]:
    scenario = Scenario(seed=5, start=START, devices=devices, injections=injections)
    source = SimulateSource(profile, devices, scenario, START + timedelta(seconds=after_s), seconds)
    return list(source.windows())


def of(windows: list[Window], device: str) -> list[Window]:
    return [w for w in windows if w.device_id == device]


@pytest.fixture
def opener(tmp_path: Path) -> Callable[[str], tuple[WindowSource, Profile]]:
    recording = tmp_path / "r.csv"
    rows = [f"{START + timedelta(seconds=i)},{i % 7},{20 + i % 3},{i % 5}" for i in range(50)]
    recording.write_text("\n".join(["t,vibration,temperature,current", *rows]) + "\n")
    slow = {"sampling": {"rate_hz": 1.0, "window_samples": 6, "hop_samples": 4}}
    replayed = Profile.model_validate(MACHINE.model_dump() | slow | {"replay": {"time_column": "t"}})

    def make(kind: str) -> tuple[WindowSource, Profile]:
        if kind == "replay":
            return ReplaySource(recording, replayed, "m1", START), replayed
        return SimulateSource(MACHINE, FLEET, Scenario(seed=1, start=START), START, 4.0), MACHINE

    return make


@pytest.mark.parametrize("kind", OPENERS)
def test_windows_have_the_profiles_shape_and_utc_ends(kind, opener):
    source, profile = opener(kind)
    windows = list(source.windows())
    shape = (profile.sampling.window_samples, len(profile.channels))
    assert len(windows) > 3
    assert {(w.samples.shape, w.samples.dtype) for w in windows} == {(shape, np.dtype("float32"))}
    assert {w.end.utcoffset() for w in windows} == {timedelta()}


@pytest.mark.parametrize("kind", OPENERS)
def test_windows_come_in_the_order_in_which_they_are_due(kind, opener):
    windows = list(opener(kind)[0].windows())
    assert all(a.due_s <= b.due_s for a, b in pairwise(windows))
    for device in {w.device_id for w in windows}:
        assert all(a.end < b.end and a.mono_ns < b.mono_ns for a, b in pairwise(of(windows, device)))


@pytest.mark.parametrize("kind", OPENERS)
def test_the_same_source_tells_the_same_story(kind, opener):
    first, second = list(opener(kind)[0].windows()), list(opener(kind)[0].windows())
    assert [(w.device_id, w.end, w.due_s) for w in first] == [(w.device_id, w.end, w.due_s) for w in second]
    assert all(
        np.array_equal(a.samples, b.samples, equal_nan=True) for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("kind", OPENERS)
def test_counts_only_grow(kind, opener):
    source, _ = opener(kind)
    before = dict(source.counts)
    for _window in source.windows():
        after = dict(source.counts)
        assert all(after[name] >= count for name, count in before.items())
        before = after
    assert before["samples"] > 0


def test_a_devices_samples_do_not_depend_on_other_devices():
    wear = Injection(kind="bearing_wear", start_s=2, devices=("m1",))
    together, alone = simulated(wear), simulated(wear, devices=("m2",))
    pairs = zip(of(together, "m2"), alone, strict=True)
    assert all(np.array_equal(a.samples, b.samples) and a.end == b.end for a, b in pairs)


def test_devices_differ_and_do_not_act_in_one_instant():
    windows = simulated()
    ends = {w.device_id: w.end for w in reversed(windows)}
    assert len(set(ends.values())) == len(FLEET)
    noise = [np.diff(of(windows, d)[0].samples[:, 1]) for d in FLEET]
    correlation = np.corrcoef(noise) - np.eye(len(FLEET))
    assert np.abs(correlation).max() < 0.3


def test_a_restarted_process_goes_on_in_the_middle_of_the_story():
    whole, rest = simulated(seconds=6.0), simulated(after_s=3.5, seconds=2.5)
    late = [w for w in whole if w.end >= START + timedelta(seconds=3.5)]
    assert all(w.due_s >= 0 for w in rest)
    assert [(w.device_id, w.end, w.mono_ns) for w in late] == [(w.device_id, w.end, w.mono_ns) for w in rest]
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(late, rest, strict=True))


def test_overlapping_windows_share_their_samples():
    half = {"sampling": {"rate_hz": 512.0, "window_samples": 512, "hop_samples": 256}}
    profile = Profile.model_validate(MACHINE.model_dump() | half)
    windows = simulated(profile=profile, devices=("m1",))
    assert len(windows) > 8
    assert all(np.array_equal(a.samples[256:], b.samples[:256]) for a, b in pairwise(windows))


@pytest.mark.parametrize("kind", ["bearing_wear", "imbalance", "new_regime", "dropout", "recalibration"])
def test_samples_change_inside_the_true_span_and_nowhere_else(kind):
    item = Injection(
        kind=kind, start_s=2.5, duration_s=1.2, severity=0.8, devices=("m1",), channel="temperature", offset=3
    )
    scenario = Scenario(seed=5, start=START, devices=FLEET, injections=(item,))
    (span,) = truth(scenario)
    assert span.end is not None
    step, changed = timedelta(seconds=1 / 512), []
    for healthy, hit in zip(simulated(), simulated(item), strict=True):
        differs = np.flatnonzero((healthy.samples != hit.samples).any(axis=1))
        assert hit.device_id == "m1" or not len(differs)
        changed += [hit.end - step * (512 - int(i)) for i in differs]
    assert span.start - step <= min(changed) <= span.start + 10 * step
    # Another regime leaves warm iron and a turned shaft behind; the others end with their span.
    assert kind == "new_regime" or span.end - 10 * step <= max(changed) <= span.end


def test_truth_names_faults_and_leaves_the_harmless_out():
    items = (
        Injection(kind="recalibration", start_s=9, channel="current", gain=1.1),
        Injection(kind="bearing_wear", start_s=4, duration_s=2, devices=("m2",)),
        Injection(kind="new_regime", start_s=1, devices=("m1",)),
    )
    spans = truth(Scenario(start=START, devices=FLEET, injections=items))
    assert [(s.kind, s.device_id, s.is_fault) for s in spans][:2] == [
        ("new_regime", "m1", False),
        ("bearing_wear", "m2", True),
    ]
    assert spans[1].start == START + timedelta(seconds=4)
    assert spans[1].end == START + timedelta(seconds=6)
    assert {(s.device_id, s.end, s.is_fault) for s in spans[2:]} == {(d, None, False) for d in FLEET}


def test_a_share_hits_about_that_many_devices_and_the_same_ones_each_time():
    fleet = tuple(f"d{i}" for i in range(200))
    item = Injection(kind="recalibration", start_s=0, channel="current", share=0.8)
    spans = truth(Scenario(seed=3, start=START, devices=fleet, injections=(item,)))
    assert 140 <= len(spans) <= 180
    assert spans == truth(Scenario(seed=3, start=START, injections=(item,)), fleet)


def test_recalibration_is_exactly_gain_and_offset():
    item = Injection(kind="recalibration", start_s=0, channel="temperature", gain=1.5, offset=-4)
    healthy, hit = simulated()[0].samples, simulated(item)[0].samples
    np.testing.assert_allclose(hit[:, 1], healthy[:, 1] * 1.5 - 4, atol=2e-4)
    np.testing.assert_array_equal(hit[:, [0, 2]], healthy[:, [0, 2]])


def test_a_clock_step_moves_event_times_and_nothing_else():
    item = Injection(kind="clock_step", start_s=2, duration_s=2, offset=-3600)
    for right, wrong in zip(simulated(), simulated(item), strict=True):
        inside = 2 <= (right.end - START).total_seconds() < 4
        assert right.end - wrong.end == timedelta(hours=1 if inside else 0)
        assert (right.mono_ns, right.due_s) == (wrong.mono_ns, wrong.due_s)


def test_dropped_samples_are_missing_and_counted():
    item = Injection(kind="dropout", start_s=0, severity=0.25, channel="current")
    source = SimulateSource(MACHINE, FLEET, Scenario(start=START, injections=(item,)), START, 20.0)
    missing = np.concatenate([np.isnan(w.samples) for w in source.windows()])
    assert not missing[:, :2].any()
    assert 0.2 < missing[:, 2].mean() < 0.3
    assert source.counts["blank"] == missing.sum()


def test_a_profile_without_generator_is_refused_with_what_to_do():
    bare = MACHINE.model_copy(update={"simulate": None})
    with pytest.raises(SourceError, match=r"name a generator, or replay a file"):
        SimulateSource(bare, FLEET, Scenario(start=START), START)


def test_an_injection_on_an_unknown_channel_is_refused():
    item = Injection(kind="recalibration", start_s=0, channel="pressure")
    with pytest.raises(SourceError, match="pressure"):
        SimulateSource(MACHINE, FLEET, Scenario(start=START, injections=(item,)), START)


def test_a_scenario_file_survives_the_round_trip_and_a_misspelt_key_is_named(tmp_path):
    scenario = Scenario(
        seed=2, start=START, devices=FLEET, injections=(Injection(kind="dropout", start_s=1),)
    )
    path = tmp_path / "scenario.json"
    path.write_text(scenario.model_dump_json())
    assert load_scenario(path) == scenario
    path.write_text(scenario.model_dump_json().replace("start_s", "begin_s"))
    with pytest.raises(SourceError, match="begin_s"):
        load_scenario(path)


def test_settings_open_the_source_they_name(tmp_path):
    settings = EdgeSettings(state_dir=tmp_path, profile="machine", devices=FLEET, duration_s=2)
    assert isinstance(open_source(settings, MACHINE, FLEET), SimulateSource)
    replay = settings.model_copy(update={"source": "replay"})
    with pytest.raises(SourceError, match="EDGE_RECORDING"):
        open_source(replay, MACHINE, FLEET[:1])
    recorded = replay.model_copy(update={"recording": tmp_path / "x.csv"})
    assert isinstance(open_source(recorded, MACHINE, FLEET[:1]), ReplaySource)
    with pytest.raises(SourceError, match="name one"):
        open_source(recorded, MACHINE, FLEET)


def test_a_source_that_is_given_a_clock_starts_when_its_first_window_is_asked_for():
    """A process loads models and opens its spool between: no window may be as late as that took."""
    now = [START]
    scenario = Scenario(seed=1, start=START)
    source = SimulateSource(MACHINE, FLEET, scenario, lambda: now[0], 4.0)
    now[0] = START + timedelta(seconds=7.3)
    given = list(SimulateSource(MACHINE, FLEET, scenario, now[0], 4.0).windows())
    found = list(source.windows())
    assert [(w.device_id, w.end, w.due_s) for w in found] == [(w.device_id, w.end, w.due_s) for w in given]
    assert all(abs((w.end - now[0]).total_seconds() - w.due_s) < 1e-5 for w in found)

"""Laws of ranges: one absurd sample is a glitch, a run of them is an alarm and is always sent."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_producer.bin_edges import range_edges
from edge_producer.device import Device, Host
from edge_producer.inference import load_predictor
from edge_producer.metering import Meters
from edge_producer.range_watch import ENOUGH, RangeWatch
from edge_producer.reference import smallest_spreads
from schemas.profile import Profile
from schemas.row_schemas import RULES, Reason
from tests.edge_producer.spool_rig import SpoolRig, bench_profile

NAN = float("nan")
OUT = int(Reason.OUT_OF_RANGE)


def one_channel(hop=1, window=1, **channel) -> Profile:
    return Profile.model_validate(
        {
            "name": "bearing",
            "channels": [{"name": "temp", "unit": "degC", "min": 0, "max": 100, **channel}],
            "sampling": {"rate_hz": 1.0, "window_samples": window, "hop_samples": hop},
            "features": {"set": "bearing", "compute": [{"channel": "temp", "kinds": ["last"]}]},
            "decision": {"rules": [{"action": "inspect", "enter": 0.6, "leave": 0.45}]},
            "filter": {"p": 0.01, "p_min": 0.01},
        }
    )


def runs(values, hop=1, window=1):
    """Whether each window of a series saw a run."""
    watch, seen = RangeWatch(one_channel(hop, window)), []
    for end in range(window, len(values) + 1, hop):
        watch.look(np.array(values[end - window : end], np.float32)[:, None])
        seen.append(watch.run)
    return seen


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([20, 150, 20, 150, 150, 20], [False] * 6),
        ([20, 150, 151, 152, 153, 20, 150], [False, False, False, True, True, False, False]),
        ([150, 150, -5, 150, 150], [False] * 5),
        ([150, NAN, 150, NAN, NAN, 150, 20], [False] * 5 + [True, False]),
        ([-5, -5, -5], [False, False, True]),
    ],
)
def test_three_in_a_row_on_one_side_are_a_run(values, expected):
    assert runs(values) == expected


@given(st.lists(st.sampled_from([20.0, 150.0, -5.0, NAN]), min_size=4, max_size=40))
def test_overlapping_windows_count_each_sample_once(values):
    """The run seen in windows of four samples, two apart, is the run of the series itself."""
    alone = runs(values)
    even = len(values) - len(values) % 2
    expected = [any(alone[max(0, end - (4 if end == 4 else 2)) : end]) for end in range(4, even + 1, 2)]
    assert runs(values, hop=2, window=4) == expected


def test_what_is_outside_becomes_an_infinity_of_its_side_and_the_window_is_not_changed():
    watch = RangeWatch(one_channel(4, 4))
    given_ = np.array([[20], [150], [-5], [NAN]], np.float32)
    before = given_.copy()
    np.testing.assert_array_equal(watch.look(given_)[:, 0], [20, np.inf, -np.inf, NAN])
    np.testing.assert_array_equal(given_, before)
    assert watch.lost == 2


@given(st.floats(-1e30, 1e30, width=64))
def test_a_value_at_the_very_end_of_its_range_is_inside_whatever_its_type(end):
    """0.1 as float32 is more than 0.1 as float64."""
    profile = one_channel(min=min(-1e31, end - 1), max=end) if end > -1e30 else one_channel()
    watch = RangeWatch(profile)
    watch.look(np.array([[profile.channels[0].max]], np.float32))
    assert watch.lost == 0


def test_both_ends_are_inside_and_a_watch_begins_without_a_run():
    watch = RangeWatch(one_channel(4, 4))
    assert not watch.run
    watch.look(np.array([[0], [100], [0], [100]], np.float32))
    assert watch.lost == 0
    assert not watch.run


def test_a_channel_is_judged_from_so_many_samples_on():
    for n, expected in ((ENOUGH - 1, {}), (ENOUGH, {"temp": 1.0})):
        watch = RangeWatch(one_channel(n, n))
        watch.look(np.full((n, 1), 150.0, np.float32))
        assert watch.shares() == expected


def test_more_than_the_stated_share_is_said_and_the_stated_share_is_not():
    def shares(every):
        watch = RangeWatch(one_channel())
        for k in range(40 * every):
            watch.look(np.array([[150.0 if k % every == 0 else 20.0]], np.float32))
        return watch.shares()

    assert shares(25) == {}  # 4 %
    assert shares(10) == {"temp": pytest.approx(0.1, abs=0.01)}
    watch = RangeWatch(one_channel())
    for _ in range(ENOUGH - 1):
        watch.look(np.array([[150.0]], np.float32))
        assert watch.shares() == {}, "too few samples to tell"


# -- the device ----------------------------------------------------------------------------------


class RealModel(SpoolRig):
    """A rig whose device has its profile's own model."""

    def open(self):
        super().open()
        host = Host(
            lambda o: self.actions.append((o.device_id, o.action)), Meters(self.profile), lambda: self.now
        )
        self.devices = {
            "d-1": Device(self.identities["d-1"], self.profile, load_predictor(self.profile), host)
        }


def test_a_fault_after_calm_weeks_that_no_range_foresaw_raises_an_alarm_and_is_sent(tmp_path):
    """The case rare-fault-is-absurd, whatever the range: four samples at 95 to 98 beyond a max of 21."""
    rng = np.random.default_rng(0)
    rig = RealModel(tmp_path, one_channel(max=21.0))
    try:
        rig.sense(np.clip(rng.normal(20, 0.05, 400), 0, 20.9))
        assert [a for _, a in rig.actions] == ["none"]
        rig.sense([95.0])
        assert [a for _, a in rig.actions] == ["none"], "one is a glitch"
        rig.sense([96.0, 97.0, 98.0])
        assert [a for _, a in rig.actions] == ["none", "inspect"]
        update = rig.devices["d-1"].take_update()
        assert [json.loads(a)["action"] for a in update.alerts] == ["inspect"]
        assert update.meters["samples_out_of_range"] == 4
        rig.devices["d-1"].flush()
        sent = [*update.rows, *rig.devices["d-1"].take_update().rows]
        run = [r for r in sent if r.reasons & OUT]
        assert [r.seq for r in run] == [402, 403]
        assert all(r.pi == 1.0 for r in run)
    finally:
        rig.close()


def test_a_run_is_a_rule_so_that_estimates_do_not_weight_it():
    assert OUT & RULES


def test_a_device_says_which_channel_loses_too_much(tmp_path):
    rig = RealModel(tmp_path, one_channel(max=21.0))
    try:
        rig.sense([20.0, 20.0, 20.0, 90.0] * 50)
        device = rig.devices["d-1"]
        assert device.absurd_shares == {"temp": pytest.approx(0.25, abs=0.02)}
        assert ("d-1", "inspect") in rig.actions
        update = device.take_update()
        assert len(update.alerts) == 1
        assert update.absurd == {"temp": pytest.approx(0.25, abs=0.02)}
        rig.sense([20.0] * 2000)
        assert device.take_update().absurd["temp"] > 0.05  # what it lost meanwhile is not forgotten at once
        assert not device.take_update().absurd
    finally:
        rig.close()


def test_a_generous_range_makes_neither_spread_nor_histogram_coarse():
    narrow = one_channel(min=18, max=22)
    wide = one_channel(min=-273.15, max=3000, usual_min=18, usual_max=22)
    np.testing.assert_array_equal(smallest_spreads(narrow), smallest_spreads(wide))
    for kind in ("mean", "std", "rms"):
        np.testing.assert_array_equal(
            range_edges(narrow.channels[0], kind), range_edges(wide.channels[0], kind)
        )


def test_what_is_usual_lies_within_what_can_be():
    with pytest.raises(ValueError, match="usual"):
        one_channel(usual_min=-1)
    assert one_channel(usual_max=50).channels[0].usual == (0, 50)
    assert bench_profile().channels[0].usual == (-1e9, 1e9)

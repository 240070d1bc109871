"""Laws of the grid on which channels of different rates meet."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_producer.sources.alignment import Aligner, GridRow
from edge_producer.sources.stuck_channels import StuckChannels
from schemas.instants import to_us
from tests.edge_producer.source_rigs import START, STEP_S, profile

BASE = to_us(START)
STEP = round(STEP_S * 1e6)
TENTHS = st.integers(1, 80).filter(lambda t: t % 10 != 5)  # no time lies between two instants
COLUMNS = st.lists(st.sampled_from([1.0, 2.0, None]), min_size=1, max_size=40)


class Grid:
    """An aligner whose source's clock and the device's are the same; times are in steps."""

    def __init__(self, **align) -> None:
        self.aligner = Aligner(profile(align=align))
        self.rows: list[GridRow] = []

    def give(self, step: float, now: float | None = None, **values: float) -> Grid:
        now_s = STEP_S * (step if now is None else now)
        self.aligner.push(BASE + round(step * STEP), values, now_s, stamped=True)
        return self.at(step if now is None else now)

    def at(self, now: float) -> Grid:
        self.rows += self.aligner.due(STEP_S * now)
        return self

    def end(self) -> Grid:
        self.rows += self.aligner.rest()
        return self

    @property
    def shown(self) -> dict[float, tuple[float | None, ...]]:
        values = [[None if math.isnan(v) else round(v, 6) for v in row.values] for row in self.rows]
        return {(r.us - BASE) / STEP: tuple(v) for r, v in zip(self.rows, values, strict=True)}

    def count(self, name: str) -> int:
        return self.aligner.counts[name]


def test_an_instant_is_closed_as_soon_as_every_channel_has_its_value():
    assert Grid(wait_s=5).give(0, heat=1, load=2).shown == {0: (1, 2)}


def test_an_instant_says_when_the_sample_came_that_closed_it_or_that_none_did():
    grid = Grid(wait_s=0.0).give(1, heat=1, load=2).give(2, heat=1)
    grid.give(2.1, load=3).at(3.6)
    assert [row.arrived_s / STEP_S for row in grid.rows] == [1, pytest.approx(2.1), 0]


def test_an_instant_that_lacks_a_channel_waits_as_long_as_declared_and_no_longer():
    grid = Grid(wait_s=0.3 * STEP_S).give(0, heat=1)
    assert grid.at(0.79).shown == {}
    assert grid.at(0.8).shown == {0: (1, None)}


@given(st.lists(st.tuples(TENTHS, st.floats(-3e3, 3e3), st.booleans()), min_size=1, max_size=30))
def test_a_sample_of_all_channels_is_worth_what_its_values_are_one_by_one(given_samples):
    whole, split = (Grid(wait_s=0.2, channels={"heat": {"stuck_s": 2 * STEP_S}}) for _ in range(2))
    for tenth, value, repeats in given_samples:
        values = {"heat": 1.0 if repeats else value, "load": value}
        whole.give(tenth / 10, now=8, **values)
        for name, one in values.items():
            split.aligner.push(BASE + round(tenth / 10 * STEP), {name: one}, STEP_S * 8, stamped=True)
        split.at(8)
    assert whole.end().shown == split.end().shown
    assert whole.aligner.counts == split.aligner.counts


def test_a_slow_channel_keeps_its_value_until_that_is_too_old_and_nobody_waits_for_it():
    grid = Grid(channels={"load": {"max_age_s": 2 * STEP_S}}).give(0, heat=0, load=7)
    for step in range(1, 4):
        grid.give(step, heat=step)
    assert grid.shown == {0: (0, 7), 1: (1, 7), 2: (2, 7), 3: (3, None)}
    assert (grid.count("held"), grid.count("missing")) == (2, 1)


def test_last_is_the_newest_value_of_its_instant_and_the_others_are_surplus():
    grid = Grid().give(0, heat=0, load=0).give(0.6, heat=1).give(0.7, heat=2).give(1, load=5, heat=3)
    assert grid.shown == {0: (0, 0), 1: (3, 5)}
    assert grid.count("surplus") == 2


def test_mean_is_over_all_that_was_measured_within_half_a_step():
    grid = Grid(channels={"heat": {"policy": "mean"}}, wait_s=STEP_S).give(0, heat=0, load=0)
    values = [10.0, 20.0, 60.0, 31.0]
    for step, value in zip((0.6, 0.9, 1.1, 1.3), values, strict=True):
        grid.give(step, heat=value, load=1)
    assert grid.give(1.6, heat=1).shown[1] == (np.mean(values), 1)


def test_interpolate_lies_on_the_line_between_the_neighbours_unless_they_are_too_far_apart():
    far = {"heat": {"policy": "interpolate", "max_age_s": 2 * STEP_S}, "load": {"max_age_s": 99 * STEP_S}}
    grid = Grid(channels=far, wait_s=3 * STEP_S).give(0, heat=0, load=1).give(0.8, heat=8).give(2.4, heat=40)
    grid.give(6, heat=0).end()
    assert [grid.shown[k][0] for k in (0, 1, 2)] == [0, *np.interp([1, 2], [0.8, 2.4], [8, 40]).round(6)]
    assert [grid.shown[k][0] for k in (3, 4, 5, 6)] == [40, 40, None, 0]  # held as long as it is not too old


def test_a_late_value_is_not_used_for_its_instant_and_carried_on_only_if_it_is_the_newest():
    grid = Grid(max_age_s=2 * STEP_S, wait_s=0).give(0, heat=0, load=0).at(1.6).give(1.2, now=1.6, heat=9)
    assert grid.shown == {0: (0, 0), 1: (0, 0)}
    assert (grid.count("carried"), grid.count("late")) == (1, 0)
    assert grid.at(2.6).shown[2] == (9, 0)
    grid.give(0.5, now=2.7, heat=5)
    assert (grid.count("carried"), grid.count("late")) == (1, 1)


def test_values_that_come_in_the_wrong_order_within_the_wait_are_put_right():
    grid = Grid(wait_s=2 * STEP_S).give(0, heat=0, load=0).give(2, heat=2, load=2)
    grid.give(1, now=2, heat=1, load=1)
    assert grid.shown == {0: (0, 0), 1: (1, 1), 2: (2, 2)}
    assert grid.count("reordered") == 2


def test_a_channel_that_repeats_one_value_for_too_long_is_stuck():
    grid = Grid(channels={"heat": {"stuck_s": 2 * STEP_S}})
    for step in range(5):
        grid.give(step, heat=7, load=step)
    grid.give(5, heat=8, load=5)
    assert [v[0] for v in grid.shown.values()] == [7, 7, 7, None, None, 8]
    assert grid.count("stuck") == 2


def test_a_source_that_falls_silent_goes_on_without_values():
    grid = Grid().give(0, heat=1, load=1).at(4)
    assert grid.shown == {0: (1, 1), 1: (None, None), 2: (None, None), 3: (None, None)}


def test_a_grid_without_any_sample_goes_on_by_the_devices_clock_and_moves_to_the_first_one():
    grid = Grid()
    grid.aligner.begin(BASE, 0.0)
    assert grid.at(2).shown == {0: (None, None), 1: (None, None)}
    grid.give(-50_000, now=2.2, heat=1, load=2)
    assert grid.shown[-50_000] == (1, 2)
    assert [row.begins for row in grid.rows] == [True, False, True]


def test_one_stray_time_is_refused_and_a_clock_that_was_set_is_followed():
    grid = Grid().give(0, heat=0, load=0).give(5_000, now=1, heat=9, load=9).give(1, heat=1, load=1)
    assert grid.shown == {0: (0, 0), 1: (1, 1)}
    assert (grid.count("ahead"), grid.count("clock_steps")) == (2, 0)
    for step in (2, 3, 4):
        grid.give(step - 360, now=step, heat=step, load=step)
    assert grid.count("clock_steps") == 1
    assert grid.shown[4 - 360] == (4, 4)
    assert grid.rows[-1].begins


def test_a_clock_that_runs_slow_makes_nothing_late_in_the_end():
    grid = Grid(wait_s=0.2 * STEP_S)
    for step in range(400):
        grid.give(step, now=step * 1.01, heat=1, load=1)
    assert grid.count("late") + grid.count("carried") == 0
    assert list(grid.shown) == list(range(400))


def test_after_a_long_silence_a_window_without_samples_says_it_all():
    grid = Grid().give(0, heat=1, load=1).at(100_000)
    assert len(grid.rows) < 500
    assert grid.count("skipped") > 99_000
    assert set(list(grid.shown.values())[1:]) == {(None, None)}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-3, 30), st.sampled_from(["heat", "load"]), st.floats(0, 1)), max_size=60),
    st.sampled_from(["last", "mean", "interpolate"]),
    st.floats(0, 5),
)
def test_whatever_comes_each_instant_is_given_once_in_order_and_each_value_has_one_name(given_, policy, wait):
    grid, now = Grid(policy=policy, wait_s=wait * STEP_S), 0.0
    for step, channel, passed in given_:
        now += passed
        grid.give(step, now=now, **{channel: step})
    grid.at(now + 1).end()
    for row, following in pairwise(grid.rows):
        assert following.begins or following.us - row.us == STEP
    refused = sum(grid.count(n) for n in ("duplicate", "late", "ahead", "carried"))
    assert 0 <= refused <= grid.count("values") == len(given_)
    known = [v for row in grid.rows for v in row.values if math.isfinite(v)]
    steps = [step for step, _, _ in given_]
    assert all(min(steps) - 1e-6 <= v <= max(steps) + 1e-6 for v in known)


@pytest.mark.parametrize("policy", ["last", "mean", "interpolate"])
def test_regular_samples_come_out_as_they_went_in(policy):
    rng = np.random.default_rng(3)
    grid, jitter = Grid(policy=policy, wait_s=STEP_S), rng.uniform(-0.2, 0.2, 50)
    for step in range(50):
        grid.give(step if step == 0 or policy == "interpolate" else step + jitter[step], heat=step, load=step)
    grid.end()
    assert list(grid.shown.values()) == [(k, k) for k in range(50)]


def test_strays_between_good_times_are_no_clock_that_was_set():
    grid = Grid().give(0, heat=0, load=0)
    for step in range(1, 6):
        grid.give(step + 5_000, now=step, heat=9, load=9).give(step, heat=step, load=step)
    assert grid.shown == {k: (k, k) for k in range(6)}
    assert (grid.count("ahead"), grid.count("clock_steps")) == (10, 0)


def test_a_mean_leaves_out_what_cannot_be_and_is_that_where_there_is_nothing_else():
    grid = Grid(policy="mean", wait_s=STEP_S).give(0, heat=0, load=0)
    grid.give(0.7, heat=9831, load=51).give(1.2, heat=30, load=52).end()
    assert grid.shown[1] == (30, math.inf)
    assert grid.count("absurd") == 3


@given(
    st.lists(st.sampled_from([1.0, 2.0, None]), min_size=1, max_size=40),
    st.integers(1, 40),
    st.integers(1, 6),
)
def test_stuck_samples_are_the_same_however_a_recording_is_cut_into_blocks(column, cut, span):
    used = profile(align={"channels": {"heat": {"stuck_s": float(span)}}})
    values = np.array([[np.nan if v is None else v, 0.0] for v in column], dtype=np.float32)
    us = np.arange(len(column)) * 1_000_000
    whole, parts = StuckChannels(used), StuckChannels(used)
    found = [parts.look(us[k : k + cut], values[k : k + cut]) for k in range(0, len(us), cut)]
    np.testing.assert_array_equal(whole.look(us, values), np.concatenate(found))
    assert whole.count == parts.count
    since, newest = 0, None
    for at, value in enumerate(column):
        if value is not None and value != newest:
            since, newest = at, value
        missing = value is None or at - since > span
        assert np.isnan(np.concatenate(found)[at, 0]) == missing


def by_definition(points: dict[int, float], policy: str, instant: int, max_age: float) -> float:
    """What an instant has, from all points: times are in tenths of a step, values limited to their range."""
    before = max((t for t in points if t <= instant), default=None)
    after = min((t for t in points if t >= instant), default=None)
    own = [t for t in points if instant - 5 < t < instant + 5]
    if policy == "mean" and any(math.isfinite(points[t]) for t in own):
        return float(np.mean([points[t] for t in own if math.isfinite(points[t])]))
    if policy == "interpolate":
        if before is None or after is None or after - before > max_age:
            fresh = before is not None and instant - before <= max_age
            return points[before] if fresh else math.nan
        if math.isfinite(points[before]) and math.isfinite(points[after]):
            return float(np.interp(instant, [before, after], [points[before], points[after]]))
        return points[before] if instant - before < after - instant or before == after else points[after]
    newest = max(own, default=max((t for t in points if t < instant), default=None))
    return math.nan if newest is None or instant - newest > max_age else points[newest]


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(
        st.integers(1, 80).filter(lambda t: t % 10 != 5),
        st.sampled_from([-50.0, 7.0, 30.0, 150.0, 9831.0, -51.0]),
    ),
    st.sampled_from(["last", "mean", "interpolate"]),
    st.sampled_from([4.0, 9.0, 10.0, 20.0, 31.0]),
    st.randoms(),
)
def test_each_policy_gives_what_its_definition_says_in_whatever_order_values_come(later, policy, age, random):
    grid = Grid(policy=policy, max_age_s=age * STEP_S / 10, wait_s=1e6).give(0, now=0, heat=20.0)
    order = list(later)
    random.shuffle(order)
    for tenth in order:
        grid.give(tenth / 10, now=0, heat=later[tenth])
    grid.end()
    limited = {t: v if -50 <= v <= 150 else math.copysign(math.inf, v) for t, v in {0: 20.0, **later}.items()}
    found = [row.values[0] for row in grid.rows]
    expected = [by_definition(limited, policy, 10 * k, age) for k in range(len(found))]
    np.testing.assert_allclose(found, expected)
    assert grid.count("reordered") == sum(t < max(order[:n]) for n, t in enumerate(order) if n)
    assert grid.count("absurd") == sum(math.isinf(v) for v in limited.values())

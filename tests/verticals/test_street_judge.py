"""The judge of traffic without SUMO: a street of our own, and real devices in lock step with it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from benchmarks.figure_page import FigurePage
from benchmarks.judge.traffic.incidents import AT_S
from benchmarks.judge.traffic.road_nets import Signal
from benchmarks.judge.traffic.street_devices import StreetDevices
from benchmarks.judge.traffic.street_judge import StreetRun
from benchmarks.judge.traffic.street_page import write_streets
from benchmarks.judge.traffic.street_source import StreetSecond, channels_of, lane_table
from edge_producer.inference import load_predictor
from schemas.profile_file import find_profile
from schemas.verticals.traffic.junction import INTERGREEN_S
from schemas.verticals.traffic.phase_control import equal_plan
from schemas.verticals.traffic.standard_junction import MIN_GREEN_S, standard_junction

PROFILE = find_profile("traffic")
START = datetime(2026, 2, 3, 15, tzinfo=UTC)
LANES = (("n_0", "s_0"), ("n_1", "s_1"), ("e_0", "w_0"), ("e_1", "w_1"))
GREENS, YELLOWS = ("Grrr", "rGrr", "rrGr", "rrrG"), ("yrrr", "ryrr", "rryr", "rrry")
SIGNAL = Signal(standard_junction(), GREENS, YELLOWS, LANES)
EVERY_S = {"n_0": 7, "s_0": 8, "n_1": 40, "s_1": 45, "e_0": 9, "w_0": 9, "e_1": 50, "w_1": 50}
FIRST_WINDOW_S = PROFILE.sampling.window_samples


class Lanes:
    """Vehicles that come evenly, and leave a lane every other second while it is green."""

    def __init__(self, seconds, every_s, blocked=("", 0)):
        self.seconds, self.every_s, self.blocked = seconds, every_s, blocked
        self.waiting = {lane: 0 for phase in LANES for lane in phase}
        self.shown, self.state = [], "rrrr"

    def second(self, lights):
        if len(self.shown) == self.seconds:
            return None
        self.state = lights.get("x", self.state)
        now = len(self.shown)
        self.shown.append(self.state)
        passed = []
        for k, phase in enumerate(LANES):
            fresh = []
            for lane in phase:
                self.waiting[lane] += lane in self.every_s and now % self.every_s[lane] == 0
                stands = lane == self.blocked[0] and now >= self.blocked[1]
                leaves = self.state == GREENS[k] and now % 2 == 0 and self.waiting[lane] > 0 and not stands
                self.waiting[lane] -= leaves
                fresh.append(int(leaves))
            passed.append(fresh)
        vehicles = [[self.waiting[lane] for lane in phase] for phase in LANES]
        occupied = [[float(count > 0) for count in each] for each in vehicles]
        return {"x": StreetSecond(vehicles, passed, occupied, self.state)}


def driven(street):
    fixed = {"x": equal_plan(SIGNAL.junction)}
    devices = StreetDevices(street, {"x": SIGNAL}, fixed, PROFILE, load_predictor(PROFILE), START)
    return devices.run()


def runs_of(shown):
    """States with their lengths, the first and the last left out: they are cut."""
    found = []
    for state in shown:
        if found and found[-1][0] == state:
            found[-1][1] += 1
        else:
            found.append([state, 1])
    return found[1:-1]


def test_each_second_is_sampled_once_and_its_lights_are_a_signals():
    street = Lanes(240, EVERY_S)
    record = driven(street)
    assert len(street.shown) == 240
    assert record.counts["samples"] == 240
    assert record.counts["values"] == 240 * len(PROFILE.channels)
    assert record.counts["windows"] == (240 - FIRST_WINDOW_S) // PROFILE.sampling.hop_samples + 1
    assert not record.counts["function_failed"] + record.counts["function_late"]
    assert len(record.features["x"]) == record.counts["windows"]
    found = runs_of(street.shown)
    assert {state for state, _ in found} >= {*GREENS, *YELLOWS}
    for state, length in found:
        if state in YELLOWS:
            assert length == INTERGREEN_S
        else:
            assert length >= MIN_GREEN_S[GREENS.index(state)]


def test_the_lights_are_those_that_the_device_decided():
    street = Lanes(240, {"e_0": 4})
    driven(street)
    decided = street.shown[FIRST_WINDOW_S + 20 :]
    assert decided.count(GREENS[2]) > 0.6 * len(decided)  # a fixed plan gives it a quarter


def test_a_blocked_approach_is_alarmed_by_the_devices_own_rule():
    street = Lanes(600, EVERY_S, ("n_0", 240))
    record = driven(street)
    assert {(name, action) for name, _, action in record.alarms} == {("x", "report_incident")}
    assert 240 < record.alarms[0][1] < 600


def test_a_street_that_breaks_off_ends_the_run_with_its_words():
    class Broken(Lanes):
        def second(self, lights):
            if len(self.shown) == 5:
                raise RuntimeError("the judge's process failed")
            return super().second(lights)

    with pytest.raises(RuntimeError, match="the judge's process failed"):
        driven(Broken(20, EVERY_S))


def test_a_wide_street_comes_as_of_the_shipped_width():
    wide = Signal(
        standard_junction(),
        GREENS,
        YELLOWS,
        (("n_0", "s_0"), LANES[1], ("e_0", "e_1", "w_0", "w_1"), LANES[3]),
    )
    told = StreetSecond(
        [[3, 5], [0, 1], [8, 6, 2, 4], [0, 0]],
        [[1, 0], [0, 0], [1, 1, 0, 1], [0, 0]],
        [[1, 0], [0, 0], [1, 1, 0, 1], [0, 0]],
        GREENS[2],
    )
    found = channels_of(wide, told)
    assert set(found) == set(PROFILE.channel_names)
    assert (found["queue_ns"], found["queue_n"], found["queue_s"]) == (8, 3, 5)
    assert (found["queue_ew"], found["queue_e"], found["queue_w"]) == (10, 7, 3)
    assert (found["flow_ew"], found["flow_e"], found["flow_w"]) == (1.5, 1.0, 0.5)
    assert (found["occupancy_ew"], found["green_ew"], found["green_ns"]) == (0.75, 1, 0)
    assert lane_table({"x": wide})["x"] == {"ns": 2, "ns_left": 2, "ew": 4, "ew_left": 2}


def run_of(what, alarms=(), hit="", seed=1):
    kept = {"windows": 100, "same_choice": 90, "changes": 20, "same_change": 15}
    named = [[name, second, "report_incident"] for name, second in alarms]
    return StreetRun("grid", what, seed, 30.0, 1.0, 10, 0, 4, hit, 1 if hit else 0, named, [], kept)


def rows_of(runs):
    page = FigurePage()
    write_streets(page, runs, [], {})
    return [line.split(" | ") for line in page.lines if line.startswith("| ")]


def test_an_alarm_counts_for_the_intersection_that_is_hit_and_from_the_incident_on():
    runs = [
        run_of("incident", [("a", AT_S + 100)], "a"),
        run_of("incident", [("a", AT_S - 1), ("b", AT_S + 5), ("a", AT_S + 600)], "a", 2),
        run_of("incident", [("b", AT_S + 300)], "a", 3),
        run_of("local", [("c", 900)]),
    ]
    model = next(row for row in rows_of(runs) if row[0] == "| grid" and row[1] == "model")
    assert model[2:6] == ["1 of 3", "2 of 3", "0 of 0", "0 of 0"]
    hours = (3 * 4 * (AT_S - 60) + 4 * (3600 - 60)) / 3600
    assert model[6] == f"2 in {hours:.0f}"
    assert model[7].startswith(f"{2 * 168 / hours:.1f} (")
    assert model[8] == f"2 in {3 * 3 * 1800 / 3600:.0f} |"
    closed = run_of("closed", [("a", AT_S + 170)], "a")
    assert (
        next(row for row in rows_of([closed]) if row[0] == "| grid")[2:6] == ["0 of 0"] * 2 + ["1 of 1"] * 2
    )
    twice = [run_of(what, [("b", AT_S - 5)], "a") for what in ("incident", "closed")]
    row = next(row for row in rows_of(twice) if row[0] == "| grid")
    assert row[6].startswith("1 in ")  # they begin alike
    assert row[8].startswith("0 in ")
    other = run_of("incident", [("other", AT_S + 7)], "a")
    assert next(row for row in rows_of([other]) if row[0] == "| grid")[2:4] == ["0 of 1", "0 of 1"]


def test_no_false_alarm_still_has_an_upper_bound_of_three_in_the_hours_watched():
    row = next(row for row in rows_of([run_of("incident", [], "a"), run_of("local")]) if row[0] == "| grid")
    hours = float(row[6].removeprefix("0 in "))
    low, high = (float(n) for n in row[7].removeprefix("0.0 (").removesuffix(")").split(" to "))
    assert low == 0
    assert high == pytest.approx(3.69 * 168 / hours, rel=0.05)  # 97.5 % of a Poisson count

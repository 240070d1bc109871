"""The judge of reflexes without MuJoCo: lock step against a body of our own, a real decision, the page."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.figure_page import END
from benchmarks.judge.judge_environment import JudgeUnavailableError, pins_of
from benchmarks.judge.robot import robot_judge
from benchmarks.judge.robot.arm_models import BUDGET, CHANNELS, OWN, QUANTITIES, judged_arm
from benchmarks.judge.robot.arm_page import BEGIN, figures, run_picture
from benchmarks.judge.robot.arm_process import ArmRun
from benchmarks.judge.robot.lock_step import Cut, move_freely, strike
from benchmarks.judge.robot.reflex_path import PATIENCE_S, START, ReflexPath, open_actuator
from edge_producer.bundle import BUNDLES
from edge_producer.decider import Decider, LocalDecision
from schemas.profile_file import load_profile

ROOT = Path(__file__).parents[2]
CUT = Cut(10, 5, 0.002)
RUN = ArmRun(1, 1.0, 0.0, 0.5)
BRAKING = 20.0


class Sledge:
    """A body at 1 m/s that meets a wall without force, and slows down evenly from its order on."""

    def begin(self, run: ArmRun) -> dict[str, Any]:
        self.run, self.now_s, self.orders = run, 0.0, []
        return {"cycle_s": 1.0}

    def advance(self, to_s: float, orders: Any = ()) -> np.ndarray:
        assert all(at_s >= self.now_s for at_s, _ in orders), "nobody is told what is past"
        self.orders += [o for o in orders if o[0] < to_s]
        n = round((to_s - self.now_s) / CUT.step_s)
        times = self.now_s + CUT.step_s * np.arange(1, n + 1)
        self.now_s = to_s
        hit = np.zeros(n) if self.run.strike_s is None else (times >= self.run.strike_s).astype(float)
        return np.repeat(hit[:, None], len(QUANTITIES), axis=1).astype(np.float32)

    def end(self) -> dict[str, Any]:
        told = [at_s for at_s, _ in self.orders]
        after = (min(told) if told else self.now_s) - self.run.strike_s
        return {
            "touched_s": self.run.strike_s,
            "ordered_s": min(told) if told else None,
            "deepest_m": after + (1 / (2 * BRAKING) if told else 0.0),
        }


class Fixed:
    """Decides by the rules of the judge's profile, where half a window is hit, in a time that is given."""

    def __init__(self, latency_s: float, at: float = 0.4) -> None:
        self.latency_s, self.at, self.ends = latency_s, at, []
        self.policy = load_profile(OWN).decision

    def begin(self) -> None:
        self.decider = Decider(self.policy)

    def decide(self, samples: np.ndarray, at_s: float) -> tuple[LocalDecision, float]:
        self.ends.append(at_s)
        score = 1.0 if samples.mean() >= self.at else 0.0
        return self.decider.decide(START + timedelta(seconds=at_s), score), self.latency_s


def test_an_order_reaches_the_arm_after_what_deciding_took_and_the_round_trip():
    # The wall is met at 0.500 s; the window that ends at 0.510 s has six samples of it.
    for latency_s, trip_s in ((0.001, 0.0), (0.0004, 0.05), (0.003, 0.15)):
        found = strike(Sledge(), RUN, Fixed(latency_s), CUT, trip_s)
        assert found.ordered_s == pytest.approx(0.510 + latency_s + trip_s)
        assert found.latencies == (latency_s,)
        assert found.found["deepest_m"] == pytest.approx(found.ordered_s - 0.5 + 1 / (2 * BRAKING))
        assert not found.early


def test_without_a_reflex_nothing_is_decided_and_who_is_slower_than_the_windows_falls_behind():
    path = Fixed(0.001)
    nobody = strike(Sledge(), RUN, path, CUT, None)
    assert (nobody.ordered_s, nobody.latencies, path.ends) == (None, (), [])
    # Each window takes two of their steps: the 50th is taken up when 49 others are done.
    slow = strike(Sledge(), RUN, Fixed(0.020), CUT, 0.0)
    assert slow.ordered_s == pytest.approx(0.020 + 50 * 0.020)


def test_an_order_before_the_touch_is_early_and_one_long_before_would_have_stopped_the_arm():
    class Nervous(Fixed):
        def decide(self, samples: np.ndarray, at_s: float) -> tuple[LocalDecision, float]:
            self.at = 0.0 if at_s >= self.since_s else 2.0
            return super().decide(samples, at_s)

    for since_s, told in ((0.48, True), (0.1, False)):
        path = Nervous(0.001)
        path.since_s = since_s
        found = strike(Sledge(), RUN, path, CUT, 0.0)
        assert found.early
        assert (found.ordered_s is not None) is told, "nobody is told what was in force before"


def test_free_motion_counts_each_start_of_an_action_that_moves_the_arm():
    quiet = move_freely(Sledge(), ArmRun(1, 1.0, 0.0), Fixed(0.0), CUT, 2.0)
    assert (quiet.stops, quiet.windows) == ((), 199)
    hit = move_freely(Sledge(), RUN, Fixed(0.0), CUT, 2.0)
    assert hit.stops == (pytest.approx(0.510),)


def test_the_real_way_of_a_decision_ends_with_the_actuators_receipt():
    judged = judged_arm("own", load_profile(OWN), BUNDLES)  # without a bundle of its own: the generic score
    rng = np.random.default_rng(2)
    with open_actuator() as actuator:
        path = ReflexPath(judged.profile, judged.predictor, judged.columns, actuator)
        started = []
        for k in range(80):
            window = rng.normal(0.0, 0.1, (10, len(QUANTITIES))).astype(np.float32)
            window[:, 0] += 20.0 * (k >= 75)
            decision, latency_s = path.decide(window, (k + 2) * 0.01)
            assert 0 < latency_s < PATIENCE_S, "a receipt is waited for, not the end of patience"
            started.append(decision.action if decision.started else "")
        status = actuator.status()
    assert started[75] == "stop"
    assert status["received"] == sum(bool(name) for name in started)
    assert status["receipt_ms"]["n"] == status["received"]


def test_channels_are_read_by_the_names_of_what_the_arm_tells():
    judged = judged_arm("own", load_profile(OWN), BUNDLES)
    assert [QUANTITIES[at] for at in judged.columns] == list(judged.profile.channel_names)
    assert set(CHANNELS.values()) <= set(QUANTITIES)
    assert BUDGET > 0
    text = OWN.read_text(encoding="utf-8").replace("wheel_speed", "whirl")
    assert judged.cut == CUT
    strange = type(judged.profile).model_validate(load_toml(text))
    with pytest.raises(JudgeUnavailableError, match="does not tell whirl"):
        judged_arm("own", strange, BUNDLES)


def load_toml(text: str) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(text)


def test_the_page_shows_the_stored_results_and_nothing_else():
    stored = robot_judge.read_results()
    text = (ROOT / robot_judge.PAGE).read_text(encoding="utf-8")
    shown = text.partition(BEGIN)[2].partition(END)[0]
    assert shown.strip() == figures(stored).strip()
    picture = (ROOT / robot_judge.PAGE).with_name(robot_judge.PICTURE)
    assert picture.is_file() is bool(stored), "a picture is of what was measured"
    if stored:
        assert picture.read_text(encoding="utf-8") == run_picture(stored)


def test_pins_of_the_judge_are_hashed_exact_and_name_no_index():
    text = pins_of("robot").read_text(encoding="utf-8")
    assert re.search(r"(?m)^mujoco==4\.0\.0 ", text)
    entries = [e for e in re.split(r"\n(?=[^\s#])", text.partition("\n")[2].strip()) if e]
    assert all(re.match(r"[a-z0-9.-]+==\S+", e) and "--hash=sha256:" in e for e in entries)
    assert "://" not in text

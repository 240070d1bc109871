"""Laws of the switch interval: the deciding thread leads it where windows come fast, and nobody else does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_producer.acting.action_order import ActionOrder
from edge_producer.acting.socket_actuator import SocketActuator
from edge_producer.bundle import load_bundle
from edge_producer.inference import OnnxPredictor
from edge_producer.runner import Runner
from edge_producer.sources.samples import Sample
from edge_producer.switch_interval import COMPUTING_S, SWITCH_INTERVAL, WAITING_S
from schemas.profile import Profile
from tests.edge_producer.actuator_rig import SocketServer
from tests.edge_producer.source_rigs import Given, live, profile, settings
from tests.waiting import wait_until

USUAL_S = 0.003
FAST = {"rate_hz": 200.0, "window_samples": 2, "hop_samples": 2}
ENOUGH, MOST_SAMPLES = 60, 6000


@pytest.fixture(autouse=True)
def interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(USUAL_S)
    yield
    sys.setswitchinterval(before)


def now_s() -> float:
    return round(sys.getswitchinterval(), 6)


def test_it_follows_the_deciding_thread_and_is_what_it_was_after_an_error_too():
    def fails(_most_s: float) -> None:
        seen.append(now_s())
        raise ValueError("over")

    seen: list[float] = []
    with pytest.raises(ValueError, match="over"), SWITCH_INTERVAL.led_here(wanted=True):
        SWITCH_INTERVAL.during(fails, 1.0)
    assert (seen, now_s()) == ([WAITING_S], USUAL_S)
    with SWITCH_INTERVAL.led_here(wanted=True):
        before = now_s()
        SWITCH_INTERVAL.waits()
        waiting = now_s()
        SWITCH_INTERVAL.computes()
        assert (before, waiting, now_s()) == (COMPUTING_S, WAITING_S, COMPUTING_S)
    assert now_s() == USUAL_S


def test_who_does_not_decide_changes_nothing():
    def other() -> None:
        SWITCH_INTERVAL.computes()

    SWITCH_INTERVAL.waits()
    assert now_s() == USUAL_S, "nobody decides"
    with SWITCH_INTERVAL.led_here(wanted=False):
        SWITCH_INTERVAL.waits()
        assert now_s() == USUAL_S, "windows are slow"
    with SWITCH_INTERVAL.led_here(wanted=True):
        SWITCH_INTERVAL.waits()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert now_s() == WAITING_S, "another thread than the deciding one"


def test_the_deciding_thread_rests_behind_an_order_and_its_receipt_comes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    server = SocketServer(tmp_path / "robot.sock")
    actuator = SocketActuator(str(server.path), 30.0, None)
    rested: list[float] = []

    def settle(_s: float) -> None:
        wait_until(lambda: actuator.wait_until_settled(["r"], 0.0), 30, "the receipt")
        rested.append(now_s())

    monkeypatch.setattr(SWITCH_INTERVAL, "_pause", settle)
    actuator.open()
    try:
        actuator.hand_over(ActionOrder("r", "go"))
        assert rested == [], "nobody leads: whoever gives an order goes on"
        with SWITCH_INTERVAL.led_here(wanted=True):
            actuator.hand_over(ActionOrder("r", "stop"))
            assert (rested, now_s()) == ([WAITING_S], COMPUTING_S)
    finally:
        actuator.close()
        server.die()


class Noting(OnnxPredictor):
    """The generic model; notes the interval around each window's score."""

    def __init__(self, used: Profile) -> None:
        super().__init__(load_bundle(used), used)
        self.around: set[tuple[float, float]] = set()

    def score(self, device_id, samples, at=None):
        before = now_s()
        found = super().score(device_id, samples, at)
        self.around.add((before, now_s()))
        return found


class Looking(Given):
    """Gives samples until it has seen, from its own thread, the interval of a loop that waits."""

    def __init__(self, used: Profile, wanted_s: float) -> None:
        super().__init__(used, iter(()))
        self._wanted_s = wanted_s
        self.seen: set[float] = set()
        self._pause = threading.Event()

    def samples(self) -> Iterator[Sample]:
        for k in range(MOST_SAMPLES):
            self._pause.wait(0.005)
            self.seen.add(now_s())
            yield Sample({"heat": 20.0 + k % 3, "load": 1.0})
            if self._wanted_s in self.seen and k > ENOUGH:
                return


@pytest.mark.parametrize("fast", [True, False])
def test_a_loop_with_fast_windows_waits_with_a_short_interval_and_decides_with_a_long_one(
    tmp_path: Path, fast: bool
):
    sampling = FAST if fast else {**FAST, "window_samples": 40, "hop_samples": 40}
    used = profile(sampling=sampling, source={"time_field": ""})
    source, predictor = Looking(used, WAITING_S if fast else USUAL_S), Noting(used)
    Runner(settings(tmp_path), used, live(lambda: source, used), predictor).run(threading.Event())
    assert now_s() == USUAL_S
    if fast:
        assert WAITING_S in source.seen
        assert predictor.around == {(COMPUTING_S, COMPUTING_S)}
    else:
        assert (source.seen, predictor.around) == ({USUAL_S}, {(USUAL_S, USUAL_S)})

"""Laws of the signals that a device drives: orders are served in bounds, and silence means the fixed plan."""

from __future__ import annotations

import json

import pytest

from edge_producer.acting.action_order import ActionOrder
from edge_producer.acting.called_actuator import ActuatorRequest, load_actuator
from edge_producer.verticals.traffic.signal_cabinet import SignalCabinet, open_cabinet
from schemas.verticals.traffic.phase_control import equal_plan
from schemas.verticals.traffic.signal_head import SILENT_S, SignalHead
from schemas.verticals.traffic.standard_junction import NAMES, standard_junction


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def serve(device: str, phase: float) -> ActionOrder:
    return ActionOrder(device, "serve_phase", numbers={"phase": phase, "green_s": 8.0})


def run(cabinet: SignalCabinet, clock: Clock, seconds: int, *orders: ActionOrder) -> list[dict]:
    """Steps, each with the orders before it."""
    shown = []
    for _ in range(seconds):
        for order in orders:
            cabinet.carry_out(order)
        shown.append(cabinet.step())
        clock.now_s += 1.0
    return shown


def test_each_intersection_shows_what_it_was_told_and_what_is_shown_lies_on_disk(tmp_path):
    clock = Clock()
    cabinet = SignalCabinet(tmp_path / "lights", clock=clock)
    shown = run(cabinet, clock, 12, serve("x-1", 2.0), serve("x-2", 0.0))
    assert shown[-1] == {"x-1": 2, "x-2": 0}
    assert None in [step["x-1"] for step in shown]  # the intergreen
    said = json.loads((tmp_path / "lights" / "x-1.json").read_text())
    assert said == {"green": NAMES[2], "by_fixed_plan": False}


@pytest.mark.parametrize("ended_by", ["silence", "order"])
def test_an_intersection_that_nobody_tells_anything_follows_its_fixed_plan(tmp_path, ended_by):
    clock = Clock()
    cabinet = SignalCabinet(tmp_path, clock=clock)
    run(cabinet, clock, 30, serve("x-1", 2.0))
    if ended_by == "order":
        cabinet.carry_out(ActionOrder("x-1", "fixed_plan"))
        assert json.loads((tmp_path / "x-1.json").read_text())["by_fixed_plan"]
    else:
        run(cabinet, clock, int(SILENT_S) + 2)
    assert json.loads((tmp_path / "x-1.json").read_text())["by_fixed_plan"]
    alone, shown, theirs = SignalHead(standard_junction(), clock.now_s), [], []
    alone.release()
    for _ in range(3 * int(equal_plan(standard_junction()).cycle_s)):
        theirs.append(alone.step(clock.now_s))
        shown.append(run(cabinet, clock, 1)[0]["x-1"])
    assert shown[-80:] == theirs[-80:]  # one fixed plan, wherever it was joined


@pytest.mark.parametrize("phase", [4.0, -1.0, 1.5, None])
def test_what_names_no_phase_is_refused_and_the_signal_goes_on(phase):
    clock = Clock()
    cabinet = SignalCabinet(clock=clock)
    numbers = {} if phase is None else {"phase": phase}
    with pytest.raises(ValueError, match="names no phase"):
        cabinet.carry_out(ActionOrder("x-1", "serve_phase", numbers=numbers))
    assert run(cabinet, clock, 400)  # it follows its plan
    assert {step["x-1"] for step in run(cabinet, clock, 100)} == {None, 0, 1, 2, 3}


def test_lights_that_cannot_be_written_fail_the_next_order_and_not_the_signal(tmp_path):
    clock, wall = Clock(), tmp_path / "wall"
    wall.write_text("a file, where the folder would be")
    cabinet = SignalCabinet(wall / "lights", clock=clock)
    cabinet.carry_out(serve("x-1", 2.0))
    assert len(run(cabinet, clock, 5)) == 5
    with pytest.raises(OSError, match="wall"):
        cabinet.carry_out(serve("x-1", 2.0))


def test_the_actuator_is_found_by_its_name_and_says_what_is_wrong_with_its_file(tmp_path):
    plans = tmp_path / "plans.json"
    assert load_actuator("signal_head") is open_cabinet
    with pytest.raises(ValueError, match=r"unknown options \['lamps'\]; known: lights, plans"):
        open_cabinet(ActuatorRequest({"lamps": "x"}, 1.0))
    plans.write_text(
        json.dumps({"x-1": {"cycle_s": 60.0, "offset_s": 0.0, "splits": [0.9, 0.05, 0.03, 0.02]}})
    )
    with pytest.raises(ValueError, match="x-1: phase"):
        open_cabinet(ActuatorRequest({"plans": str(plans)}, 1.0))
    plans.write_text(json.dumps({"x-1": {"cycle_s": 80.0, "offset_s": 0.0, "splits": [0.25] * 4}}))
    cabinet = open_cabinet(ActuatorRequest({"plans": str(plans)}, 1.0))
    cabinet.carry_out(serve("x-1", 1.0))
    cabinet.close()

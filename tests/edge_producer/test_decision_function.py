"""Laws of decision functions of users: whatever one does, the device decides, and in time."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_producer import DecisionAnswer
from edge_producer.acting.action_order import ActionOrder
from edge_producer.clock import SteadyClock
from edge_producer.decider import Decider, LocalDecision
from edge_producer.deciding.answer_check import LARGEST_STATE
from edge_producer.deciding.decision_function import try_parameters, why_parameters_refused
from edge_producer.deciding.decision_parameters import DecisionParameters, ParameterSet
from edge_producer.deciding.function_decider import FunctionDecider
from edge_producer.deciding.timed_calls import TimedCalls
from edge_producer.device import Device
from edge_producer.device_host import Host
from edge_producer.device_identity import load_or_create
from edge_producer.metering import Meters
from edge_producer.process_parts import require_function
from edge_producer.sending.reporter import Reporter
from edge_producer.sending.sender import Sender
from edge_producer.settings import EdgeSettings
from schemas.errors import ProfileError
from schemas.events import DeviceState, parse_event
from schemas.profile import Profile
from schemas.row_schemas import Reason
from tests.edge_producer.spool_rig import START, FirstSample, SpoolRig, bench_profile, window
from tests.simulators.installed_jobs import install
from tests.waiting import wait_until

HEAD = """
import threading
from edge_producer import DecisionAnswer

calls, asked = [], []
release, reached = threading.Event(), threading.Event()
answers = {}


def decide(request):
    calls.append(request)
    if request.features["load_last"] < 0:
        reached.set()
        release.wait()
    given = answers.get(request.device_id, answers.get("any"))
    return DecisionAnswer(request.action, state=request.state) if given is None else given(request)
"""
NUMBERS = {"green": {"green_s": {"min": 5.0, "max": 60.0, "unit": "s"}}}
MODULES = count(1)


def profile(**decision: Any) -> Profile:
    """The bench profile with a function, a routine action with a number, and what else is said."""
    content = bench_profile().canonical()
    content["decision"] |= {
        "function": "own", "function_timeout_s": 0.9, "actions": ["green"], "numbers": NUMBERS, **decision
    }  # fmt: skip
    return Profile.model_validate(content)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """An installed package whose function does what the test puts into ``answers``."""
    site, name = tmp_path / "site", f"own_decision_{next(MODULES)}"
    site.mkdir()
    install(site, name, HEAD, "decide", "own", group="edgeloop.decisions")
    monkeypatch.syspath_prepend(str(site))
    module = __import__(name)
    yield module
    module.release.set()
    del sys.modules[name]


class Rig:
    """Devices with the function, on no spool."""

    def __init__(self, folder: Path, used: Profile, names: tuple[str, ...] = ("d-1",)) -> None:
        self.folder, self.profile = folder, used
        self.orders: list[ActionOrder] = []
        self.parameters = {name: DecisionParameters() for name in names}
        self.k = 0
        self._boots = count(1)
        self.host = Host(
            self.orders.append, Meters(used), lambda: 0.0, lambda: next(self._boots), self.parameters
        )
        self.devices = {name: self.make(name) for name in names}

    def make(self, name: str, state: str | None = None) -> Device:
        identity = load_or_create(self.folder / "keys", name)
        return Device(identity, self.profile, FirstSample(), self.host, state)

    def sense(self, value: float, name: str = "d-1") -> LocalDecision:
        self.k += 1
        return self.devices[name].process(window(value, self.k, name))

    def status(self, name: str = "d-1") -> Mapping[str, Any]:
        found = self.devices[name].function_status
        assert found is not None
        return found


def green(seconds: Any, state: Any = None) -> Any:
    return lambda _request: DecisionAnswer("green", {"green_s": seconds}, state)


def test_the_function_is_told_the_window_and_what_the_rules_chose(own, tmp_path):
    rig = Rig(tmp_path, profile())
    rig.sense(0.7)
    [request] = own.calls
    assert (request.device_id, request.action, request.event_time) == (
        "d-1", "inspect", START + timedelta(seconds=1)
    )  # fmt: skip
    assert {n: round(v, 6) for n, v in request.features.items()} == {"load_last": 0.7, "load_mean": 0.7}
    assert request.scores == {"score": pytest.approx(0.7)}
    assert (dict(request.parameters), request.state) == ({}, None)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.1, 0.45, 0.65, 0.95, math.nan]), max_size=25))
def test_a_function_that_agrees_with_the_rules_changes_nothing(values):
    policy, used = bench_profile().decision, profile()
    alone, ruled = Decider(policy), Decider(used.decision)
    subject = Agreeing(used)
    for k, value in enumerate(values):
        sample, score = window(value, k), None if math.isnan(value) else value
        features = FirstSample().score("d-1", sample.samples)[0]
        chosen = ruled.decide(sample.end, score)
        assert subject.decide(chosen, sample.end, features, {"score": score}) == alone.decide(
            sample.end, score
        )


class Agreeing(FunctionDecider):
    """One whose function answers at once, without a package."""

    def __init__(self, used: Profile) -> None:
        super().__init__("d-1", used, DecisionParameters(), TimedCalls())
        self._function = lambda request: DecisionAnswer(request.action)


@settings(max_examples=100, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_number_leaves_the_device_outside_its_bounds_and_each_clip_is_counted(seconds):
    subject = Agreeing(profile())
    subject._function = green(seconds)
    sample = window(0.1, 0)
    features = FirstSample().score("d-1", sample.samples)[0]
    idle = LocalDecision("none", started=False, alert=False, fail_safe=False)
    found = subject.decide(idle, sample.end, features, {"score": 0.1})
    assert (found.action, found.numbers) == ("green", {"green_s": min(max(seconds, 5.0), 60.0)})
    clips = {} if 5.0 <= seconds <= 60.0 else {"green.green_s": 1}
    assert subject.status()["clipped"] == clips
    assert subject.take_counts()["numbers_clipped"] == len(clips)


def test_the_cloud_is_told_how_often_numbers_were_clipped_and_of_which_most(own, tmp_path):
    """A device on another machine: nobody there sees its status."""
    spooled = SpoolRig(tmp_path / "spool", bench_profile())
    sender = Sender("127.0.0.1:1", "", "edge", SteadyClock())
    limits = {"green": {**NUMBERS["green"], "offset_s": {"min": 0.0, "max": 9.0, "value": 0.0}}}
    rig = Rig(tmp_path, profile(numbers=limits))
    told_to = EdgeSettings(state_dir=tmp_path, profile="bench", devices=("d-1",))
    reporter = Reporter(sender, Meters(rig.profile), rig.profile, told_to)

    def told(**numbers: float) -> bytes:
        own.answers["any"] = lambda _request: DecisionAnswer("green", numbers)
        rig.sense(0.1)
        reporter.note(rig.devices["d-1"].take_update())
        [state] = reporter.states(spooled.spool, 0.0, at_once=True).values()
        return state

    def clips(state: bytes) -> tuple[int | None, str | None]:
        event = parse_event(DeviceState, state)
        return event.clipped_times, event.clipped_number

    assert b"clipped" not in told(green_s=30)  # a cloud of 0.2.0 does not know the key
    assert clips(told(green_s=75)) == (1, "green.green_s")
    assert clips(told(green_s=2, offset_s=10)) == (3, "green.green_s")
    assert clips(told(green_s=30)) == (3, "green.green_s")
    rig.devices["d-1"] = rig.make("d-1")  # started anew
    assert b"clipped" not in told(green_s=30)
    sender.close()
    spooled.close()


def test_an_action_is_commanded_when_it_or_a_number_changes_and_only_then(own, tmp_path):
    rig = Rig(tmp_path, profile())
    for seconds in (20, 20, 30):
        own.answers["any"] = green(seconds)
        rig.sense(0.1)
    assert [(o.action, dict(o.numbers), o.cause) for o in rig.orders] == [
        ("green", {"green_s": 20.0}, "decision"),
        ("green", {"green_s": 30.0}, "decision"),
    ]
    assert all(0 < o.arrived_ns <= o.decided_ns for o in rig.orders)


def test_a_rules_number_reaches_the_machine_with_and_without_a_function(own, tmp_path):
    content = profile().canonical()
    content["decision"]["rules"][0]["numbers"] = {"speed": 0.5}
    content["decision"]["numbers"] = {**NUMBERS, "inspect": {"speed": {"min": 0.0, "max": 1.0}}}
    for function in ("own", None):
        rig = Rig(
            tmp_path,
            Profile.model_validate({**content, "decision": {**content["decision"], "function": function}}),
        )
        rig.sense(0.7)
        assert dict(rig.orders[-1].numbers) == {"speed": 0.5}


def test_state_goes_from_window_to_window_and_over_a_restart(own, tmp_path):
    own.answers["any"] = lambda r: DecisionAnswer(r.action, state=[*(r.state or []), len(r.state or [])])
    rig = Rig(tmp_path, profile())
    for _ in range(3):
        rig.sense(0.1)
    rig.devices["d-1"] = rig.make("d-1", rig.devices["d-1"].take_update().state)
    rig.sense(0.1)
    assert own.calls[-1].state == [0, 1, 2]


def test_a_state_of_another_function_is_not_given_to_this_one(own, tmp_path):
    own.answers["any"] = lambda r: DecisionAnswer(r.action, state=1)
    rig = Rig(tmp_path, profile())
    rig.sense(0.1)
    state = json.loads(rig.devices["d-1"].take_update().state)
    state["function"]["name"] = "theirs"
    rig.devices["d-1"] = rig.make("d-1", json.dumps(state))
    rig.sense(0.1)
    assert own.calls[-1].state is None


def test_a_function_cannot_change_its_kept_state_in_place(own, tmp_path):
    def change(request):
        if request.state is None:
            return DecisionAnswer(request.action, state={"n": 1})
        request.state["n"] = 99
        raise ValueError("after it has changed it")

    own.answers["any"] = change
    rig = Rig(tmp_path, profile())
    for _ in range(3):
        rig.sense(0.1)
    assert own.calls[-1].state == {"n": 99}  # its own copy
    assert json.loads(rig.devices["d-1"].take_update().state)["function"]["state"] == {"n": 1}


def test_a_profile_without_a_function_keeps_the_state_that_it_kept(tmp_path):
    rig = Rig(tmp_path, bench_profile())
    rig.sense(0.7)
    assert set(json.loads(rig.devices["d-1"].take_update().state)) == {"decider", "filter", "references"}


def raising(error: BaseException) -> Any:
    def answer(_request: Any) -> Any:
        raise error

    return answer


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


BAD = {
    "raises": raising(ZeroDivisionError("a bug")),
    "exits": raising(SystemExit(3)),
    "nothing": lambda _r: None,
    "no answer": lambda _r: ("green", {}),
    "unknown action": lambda _r: DecisionAnswer("explode"),
    "action of no type": lambda _r: DecisionAnswer(["green"]),
    "NaN": green(math.nan),
    "infinite": green(math.inf),
    "text": green("20"),
    "a missing number": lambda _r: DecisionAnswer("green"),
    "an unknown number": lambda _r: DecisionAnswer("green", {"green_s": 20.0, "red_s": 1.0}),
    "numbers of no mapping": lambda _r: DecisionAnswer("green", [20.0]),
    "state that is no JSON": green(20.0, {1, 2}),
    "state that is NaN": green(20.0, math.nan),
    "state too large": green(20.0, "x" * LARGEST_STATE),
    "state too deep": green(20.0, nested(100_000)),
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
def test_without_a_good_answer_the_rules_decide_and_else_the_fail_safe(own, tmp_path, caplog, answer):
    rig = Rig(tmp_path, profile())
    own.answers["any"] = green(20.0, "kept")
    rig.sense(0.1)
    own.answers["any"] = answer
    with caplog.at_level(logging.ERROR):
        found = [rig.sense(value).action for value in (0.7, 0.1, 0.1)]
    assert found == ["inspect", "hold", "hold"]
    assert rig.status()["failed"] == 3
    assert rig.status()["problem"]
    assert len(caplog.records) == 1
    update = rig.devices["d-1"].take_update()
    assert (update.meters["function_failed"], update.decision) == (3, "hold")
    assert json.loads(update.state)["function"]["state"] == "kept"
    own.answers["any"] = green(20.0)
    assert rig.sense(0.1).action == "green"
    assert rig.status()["problem"] == ""


def test_a_function_that_blocks_holds_up_one_window_and_no_other_device(own, tmp_path):
    rig = Rig(tmp_path, profile(function_timeout_s=0.2), ("d-1", "d-2"))
    own.answers["d-2"] = green(20.0)
    assert rig.sense(-1.0).action == "hold"
    own.reached.wait(30)
    assert [rig.sense(v).action for v in (0.1, 0.7, -1.0)] == ["hold", "inspect", "hold"]
    assert rig.status()["late"] == 4
    assert len(own.calls) == 1, "it is not called again while a call has not come to an end"
    assert rig.sense(0.1, "d-2").action == "green"
    own.release.set()
    own.answers["d-1"] = green(30.0)
    wait_until(lambda: rig.sense(0.1).action == "green", 30, "an answer after the call has ended")


def test_the_answer_of_a_late_call_changes_nothing(own, tmp_path):
    rig = Rig(tmp_path, profile(function_timeout_s=0.2))
    own.answers["any"] = green(20.0, "late")
    rig.sense(-1.0)
    own.release.set()
    own.answers["any"] = lambda r: DecisionAnswer(r.action, state=r.state)
    wait_until(lambda: rig.sense(0.1).action == "none", 30, "an answer in time")
    assert own.calls[-1].state is None


def test_without_a_usable_score_the_fail_safe_is_in_force_and_the_function_is_not_asked(own, tmp_path):
    own.answers["any"] = green(20.0)
    rig = Rig(tmp_path, profile())
    assert rig.sense(math.nan).fail_safe
    assert (rig.orders[-1].action, own.calls) == ("hold", [])


def test_a_routine_action_is_no_alarm_and_does_not_hide_the_rules_alarm(own, tmp_path):
    own.answers["any"] = green(20.0)
    rig = Rig(tmp_path, profile())
    decisions = [rig.sense(v) for v in (0.1, 0.1, 0.7, 0.7, 0.1, 0.1)]
    assert [d.action for d in decisions] == ["green"] * 6
    assert [(d.started, d.alert) for d in decisions] == [
        (False, False), (False, False), (True, True), (False, False), (True, False), (False, False)
    ]  # fmt: skip
    update = rig.devices["d-1"].take_update()
    assert [json.loads(a)["action"] for a in update.alerts] == ["inspect"]
    sent = [row for row in update.rows if row.reasons & Reason.TRANSITION]
    assert [row.decision for row in sent] == ["green", "green"]


def test_an_alarm_of_the_functions_own_is_one_incident(own, tmp_path):
    rig = Rig(tmp_path, profile(refractory_windows=2))
    alerts = []
    for action in ("none", "stop", "none", "stop", "none", "none", "none", "none", "stop"):
        own.answers["any"] = lambda _r, action=action: DecisionAnswer(action)
        found = rig.sense(0.1)
        alerts.append((found.alert, found.repeated))
    no = (False, False)
    assert alerts == [no, (True, False), no, (False, True), no, no, no, no, (True, False)]


def test_parameters_switch_at_their_instant_by_event_time(own, tmp_path):
    own.answers["any"] = lambda r: DecisionAnswer("green", {"green_s": r.parameters.get("s", 5)})
    rig = Rig(tmp_path, profile())
    rig.parameters["d-1"].follow(
        ParameterSet("plan-2", {"s": 30}, START + timedelta(seconds=3)),
        ParameterSet("plan-1", {"s": 20}, START + timedelta(seconds=2)),
    )
    found = [(dict(rig.sense(0.1).numbers)["green_s"], rig.status()["parameters"]) for _ in range(4)]
    assert found == [(5.0, ""), (20.0, "plan-1"), (30.0, "plan-2"), (30.0, "plan-2")]
    own.answers["any"] = lambda _r: None
    rig.sense(0.1)
    rig.sense(0.1)
    assert rig.parameters["d-1"].failures == 2
    own.answers["any"] = green(5)
    rig.parameters["d-1"].follow()
    assert rig.sense(0.1).numbers == {"green_s": 5.0}


def test_nobody_can_change_parameters_in_force():
    held = DecisionParameters()
    held.follow(ParameterSet("p-1", {"splits": [1, {"a": 2}]}, START))
    values = held.at(START)
    with pytest.raises(TypeError):
        values["splits"] = 1
    with pytest.raises(TypeError):
        values["splits"][1]["a"] = 3
    with pytest.raises(ValueError, match="time zone"):
        ParameterSet("p-2", {}, START.replace(tzinfo=None))


def test_a_class_is_made_for_each_device_and_may_refuse_parameters(tmp_path, monkeypatch):
    source = """
from edge_producer import DecisionAnswer


class Own:
    def __init__(self, device_id, profile):
        self.name = device_id

    def __call__(self, request):
        return DecisionAnswer("green", {"green_s": 20.0}, state=self.name)

    def check_parameters(self, values):
        if values["cycle_s"] > 120:
            raise ValueError("a cycle of more than two minutes")
"""
    install(tmp_path, f"own_decision_{next(MODULES)}", source, "Own", "own", group="edgeloop.decisions")
    monkeypatch.syspath_prepend(str(tmp_path))
    rig = Rig(tmp_path, profile(), ("d-1", "d-2"))
    for name in ("d-1", "d-2"):
        rig.sense(0.1, name)
        assert json.loads(rig.devices[name].take_update().state)["function"]["state"] == name
    assert why_parameters_refused(profile(), "d-1", {"cycle_s": 90}) == ""
    assert "two minutes" in why_parameters_refused(profile(), "d-1", {"cycle_s": 121})
    assert "KeyError" in why_parameters_refused(profile(), "d-1", {})
    assert "no decision function" in why_parameters_refused(bench_profile(), "d-1", {})
    try_parameters(profile(), "d-1", {"cycle_s": 90})
    with pytest.raises(ValueError, match="two minutes"):
        try_parameters(profile(), "d-1", {"cycle_s": 121})


def test_a_function_that_is_not_installed_leaves_the_device_deciding_and_says_what_to_do(tmp_path):
    rig = Rig(tmp_path, profile(function="absent"))
    assert [rig.sense(v).action for v in (0.7, 0.1)] == ["inspect", "hold"]
    assert rig.status()["failed"] == 2
    assert "install the package" in rig.status()["problem"]
    with pytest.raises(ProfileError, match="install the package"):
        require_function("d-1", profile(function="absent"))
    require_function("d-1", bench_profile())

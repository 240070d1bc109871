"""Laws of resident actuators: the newest action gets there at once, and nothing of one reaches sensing."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count, takewhile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_producer import ActionOrder
from edge_producer.acting import socket_actuator
from edge_producer.acting.newest_orders import NewestOrders
from edge_producer.acting.resident_actuator import ResidentActuator
from edge_producer.acting.socket_actuator import SocketActuator
from edge_producer.actions import ActionRunner, load_actions
from edge_producer.edge_check import findings
from edge_producer.fail_safe import FailSafe
from edge_producer.fail_safe_watchdog import tell_actuator
from edge_producer.settings import EdgeSettings
from schemas.errors import ProfileError
from tests.edge_producer.actuator_rig import SocketServer, ok
from tests.edge_producer.spool_rig import PROFILE
from tests.edge_producer.test_fail_safe import edge as edge  # noqa: PLC0414  (a fixture)
from tests.edge_producer.test_fail_safe import sensing
from tests.simulators.installed_jobs import install
from tests.waiting import wait_until

MODULES = count(1)


@pytest.fixture
def link(tmp_path: Path) -> Iterator[SocketActuator]:
    """An actuator's client, open; its server the test begins."""
    subject = SocketActuator(str(tmp_path / "a.sock"), timeout_s=20.0, hold_s=3.0)
    subject.open()
    yield subject
    subject.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SocketServer]:
    found = SocketServer(tmp_path / "a.sock")
    yield found
    found.die()


def counted(subject: ResidentActuator, name: str, n: int = 1) -> None:
    wait_until(lambda: subject.status().get(name, 0) >= n, 30, f"{name} = {n}, not {subject.status()}")


# What goes next -------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "take", "answer", "refuse", "lose"]), st.sampled_from("abc")),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_each_device_has_one_order_on_its_way_and_the_last_one_sent_is_the_last_one_put(steps):
    subject, newest, sent, unanswered, puts = NewestOrders(), {}, [], {}, 0
    for n, (step, device) in enumerate(steps):
        if step == "put":
            newest[device] = ActionOrder(device, f"a{n}")
            subject.put(newest[device])
            puts += 1
        elif step == "take" and (found := subject.take(n)) is not None:
            assert found.order.device_id not in unanswered
            unanswered[found.order.device_id] = found.number
            sent.append(found.order)
        elif step in ("answer", "refuse") and device in unanswered:
            assert subject.answered(unanswered.pop(device), done=step == "answer") is not None
        elif step == "lose":
            subject.begin_anew()
            unanswered.clear()
    while (found := subject.take(99)) is not None or unanswered:
        if found is not None:
            sent.append(found.order)
            unanswered[found.order.device_id] = found.number
        device, number = unanswered.popitem()
        subject.answered(number, done=True)
    assert subject.settled(newest)
    last = {order.device_id: order.action for order in sent}
    assert last == {device: order.action for device, order in newest.items()}
    first_times = [order for order in sent if order.cause == "decision"]
    assert len({id(order) for order in first_times}) + subject.counts["superseded"] >= puts


def test_an_answer_to_no_order_is_none():
    subject = NewestOrders()
    assert subject.answered(7, done=True) is None


# Over a socket --------------------------------------------------------------------------------------------


def test_an_order_says_everything_and_its_receipt_is_measured(link, server):
    before_ns = time.monotonic_ns()
    arrived_ns, decided_ns = before_ns - 3_000_000, before_ns - 1_000_000
    order = ActionOrder("d-1", "green", 0.25, "decision", {"green_s": 20.0}, arrived_ns, decided_ns)
    link.hand_over(order)
    counted(link, "received")
    [said] = server.heard(1)
    assert said == {
        "id": 1, "device": "d-1", "action": "green", "numbers": {"green_s": 20.0}, "score": 0.25,
        "cause": "decision", "hold_s": 3.0,
    }  # fmt: skip
    elapsed_ms = (time.monotonic_ns() - arrived_ns) / 1e6
    wait_until(lambda: link.status()["state"] == "connected", 10, "the link to say that it stands")
    status = link.status()
    assert (status["state"], status["receipt_ms"]["n"], status["decided_ms"]["n"]) == ("connected", 1, 1)
    assert status["decided_ms"]["p99"] == 2.0
    assert 3.0 < status["receipt_ms"]["p99"] <= elapsed_ms


@pytest.mark.parametrize("received_ns", [0, 1, -5, 10**30])
def test_the_actuators_own_time_of_receipt_counts_only_between_sending_and_answer(link, server, received_ns):
    server.answer = lambda order: (
        json.dumps({"id": order["id"], "ok": True, "received_ns": received_ns}).encode() + b"\n"
    )
    before_ns = time.monotonic_ns()
    link.hand_over(ActionOrder("d-1", "green", arrived_ns=before_ns, decided_ns=before_ns))
    counted(link, "received")
    elapsed_ms = (time.monotonic_ns() - before_ns) / 1e6
    assert 0 < link.status()["receipt_ms"]["max"] <= elapsed_ms + 0.001


def test_while_an_order_is_unanswered_only_the_newest_of_the_device_waits(link, server):
    server.answer = lambda _order: None
    link.hand_over(ActionOrder("d-1", "first"))
    server.heard(1)
    for action in ("second", "third", "fourth"):
        link.hand_over(ActionOrder("d-1", action))
    link.hand_over(ActionOrder("d-2", "other"))
    server.heard(2)
    server.answer = ok
    server.send(ok(server.orders[0]) + ok(server.orders[1]))
    assert [o["action"] for o in server.heard(3)] == ["first", "other", "fourth"]
    counted(link, "received", 3)
    assert link.status()["superseded"] == 2


def test_no_thread_is_started_for_an_action(link, server):
    link.hand_over(ActionOrder("d-1", "a0"))
    counted(link, "received")
    mine = {t.ident for t in threading.enumerate() if t.name == "actuator"}
    for n in range(1, 50):
        link.hand_over(ActionOrder("d-1", f"a{n}"))
        counted(link, "received", n + 1)
    assert {t.ident for t in threading.enumerate() if t.name == "actuator"} == mine


def test_an_absent_actuator_is_told_what_is_in_force_once_it_is_there(link, tmp_path):
    for action in ("first", "second"):
        link.hand_over(ActionOrder("d-1", action))
    counted(link, "failed", 2)
    assert "No such file" in link.status()["error"]
    server = SocketServer(tmp_path / "a.sock")
    assert [o["action"] for o in server.heard(1)] == ["second"]
    counted(link, "received")
    assert (link.status()["state"], link.status()["error"]) == ("connected", "")
    server.die()


def test_an_actuator_that_died_is_told_again_what_is_in_force(link, server, tmp_path):
    link.hand_over(ActionOrder("d-1", "go", arrived_ns=time.monotonic_ns()))
    link.hand_over(ActionOrder("d-2", "halt"))
    counted(link, "received", 2)
    server.die()
    counted(link, "failed")
    (tmp_path / "a.sock").unlink()
    again = SocketServer(tmp_path / "a.sock")
    again.heard(2)
    assert sorted(again.said("device", "action", "cause")) == [
        ("d-1", "go", "renewal"),
        ("d-2", "halt", "renewal"),
    ]
    counted(link, "received", 4)
    assert link.status()["receipt_ms"]["n"] == 1, "no sample led to a renewal"
    again.die()


def test_an_actuator_that_hangs_is_left_and_told_again(tmp_path):
    server = SocketServer(tmp_path / "h.sock", answer=lambda _order: None)
    subject = SocketActuator(str(tmp_path / "h.sock"), timeout_s=0.1, hold_s=None)
    subject.open()
    subject.hand_over(ActionOrder("d-1", "go"))
    counted(subject, "timed_out", 2)
    assert "no answer" in subject.status()["error"]
    server.answer = ok
    counted(subject, "received")
    assert set(server.said("action", "cause")) == {("go", "decision")}
    subject.close()
    server.die()


@pytest.mark.parametrize(
    "garbage",
    [b"nonsense\n", b"[]\n", b"\xff\xfe\n", b'{"ok": true}\n', b'{"id": true, "ok": true}\n',
     b'{"id": 1.5}\n', b"[" * 100_000 + b"\n", b"x" * 5000, b'{"id": ' + b"9" * 5000 + b"}\n"],
    ids=range(9),
)  # fmt: skip
def test_a_garbled_answer_ends_the_connection_and_the_order_is_given_again(link, server, garbage):
    server.answer = lambda _order: garbage
    link.hand_over(ActionOrder("d-1", "go"))
    counted(link, "garbled")
    server.answer = ok
    counted(link, "received")
    assert server.connections >= 2


def test_answers_in_pieces_and_several_in_one_are_taken(link, server):
    server.answer = lambda _order: None
    for name in ("d-1", "d-2", "d-3"):
        link.hand_over(ActionOrder(name, "go"))
    answers = b"".join(ok(order) for order in server.heard(3))
    for start in range(0, len(answers), 7):
        server.send(answers[start : start + 7])
    counted(link, "received", 3)


def test_an_actuator_that_comes_while_it_is_connected_to_replaced_nothing(tmp_path, monkeypatch):
    look, looks = socket_actuator._identity, count()
    monkeypatch.setattr(socket_actuator, "_identity", lambda path: look(path) if next(looks) else None)
    found = SocketServer(tmp_path / "a.sock")
    subject = SocketActuator(str(found.path), timeout_s=20.0, hold_s=None)
    subject.open()
    for number in range(1, 4):
        subject.hand_over(ActionOrder(f"d-{number}", "go"))
        counted(subject, "received", number)
    assert found.connections == 1
    subject.close()
    found.die()


def test_a_refused_order_is_counted_and_the_next_one_goes(link, server):
    server.answer = lambda order: (
        json.dumps({"id": order["id"], "ok": False, "error": "no such light"}).encode() + b"\n"
    )
    link.hand_over(ActionOrder("d-1", "go"))
    counted(link, "refused")
    assert "no such light" in link.status()["error"]
    server.answer = ok
    link.hand_over(ActionOrder("d-1", "halt"))
    counted(link, "received")
    assert server.connections == 1


def test_an_answer_to_an_order_that_is_not_unanswered_is_counted_and_harmless(link, server):
    server.answer = lambda order: ok(order) + ok(order) + ok({"id": 10**6})
    link.hand_over(ActionOrder("d-1", "go"))
    counted(link, "unexpected", 2)
    assert link.status()["received"] == 1


def test_an_actuator_that_takes_the_others_place_gets_the_orders(tmp_path):
    subject = SocketActuator(str(tmp_path / "a.sock"), timeout_s=0.4, hold_s=None)
    subject.open()
    first = SocketServer(tmp_path / "a.sock")
    subject.hand_over(ActionOrder("d-1", "go"))
    counted(subject, "received")
    (tmp_path / "a.sock").unlink()
    second = SocketServer(tmp_path / "a.sock")  # while the first one lives, and would still answer
    assert second.heard(1)[0]["action"] == "go"
    subject.hand_over(ActionOrder("d-1", "halt"))
    second.heard(2)
    assert first.said("action") == [("go",)]
    for each in (first, second):
        each.die()
    subject.close()


def test_a_socket_that_takes_no_more_holds_up_nobody_and_nothing_is_torn(link, tmp_path):
    server = SocketServer(tmp_path / "a.sock", reads=False)
    counted(link, "connected")
    names = [f"device-{n}" for n in range(4000)]  # half a megabyte: more than the socket takes
    for name in names:
        link.hand_over(ActionOrder(name, "go"))
    server.may_read.set()
    counted(link, "received", len(names))
    assert sorted(server.said("device")) == sorted((name,) for name in names)
    server.die()


# The file of actions, the end, the watchdog ---------------------------------------------------------------


def actions(folder: Path, text: str) -> Path:
    path = folder / "actions.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[actuator]", "one of socket and entry_point"),
        ("[actuator]\nsocket = '/a'\nentry_point = 'b'", "one of socket and entry_point"),
        ("[actuator]\nsocket = 'a.sock'", "absolute path"),
        (f"[actuator]\nsocket = '/{'a' * 107}'", "at most 107 bytes"),
        ("[actuator]\nsocket = '/a'\noptions = {pin = 3}", "options are for"),
        ("[actuator]\nsocket = '/a'\ntimeout_s = 0", "greater than 0"),
    ],
)
def test_a_malformed_actuator_is_refused(tmp_path, text, says):
    with pytest.raises(ProfileError, match=says):
        load_actions(actions(tmp_path, text))


def test_an_actuator_that_is_not_installed_is_refused_at_the_start(tmp_path):
    file = load_actions(actions(tmp_path, "[actuator]\nentry_point = 'absent'"))
    with pytest.raises(ProfileError, match="install one package"):
        ActionRunner(file)


def test_the_actuator_gets_every_action_beside_commands_with_numbers_and_is_renewed(tmp_path, server):
    out, now = tmp_path / "out", [0.0]
    script = f'printf "%s %s\\n" "$EDGELOOP_ACTION" "$EDGELOOP_NUMBER_GREEN_S" >> {out}'
    text = (
        f"hold_s = 9.0\n[actions]\ngreen = ['sh', '-c', '''{script}''']\n[actuator]\nsocket = '{server.path}'"
    )
    subject = ActionRunner(load_actions(actions(tmp_path, text)), lambda: now[0])
    subject.open()
    subject.start(ActionOrder("d-1", "green", 0.1, numbers={"green_s": 20.0}))
    server.heard(1)
    subject.start(ActionOrder("d-1", "none"))
    server.heard(2)
    now[0] = 4.0
    subject.renew()
    server.heard(3)
    wait_until(lambda: subject.totals().get("done") == 1, 30, "the command")
    assert server.said("action", "cause") == [
        ("green", "decision"),
        ("none", "decision"),
        ("none", "renewal"),
    ]
    assert out.read_text() == "green 20.0\n"
    assert subject.totals().get("recorded", 0) == 0
    assert subject.status()["actuator"]["received"] >= 2
    subject.close()


def fail_safe(folder: Path, path: Path, **more: float) -> FailSafe:
    keys = "".join(f"{key} = {value}\n" for key, value in more.items())
    text = f"hold_s = 0.3\n[actuator]\nsocket = '{path}'\n{keys}"
    runner = ActionRunner(load_actions(actions(folder, text)))
    return FailSafe(runner, ["d-1", "d-2"], "plan", folder, numbers={"split": 0.5})


def test_the_end_of_the_process_commands_the_actuator_and_waits_for_it(tmp_path, server):
    subject = fail_safe(tmp_path, server.path)
    subject.start()
    subject.end()
    told = server.said("device", "action", "cause")
    assert sorted(told) == [("d-1", "plan", "stop"), ("d-2", "plan", "stop")]
    assert server.orders[0]["numbers"] == {"split": 0.5}
    assert subject.watchdog_pid is None


def test_an_actuator_that_does_not_take_the_fail_safe_at_the_end_is_left_to_the_watchdog(tmp_path):
    server = SocketServer(
        tmp_path / "w.sock", answer=lambda order: ok(order) if order["cause"] == "watchdog" else None
    )
    subject = fail_safe(tmp_path, server.path, timeout_s=0.2)
    subject.start()
    subject.end()
    wait_until(lambda: "watchdog" in {c for (c,) in server.said("cause")}, 60, "the watchdog's order")
    server.die()


def test_the_watchdog_says_why_it_could_not_tell_an_actuator(tmp_path, server):
    line = '{"id":1,"device":"d-1"}\n'
    assert tell_actuator(str(server.path), line, 20.0).outcome == "done"
    server.answer = lambda order: (
        json.dumps({"id": order["id"], "ok": False, "error": "jammed"}).encode() + b"\n"
    )
    assert "jammed" in tell_actuator(str(server.path), line, 20.0).detail
    server.answer = lambda _order: b"nonsense\n"
    assert tell_actuator(str(server.path), line, 20.0).outcome == "failed"
    server.answer = lambda _order: None
    assert tell_actuator(str(server.path), line, 0.1).outcome == "timed_out"
    assert tell_actuator(str(tmp_path / "absent"), line, 0.1).outcome == "failed"


@pytest.mark.faults
def test_after_kill_9_the_watchdog_reaches_the_actuator(tmp_path, edge, server):
    text = f"hold_s = 1.0\n[actuator]\nsocket = '{server.path}'"
    actions(tmp_path, text)
    process = edge()
    wait_until(lambda: sensing(tmp_path) and server.orders, 90, "windows")
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: "watchdog" in {c for (c,) in server.said("cause")}, 60, "the watchdog's order")
    assert server.said("device", "action", "cause")[-1] == ("m-1", "slow_down", "watchdog")


# Code of a user -------------------------------------------------------------------------------------------

OWN = """
import os, threading, time
from pathlib import Path

told, opened, fault = [], [], []
release = threading.Event()


class Own:
    def __init__(self, request):
        self.out = request.options.get("out")
        opened.append(request)
        if "opening" in fault:
            raise OSError("no such port")

    def carry_out(self, order):
        if "raises" in fault:
            raise ValueError("jammed")
        if "exits" in fault:
            raise SystemExit(1)
        if "hangs" in fault:
            release.wait()
        told.append(order)
        if self.out:
            with open(self.out, "a") as log:
                log.write(f"{order.device_id} {order.action} {order.cause} {dict(order.numbers)}\\n")

    def close(self):
        told.append("closed")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An installed actuator of a user."""
    name = f"own_actuator_{next(MODULES)}"
    install(tmp_path, name, OWN, "Own", "own", group="edgeloop.actuators")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__(name)
    yield module
    module.release.set()
    del sys.modules[name]


def own_runner(folder: Path, timeout_s: float = 5.0) -> ActionRunner:
    keys = f"entry_point = 'own'\ntimeout_s = {timeout_s}\noptions = {{out = '{folder / 'out'}'}}"
    text = f"hold_s = 0.5\n[actuator]\n{keys}"
    subject = ActionRunner(load_actions(actions(folder, text)))
    subject.open()
    return subject


def test_an_actuator_of_a_user_is_called_in_a_thread_of_its_own(own, tmp_path):
    subject = own_runner(tmp_path)
    subject.start(ActionOrder("d-1", "go", numbers={"speed": 0.5}, arrived_ns=time.monotonic_ns()))
    counted(subject.actuator, "received")
    [order] = own.told
    assert (order.action, order.numbers) == ("go", {"speed": 0.5})
    assert subject.status()["actuator"]["receipt_ms"]["n"] == 1
    subject.close()
    wait_until(lambda: own.told[-1] == "closed", 30, "its end")


@pytest.mark.parametrize("fault", ["raises", "exits", "opening"])
def test_an_actuator_of_a_user_that_fails_is_opened_again_and_told_what_is_in_force(own, tmp_path, fault):
    own.fault.append(fault)
    subject = own_runner(tmp_path)
    for action in ("go", "halt"):
        subject.start(ActionOrder("d-1", action))
    counted(subject.actuator, "failed", 2)
    assert subject.status()["actuator"]["error"]
    own.fault.clear()
    counted(subject.actuator, "received")
    assert len(own.opened) >= 3
    assert next(o for o in own.told if o != "closed").action == "halt"
    subject.close()


def test_an_actuator_of_a_user_that_hangs_holds_up_nobody_and_gets_the_newest_after(own, tmp_path):
    own.fault.append("hangs")
    subject = own_runner(tmp_path, timeout_s=0.1)
    for action in ("first", "second", "third"):
        subject.start(ActionOrder("d-1", action))
        wait_until(lambda: own.opened, 30, "its opening")
    counted(subject.actuator, "timed_out")
    assert "has not returned" in subject.status()["actuator"]["error"]
    own.fault.clear()
    own.release.set()
    wait_until(lambda: own.told and own.told[-1].action == "third", 30, "the newest")
    subject.close()


def test_the_watchdog_reaches_an_actuator_of_a_user_in_a_process_of_its_own(own, tmp_path):
    own.fault.append("hangs")  # here; not in the process that the watchdog starts
    subject = FailSafe(own_runner(tmp_path, 0.2), ["d-1"], "plan", tmp_path, numbers={"split": 0.5})
    subject.start()
    subject.end()
    wait_until((tmp_path / "out").exists, 60, "the watchdog's order")
    assert (tmp_path / "out").read_text() == "d-1 plan watchdog {'split': 0.5}\n"


def test_a_check_says_whether_function_and_actuator_are_there(own, tmp_path, server):
    def found(text: str, profile: str = "machine") -> dict[str, str]:
        file = actions(tmp_path, text)
        given = EdgeSettings(
            state_dir=tmp_path,
            profile=profile,
            devices=("d-1",),
            bootstrap_servers="127.0.0.1:1",
            actions_file=file,
        )
        before_the_broker = takewhile(lambda f: not f.what.startswith("model service"), findings(given))
        return {f.what: f.problem for f in before_the_broker}

    assert found(f"[actuator]\nsocket = '{server.path}'")["actuator"] == ""
    assert "start the actuator" in found(f"[actuator]\nsocket = '{tmp_path / 'absent'}'")["actuator"]
    assert found("[actuator]\nentry_point = 'own'")["actuator"] == ""
    assert "install one package" in found("[actuator]\nentry_point = 'absent'")["file of actions"]
    assert "decision function" not in found("")
    named = tmp_path / "named.toml"
    named.write_text(PROFILE.replace("[decision]", '[decision]\nfunction = "absent"'))
    assert "install the package" in found("", str(named))["decision function"]


def test_nothing_of_an_actuator_raises_into_sensing(tmp_path, link):
    link.close()
    link.hand_over(ActionOrder("d-1", "go"))
    assert os.getpid()

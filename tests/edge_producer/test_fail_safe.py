"""Laws of the end of deciding: whatever ends it, the fail-safe is commanded, once, by somebody."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from edge_producer import fail_safe_watchdog
from edge_producer.acting.action_order import ActionOrder
from edge_producer.actions import ActionRunner, load_actions
from edge_producer.fail_safe import FailSafe
from edge_producer.fail_safe_watchdog import Vigil
from edge_producer.runner import Runner
from edge_producer.settings import EdgeSettings
from schemas.errors import SourceError, SpoolInUseError
from tests.edge_producer.spool_rig import FirstSample, GivenWindows, bench_profile, window
from tests.waiting import wait_until


def actions_file(folder, *names, hold_s=None, exit_code=0):
    """A file that maps each action to a command which writes down what it was told."""
    folder.mkdir(parents=True, exist_ok=True)
    script = (
        'printf "%s %s %s %s\\n" "$EDGELOOP_DEVICE_ID" "$EDGELOOP_ACTION" "$EDGELOOP_CAUSE" '
        f'"$EDGELOOP_HOLD_S" >> {folder / "commands"}; exit {exit_code}'
    )
    hold = "" if hold_s is None else f"hold_s = {hold_s}\n"
    lines = [f"{name} = ['sh', '-c', '''{script}''']" for name in names]
    path = folder / "actions.toml"
    path.write_text(f"{hold}[actions]\n" + "\n".join(lines))
    return path


def commands(folder):
    """(device, action, cause, hold) of each command that ran."""
    path = folder / "commands"
    return [tuple(line.split(" ")) for line in path.read_text().splitlines()] if path.exists() else []


def causes(folder, action):
    return [cause for _, name, cause, _ in commands(folder) if name == action]


class Breaking(GivenWindows):
    """A source that breaks after its windows."""

    def __init__(self, items, error):
        super().__init__(items)
        self._error = error

    def windows(self):
        yield from self._items
        raise self._error


class Confused(FirstSample):
    """A model that raises what no model may raise."""

    def score(self, device_id, samples):
        raise ZeroDivisionError


def settings(folder, **given):
    return EdgeSettings(
        state_dir=folder,
        profile="bench",
        devices=("d-1", "d-2"),
        bootstrap_servers="127.0.0.1:1",
        drain_timeout_s=0.1,
        stop_timeout_s=0.1,
        actions_file=actions_file(folder, "hold", "inspect", "none"),
        **{"pace": "flat_out", **given},
    )


def run(folder, source, stop=None, predictor=None):
    runner = Runner(settings(folder), bench_profile(), source, predictor or FirstSample())
    return runner.run(stop or threading.Event())


def both_were_told(folder):
    return sorted(c[:3] for c in commands(folder) if c[2] == "stop") == [
        ("d-1", "hold", "stop"),
        ("d-2", "hold", "stop"),
    ]


def test_the_fail_safe_is_commanded_when_the_source_ends(tmp_path):
    run(tmp_path, GivenWindows([window(0.1, 0)]))
    assert both_were_told(tmp_path)


@pytest.mark.parametrize("error", [SourceError("gone"), RuntimeError("a bug"), MemoryError()])
def test_the_fail_safe_is_commanded_when_the_source_breaks(tmp_path, error):
    with pytest.raises(type(error)):
        run(tmp_path, Breaking([window(0.1, 0)], error))
    assert both_were_told(tmp_path)


def test_the_fail_safe_is_commanded_when_the_process_is_stopped(tmp_path):
    stop = threading.Event()
    stop.set()
    run(tmp_path, GivenWindows([window(0.1, 0)]), stop)
    assert both_were_told(tmp_path)


def test_the_first_window_of_a_start_commands_its_action_whatever_was_in_force(tmp_path):
    for k in range(2):
        run(tmp_path, GivenWindows([window(0.1, 10 * k), window(0.1, 10 * k + 1)]))
    assert causes(tmp_path, "none") == ["decision", "decision"]


def test_a_failing_command_is_left_to_the_watchdog(tmp_path):
    file = load_actions(actions_file(tmp_path, "hold", hold_s=0.2, exit_code=1))
    subject = FailSafe(ActionRunner(file), ["d-1"], "hold", tmp_path)
    subject.start()
    assert subject.beat()
    subject.end()
    wait_until(lambda: "watchdog" in causes(tmp_path, "hold"), 30, "the watchdog's command")


def test_an_orderly_end_ends_the_watchdog_without_a_command(tmp_path):
    file = load_actions(actions_file(tmp_path, "hold", hold_s=0.2))
    subject = FailSafe(ActionRunner(file), ["d-1"], "hold", tmp_path)
    subject.start()
    pid = subject.watchdog_pid
    subject.end()
    wait_until(lambda: not alive(pid), 30, "the end of the watchdog")
    assert causes(tmp_path, "hold") == ["stop"]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_watchdog_that_died_is_replaced(tmp_path):
    file = load_actions(actions_file(tmp_path, "hold"))
    now = [0.0]
    subject = FailSafe(ActionRunner(file), ["d-1"], "hold", tmp_path, lambda: now[0])
    subject.start()
    first = subject.watchdog_pid

    def replaced():
        now[0] += 1.0
        subject.beat()
        return subject.watchdog_pid not in (first, None)

    try:
        os.kill(first, signal.SIGKILL)
        wait_until(replaced, 30, "another watchdog")
        assert subject.restarts == 1
    finally:
        subject.end()


def test_a_second_process_does_not_decide_beside_the_first(tmp_path):
    file = load_actions(actions_file(tmp_path, "hold"))
    first = FailSafe(ActionRunner(file), ["d-1"], "hold", tmp_path)
    first.start()
    clock = iter(range(0, 1000, 100))
    second = FailSafe(ActionRunner(file), ["d-1"], "hold", tmp_path, lambda: float(next(clock)))
    try:
        with pytest.raises(SpoolInUseError, match="in use"):
            second.start()
    finally:
        second.end()
        first.end()
    assert causes(tmp_path, "hold") == ["stop"]


def test_an_action_in_force_is_renewed_within_its_hold_and_says_how_long_it_holds(tmp_path):
    now = [0.0]
    subject = ActionRunner(load_actions(actions_file(tmp_path, "stop", "none", hold_s=9.0)), lambda: now[0])
    subject.start(ActionOrder("d-1", "stop", 0.9))
    for _ in range(6):
        now[0] += 1.0
        subject.renew()
        wait_until(lambda: not subject.totals().get("started", 0) - subject.totals().get("done", 0))
    assert [c[2] for c in commands(tmp_path)] == ["decision", "renewal", "renewal"]
    assert {c[3] for c in commands(tmp_path)} == {"9.0"}
    subject.start(ActionOrder("d-1", "other"))
    now[0] += 100.0
    subject.renew()
    assert subject.totals()["renewed"] == 2


def test_without_a_hold_a_command_runs_once(tmp_path):
    now = [0.0]
    subject = ActionRunner(load_actions(actions_file(tmp_path, "stop")), lambda: now[0])
    subject.start(ActionOrder("d-1", "stop", 0.9))
    now[0] += 1e6
    subject.renew()
    wait_until(lambda: subject.totals().get("done") == 1)
    assert commands(tmp_path) == [("d-1", "stop", "decision", "")]


def test_the_commands_are_due_when_the_heartbeat_stops_for_the_hold_and_not_before():
    vigil = Vigil(10.0, 0.0)
    vigil.beat(5.0)
    assert not vigil.due(14.9)
    assert vigil.due(15.0)
    vigil.commanded()
    assert not vigil.due(100.0)
    vigil.beat(101.0)  # it lives after all
    assert not vigil.due(110.9)
    assert vigil.due(111.0)


def test_a_watchdog_that_is_told_to_end_does_not_wait_for_the_hold_of_a_dead_process():
    vigil = Vigil(10.0, 0.0)
    vigil.end_at_once()
    assert not vigil.due(1.0)
    vigil.parent_died()
    assert vigil.due(1.0)
    vigil.commanded()
    assert vigil.over


def test_a_late_heartbeat_has_the_actions_commanded_again(tmp_path):
    now = [0.0]
    file = load_actions(actions_file(tmp_path, "hold", hold_s=10.0))
    subject = FailSafe(ActionRunner(file), ["d-1"], "other", tmp_path, lambda: now[0])
    subject.start()
    answers = []
    for now[0] in (1.0, 10.9, 21.0, 22.0):
        answers.append(subject.beat())
    subject.end()
    assert answers == [True, True, False, True]


# In real processes ---------------------------------------------------------------------------------------


def start_edge(folder, log, **extra):
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("EDGE_")},
        "EDGE_STATE_DIR": str(folder),
        "EDGE_PROFILE": "machine",
        "EDGE_DEVICES": "m-1",
        "EDGE_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "EDGE_SPEED": "5",
        "EDGE_STOP_TIMEOUT_S": "0.1",
        "EDGE_ACTIONS_FILE": str(folder / "actions.toml"),
        **extra,
    }
    command = [sys.executable, "-m", "edge_producer", "run"]
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def sensing(folder):
    path = folder / "status.json"
    return path.exists() and json.loads(path.read_text())["counters"].get("windows", 0) > 3


@pytest.fixture
def edge(tmp_path):
    """Starts real edge processes, and reaps them."""
    started = []
    with (tmp_path / "log").open("wb") as log:

        def start(**extra):
            started.append(start_edge(tmp_path, log, **extra))
            return started[-1]

        yield start
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()


def watchdog_of(folder):
    return json.loads((folder / "status.json").read_text())["watchdog"]["pid"]


@pytest.mark.faults
def test_after_kill_9_the_watchdog_commands_the_fail_safe(tmp_path, edge):
    actions_file(tmp_path, "slow_down", "none", hold_s=1.0)
    process = edge()
    wait_until(lambda: sensing(tmp_path), 60, "windows")
    assert causes(tmp_path, "slow_down") == []
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: causes(tmp_path, "slow_down"), 30, "the watchdog's command")
    wait_until(lambda: not alive(watchdog_of(tmp_path)), 30, "the end of the watchdog")
    assert causes(tmp_path, "slow_down") == ["watchdog"]


@pytest.mark.faults
def test_a_process_that_is_back_within_the_hold_goes_on_and_no_fail_safe_is_commanded(tmp_path, edge):
    actions_file(tmp_path, "slow_down", "none", hold_s=40.0)
    first = edge()
    wait_until(lambda: sensing(tmp_path), 60, "windows")
    orphan = watchdog_of(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    (tmp_path / "status.json").unlink()
    edge()
    wait_until(lambda: sensing(tmp_path), 60, "windows of the second process")
    os.kill(orphan, signal.SIGTERM)  # it need not wait any longer: it must see that another process decides
    wait_until(lambda: not alive(orphan), 30, "the end of the first watchdog")
    assert causes(tmp_path, "slow_down") == []


@pytest.mark.faults
def test_a_process_that_hangs_is_made_safe_and_decides_again_when_it_goes_on(tmp_path, edge):
    actions_file(tmp_path, "slow_down", "none", hold_s=1.0)
    process = edge()
    wait_until(lambda: sensing(tmp_path), 60, "windows")
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: causes(tmp_path, "slow_down") == ["watchdog"], 30, "the watchdog's command")
    before = causes(tmp_path, "none").count("decision")
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: causes(tmp_path, "none").count("decision") > before, 30, "its own command")
    assert process.poll() is None


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_commands_the_fail_safe_and_the_exit_is_clean(tmp_path, edge, number):
    actions_file(tmp_path, "slow_down", hold_s=1.0)
    process = edge()
    wait_until(lambda: sensing(tmp_path), 60, "windows")
    process.send_signal(number)
    assert process.wait(60) == 0, (tmp_path / "log").read_text()
    assert causes(tmp_path, "slow_down") == ["stop"]


@pytest.mark.faults
def test_a_start_that_fails_commands_the_fail_safe_too(tmp_path, edge):
    actions_file(tmp_path, "slow_down")
    assert edge(EDGE_SOURCE="replay", EDGE_RECORDING=str(tmp_path / "absent.csv")).wait(60) == 1
    assert causes(tmp_path, "slow_down") == ["stop"]


def test_the_watchdog_needs_nothing_but_the_standard_library():
    program = "import runpy, sys; runpy.run_path(sys.argv[1]); print(sorted(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, fail_safe_watchdog.__file__],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"edge_producer", "schemas", "numpy", "pyarrow"} & set(eval(result.stdout))

"""Laws of the real-time class: who runs in it, for how long, and what is said where it is not permitted."""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from edge_producer.edge_status import acting_lines
from edge_producer.process_parts import ProcessParts, make_fail_safe
from edge_producer.realtime_class import REALTIME, RealtimeClass
from edge_producer.runner import Runner
from edge_producer.settings import EdgeSettings
from edge_producer.status_file import read_status
from tests.edge_producer.source_rigs import Given, live, profile, settings
from tests.edge_producer.spool_rig import FirstSample
from tests.waiting import wait_until

NOBODY = 65534
permitted = pytest.mark.skipif(
    os.geteuid() != 0 and resource.getrlimit(resource.RLIMIT_RTPRIO)[0] < 1, reason="the system permits none"
)


@pytest.fixture(autouse=True)
def _nobody_asks_afterwards() -> Iterator[None]:
    yield
    REALTIME.ask(None)


def policy(thread: int = 0) -> int:
    """Of one thread, without flags."""
    return os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK


@permitted
def test_a_thread_is_in_it_for_as_long_as_it_says_and_what_it_starts_is_not():
    realtime = RealtimeClass()
    with realtime.decides():
        assert policy() == os.SCHED_OTHER, "nobody has asked"
    realtime.ask(3)
    started: list[int] = []
    below: list[os.sched_param] = []
    with realtime.decides():
        assert (policy(), os.sched_getparam(0).sched_priority) == (os.SCHED_FIFO, 3)
        thread = threading.Thread(target=lambda: started.append(policy()))
        thread.start()
        thread.join()
        show = "import os; print(os.sched_getscheduler(0))"
        started.append(int(subprocess.check_output([sys.executable, "-c", show])))
        joins = threading.Thread(target=lambda: (realtime.join(), below.append(os.sched_getparam(0))))
        joins.start()
        joins.join()
    assert below[0].sched_priority == 2
    assert policy() == os.SCHED_OTHER
    assert started == [os.SCHED_OTHER] * 2


def refused(answers) -> None:
    """What a user without permission gets."""
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
    if os.geteuid() == 0:
        os.setuid(NOBODY)
    realtime = RealtimeClass()
    realtime.ask(3)
    with realtime.decides():
        answers.put((policy(), realtime.status(), list(acting_lines(realtime.status()))))


def left_without_permission(answers) -> None:
    """As a user whom a limit permits to enter it: the system does not let such a one take back the flag."""
    realtime = RealtimeClass()
    realtime.ask(3)
    with realtime.decides():
        inside = policy()
        os.setuid(NOBODY)
    answers.put((inside, policy()))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give its permission away")
def test_who_has_no_more_than_permission_to_enter_leaves_without_an_error():
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    child = context.Process(target=left_without_permission, args=(answers,))
    child.start()
    assert answers.get(timeout=60) == (os.SCHED_FIFO, os.SCHED_OTHER)
    child.join(60)


def test_where_it_is_not_permitted_the_thread_goes_on_and_the_status_says_so():
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    child = context.Process(target=refused, args=(answers,))
    child.start()
    in_force, status, lines = answers.get(timeout=60)
    child.join(60)
    assert in_force == os.SCHED_OTHER
    assert (status["realtime"]["priority"], "PermissionError" in status["realtime"]["error"]) == (3, True)
    assert lines[0].startswith("real-time class: priority 3, not permitted: PermissionError")


@permitted
def test_source_decision_and_actuator_are_in_it_and_writer_and_commands_are_not(tmp_path):
    used = profile(sampling={"rate_hz": 200.0}, source={"time_field": ""})
    file = tmp_path / "actions.toml"
    file.write_text(f"[actuator]\nsocket = '{tmp_path / 'nobody'}'\n")
    stop, hold = threading.Event(), threading.Event()
    made = settings(tmp_path, realtime_priority=2, actions_file=file)
    source = live(lambda: Given(used, iter([(0, 20, 1), (1, 20, 1), hold])), used)
    fail_safe = make_fail_safe(made, used)
    fail_safe.start()  # as the program does, before anything else
    runner = Runner(made, used, source, FirstSample(width=1), parts=ProcessParts(fail_safe=fail_safe))
    deciding = threading.Thread(target=runner.run, args=(stop,), name="deciding")
    deciding.start()

    def in_class() -> set[str]:
        ids = {t.name: t.native_id for t in threading.enumerate() if t.native_id}
        return {n for n in ("source", "deciding", "actuator", "writer") if n in ids and policy(ids[n])}

    wait_until(lambda: in_class() == {"source", "deciding", "actuator"}, what="the three threads")
    wait_until(lambda: (read_status(tmp_path / "status.json") or {}).get("realtime"), what="the status")
    assert read_status(tmp_path / "status.json")["realtime"] == {"priority": 2, "error": ""}
    stop.set()
    hold.set()
    deciding.join(30)
    assert not deciding.is_alive()


def test_a_priority_is_refused_for_what_never_rests_and_beyond_what_there_is(tmp_path):
    given = {"state_dir": tmp_path, "profile": "machine", "devices": ("m-1",)}
    with pytest.raises(ValueError, match="leave realtime_priority out"):
        EdgeSettings(**given, pace="flat_out", realtime_priority=2)
    for beyond in (1, 100):
        with pytest.raises(ValueError, match="realtime_priority"):
            EdgeSettings(**given, realtime_priority=beyond)

"""Laws of one device's agent at a real small service, on a clock that only the test moves.

``Clock`` is that clock; ``AgentRig`` is an agent with its device and its folder, driven step by step.
``service.calls`` counts what was asked of the service, answered or not. It hints only on request of a test.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path

import grpc
import pytest

from edge_producer.device import Device, Host
from edge_producer.device_identity import load_or_create
from edge_producer.metering import Meters
from edge_producer.updates.agent import RENEW_EVERY, UpdateAgent
from edge_producer.updates.resources import UpdaterResources
from edge_producer.updates.schedule import DENIED_S, LONGEST_S, OFFLINE_S, SHORTEST_S
from edge_producer.updates.service_access import UpdaterOptions
from edge_producer.updates.slots import ModelSlots
from edge_producer.updates.update_once import synthetic_windows
from edge_producer.updates.updater import BUILD_TIME
from schemas.durable import Disk
from tests.edge_producer.updater_rig import quick_machine
from tests.simulators.update_service import UpdateService, candidate
from tests.waiting import wait_until

POLL_S = 60.0
WEEK_S = 7 * 86_400.0


class Clock:
    """Steady seconds that stand still until a test moves them."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def move(self, by_s: float) -> None:
        self.now_s += by_s


class CountedAgent(UpdateAgent):
    """Counts how often it is woken: a hint that has arrived shows in nothing else."""

    wakes = 0

    def wake(self) -> None:
        self.wakes += 1
        super().wake()


class AgentRig:
    """An agent, its clock, and the device that it updates."""

    def __init__(self, folder: Path, **rollout: object) -> None:
        profile, disk, own = quick_machine(**rollout), Disk(), folder / "updates" / "m-1"
        self.offline = False
        self.clock = Clock()
        self.options = UpdaterOptions(own, folder / "join", POLL_S, lambda: self.offline, BUILD_TIME, disk)
        own.mkdir(parents=True)
        identity = load_or_create(folder / "keys", "m-1")
        slots = ModelSlots(own, profile, disk)
        self.agent = CountedAgent(identity, self.options, UpdaterResources.of(profile), slots, self.clock)
        host = Host(lambda *_: None, Meters(profile), self.clock)
        self.device = Device(identity, profile, self.agent.switch, host)
        self.windows = synthetic_windows(profile, "m-1")

    def steps(self, times: int = 20) -> None:
        for _ in range(times):
            self.agent.step()

    def sensed(self) -> None:
        self.device.process(next(self.windows))
        self.agent.step()

    def drive(self, until: Callable[[], object], what: str) -> None:
        """Windows and steps, in turn; the clock stands still."""

        def turn() -> object:
            self.sensed()
            return until()

        wait_until(turn, what=what)

    def hinted(self, hint: Callable[[], object]) -> None:
        """Wait until the agent has been woken by a hint."""
        before = self.agent.wakes
        hint()
        wait_until(lambda: self.agent.wakes > before, what="a hint")

    @property
    def state(self) -> str:
        return self.agent.installer.record.state

    @property
    def version(self) -> str:
        return self.agent.switch.models.active.version


@pytest.fixture
def service(tmp_path):
    with UpdateService(tmp_path) as running:
        running.hints_at_once = False
        running.join(tmp_path / "join", "m-1")
        yield running


@pytest.fixture
def start(tmp_path):
    made: list[AgentRig] = []

    def starting(**rollout: object) -> AgentRig:
        made.append(AgentRig(tmp_path, **rollout))
        return made[-1]

    yield starting
    for rig in made:
        rig.agent.close()


@pytest.fixture
def rig(service, start):
    return start()


def checks(service) -> int:
    return service.calls["FetchMetadata"]


def test_a_poll_is_one_check_and_a_clock_that_stands_still_gives_no_second(rig, service):
    rig.steps()
    assert (checks(service), rig.agent.checked.is_set()) == (1, True)
    rig.clock.move(1.5 * POLL_S)
    rig.steps()
    assert checks(service) == 2
    rig.clock.move(0.49 * POLL_S)
    rig.steps()
    assert checks(service) == 2


def test_a_clock_that_jumps_a_week_ahead_gives_one_check_a_jump(rig, service):
    rig.steps()
    for jump in range(3):
        rig.clock.move(WEEK_S)
        rig.steps()
        assert checks(service) == 2 + jump


def test_a_hint_is_checked_a_second_after_the_last_check_and_once(rig, service):
    rig.steps()
    wait_until(lambda: service._watchers, what="the device to watch")
    rig.hinted(service.hint)
    rig.steps()
    assert checks(service) == 1, "too soon after the last one"
    rig.clock.move(SHORTEST_S)
    rig.steps()
    assert checks(service) == 2


def check_again(rig: AgentRig, service) -> None:
    """Steps until one more check has been made."""
    before = checks(service)
    wait_until(lambda: rig.agent.step() or checks(service) > before, what="a check")


def test_a_flood_of_hints_is_one_check_a_second_of_the_clock(service, start):
    service.false_hints = count(1)
    rig = start()
    rig.steps()
    for found in range(2, 6):
        rig.clock.move(SHORTEST_S)
        rig.hinted(lambda: check_again(rig, service))
        rig.steps()
        assert checks(service) == found


def test_a_service_that_is_away_is_asked_ever_more_rarely_and_found_within_a_minute(rig, service):
    service.down = True
    asked_at = []
    for _ in range(600):
        before = service.calls.total()
        rig.agent.step()
        if service.calls.total() > before:
            asked_at.append(rig.clock())
        rig.clock.move(1.0)
    apart = [late - early for early, late in pairwise(asked_at)]
    assert apart[0] <= 2.0
    assert max(apart) <= LONGEST_S + 1.0
    assert min(apart[6:]) >= LONGEST_S / 2
    assert rig.agent.blocked
    service.down = False
    rig.clock.move(LONGEST_S)
    rig.agent.step()
    assert (rig.agent.checked.is_set(), rig.agent.last_error, rig.agent.blocked) == (True, "", False)


def test_an_answer_has_the_next_failure_tried_again_soon(rig, service):
    for down in (True, True, True, True, True, False, True):
        service.down = down
        rig.clock.move(1.5 * POLL_S)
        rig.agent.step()
    assert not rig.agent.blocked, "one failure"
    service.down = False
    rig.clock.move(1.0)
    rig.agent.step()
    assert rig.agent.last_error == ""


def test_every_fourth_visit_that_fails_asks_for_a_new_certificate(rig, service):
    rig.agent.step()
    service.unknown.add("m-1")
    for failed in range(1, 2 * RENEW_EVERY + 1):
        rig.clock.move(1.5 * POLL_S)
        rig.agent.step()
        assert len(service.renewed) == failed // RENEW_EVERY


def test_a_device_that_is_denied_asks_once_a_minute(rig, service):
    service.tokens.clear()
    for minute in range(1, 4):
        rig.steps()
        assert (service.calls["Enroll"], rig.agent.blocked) == (minute, True)
        rig.clock.move(0.99 * DENIED_S)
        rig.steps()
        assert service.calls["Enroll"] == minute
        rig.clock.move(0.01 * DENIED_S)


def test_a_service_that_takes_no_reports_is_offered_them_rarely_and_checked_as_ever(rig, service):
    service.refuses_reports = grpc.StatusCode.PERMISSION_DENIED
    rig.steps()
    assert (checks(service), service.calls["Report"]) == (1, 1)
    wait_until(lambda: service._watchers, what="the device to watch")
    rig.hinted(service.hint)
    rig.clock.move(SHORTEST_S)
    rig.steps()
    assert (checks(service), service.calls["Report"]) == (2, 1)
    service.refuses_reports = None
    rig.clock.move(DENIED_S)
    rig.steps()
    assert rig.agent.status["unreported"] == 0


def test_flight_mode_asks_nothing_and_its_end_is_noticed_half_a_second_later(rig, service):
    rig.offline = True
    rig.steps()
    rig.clock.move(WEEK_S)
    rig.steps()
    assert (service.calls.total(), rig.agent.last_error) == (0, "flight mode is on")
    rig.offline = False
    rig.steps()
    assert service.calls.total() == 0
    rig.clock.move(OFFLINE_S)
    rig.steps()
    assert (checks(service), rig.agent.last_error) == (1, "")


def test_a_download_that_broke_is_taken_up_when_its_wait_is_over_and_not_at_the_next_poll(rig, service):
    service.break_after = 0
    service.instruct(service.sign(candidate(1)))
    rig.steps()
    assert (len(service.offsets), service.results("m-1")) == (1, ["no_change_failed"])
    rig.clock.move(0.45)
    rig.steps()
    assert len(service.offsets) == 1
    rig.clock.move(1.0)
    rig.steps()
    assert (checks(service), len(service.offsets)) == (2, 2)


def test_the_end_of_an_attempt_has_the_service_checked_although_the_clock_stands_still(rig, service):
    release = service.sign(candidate(1))
    service.instruct(release)
    rig.drive(lambda: rig.state == "watch", "the watch")
    before = checks(service)
    rig.drive(lambda: rig.state == "idle", "its end")
    assert (rig.version, checks(service)) == (release.version, before + 1)


def test_a_set_that_waits_for_a_watch_to_end_does_not_have_the_service_asked_again_and_again(service, start):
    """It had failed before and could be tried again: each check made another one due at once."""
    rig = start(watch_windows=10_000)
    service.break_after = 0
    broken = service.sign(candidate(1))
    service.instruct(broken)
    rig.steps()
    service.break_after = None
    service.instruct(service.sign(candidate(2)))
    rig.clock.move(1.5 * POLL_S)
    rig.drive(lambda: rig.state == "watch", "the watch")
    service.instruct(broken)
    rig.clock.move(1.5 * POLL_S)
    rig.steps()
    before = checks(service)
    for _ in range(100):
        rig.clock.move(0.1)
        rig.agent.step()
    assert rig.state == "watch"
    assert checks(service) <= before + 1, "a hint may have come late"


def test_an_error_nobody_foresaw_is_logged_and_the_updater_goes_on(tmp_path, service, start, caplog):
    rig, stop = start(), threading.Event()
    asked = []

    def unforeseen() -> bool:
        asked.append(rig.clock())
        if len(asked) == 1:
            raise ZeroDivisionError("nobody foresaw it")
        return False

    options = replace(rig.options, folder=tmp_path / "updates" / "again", offline=unforeseen)
    options.folder.mkdir()
    profile = quick_machine()
    identity = load_or_create(tmp_path / "keys", "m-1")
    agent = UpdateAgent(
        identity,
        options,
        UpdaterResources.of(profile),
        ModelSlots(options.folder, profile, Disk()),
        rig.clock,
    )
    thread = threading.Thread(target=agent.run, args=(stop,))
    with caplog.at_level(logging.ERROR):
        thread.start()
        wait_until(lambda: "unexpected error in the updater; retrying" in caplog.text, what="the log line")
    rig.clock.move(1.0)
    agent.wake()
    wait_until(agent.checked.is_set, what="a check")
    stop.set()
    agent.wake()
    thread.join(10.0)
    assert not thread.is_alive()

"""The sensing loop takes another version over between two windows, and loses nothing that it has sensed.

The rig: a real runner without a broker on `GivenWindows`; `GivenProfiles` stands for the updaters, and the
source tells it versions between windows.
"""

import sqlite3
import threading

import pytest

from edge_producer.config_switch import ConfigSwitch
from edge_producer.model_switch import ActiveModels, ModelSwitch
from edge_producer.profile_switch import ProfileSwitch, RunningProfile
from edge_producer.runner import Runner
from edge_producer.settings import EdgeSettings
from edge_producer.spool.boot_terms import terms_in
from schemas.profile_versions import ProfileVersion
from tests.edge_producer.spool_rig import FirstSample, GivenWindows, bench_profile, window

FILE = bench_profile(p=1.0, pretrigger=3)
ONE, TWO = ProfileVersion(1, FILE), ProfileVersion(2, bench_profile(p=0.4, p_min=0.4, thinning_floor=0.25))
DEVICES = ("d-1", "d-2")


class GivenProfiles:
    """What updaters are to a runner: models and versions, and no network."""

    gateway_status = desk = None

    def __init__(self, own=None):
        self.profiles = ProfileSwitch(RunningProfile(FILE), own)
        self.configs = ConfigSwitch()
        self.switches = {name: ModelSwitch(ActiveModels(FirstSample())) for name in DEVICES}

    def start(self):
        pass

    stop = start

    def status(self):
        return {}

    def has_joined(self, _device_id):
        return True


class Told(GivenWindows):
    """Windows of both devices; after some of them devices are told a version."""

    def __init__(self, profiles, told, count=30):
        super().__init__(())
        self._profiles, self._told, self._count = profiles, told, count

    def windows(self):
        for k in range(self._count):
            for device, version in self._told.get(k, ()):
                self._profiles.tell(device, version)
            for device in DEVICES:
                yield window(0.1, k, device)


def run(folder, updaters, told, count=30):
    """Windows and terms of each boot, by device."""
    settings = EdgeSettings(
        state_dir=folder, profile="bench", devices=DEVICES, bootstrap_servers="127.0.0.1:1",
        drain_timeout_s=0.1, stop_timeout_s=0.1, pace="flat_out",
    )  # fmt: skip
    source = Told(updaters.profiles, told, count)
    result = Runner(settings, FILE, source, None, updater=updaters).run(threading.Event())
    assert {name: (b.sensed, b.evicted) for name, b in result.books.items()} == dict.fromkeys(
        DEVICES, (count, 0)
    )
    with sqlite3.connect(settings.spool_path) as spool:
        terms = terms_in(spool.execute("SELECT key, value FROM meta"))
        query = (
            "SELECT device_id, books.boot_id, sum(sensed) FROM books JOIN devices ON no = device"
            " GROUP BY 1, 2 ORDER BY min(books.id)"
        )
        found = {name: [] for name in DEVICES}
        for name, boot_id, sensed in spool.execute(query):
            version = terms[boot_id].version
            found[name].append((0 if version is None else version.number, sensed))
    return found


def test_every_window_is_counted_once_by_the_boot_that_sensed_it(tmp_path):
    told = {10: [("d-1", ONE), ("d-2", ONE)], 20: [("d-1", TWO)]}
    found = run(tmp_path, GivenProfiles(), told)
    assert found == {"d-1": [(0, 10), (1, 10), (2, 10)], "d-2": [(0, 10), (1, 20)]}


def test_what_a_process_was_told_before_its_start_is_what_it_begins_with(tmp_path):
    updaters = GivenProfiles({"d-1": RunningProfile(TWO.profile, 2)})
    assert run(tmp_path, updaters, {}) == {"d-1": [(2, 30)], "d-2": [(0, 30)]}
    assert updaters.profiles.process.number == 2


def test_a_version_that_no_boot_can_begin_under_stops_nothing(tmp_path):
    broken = ProfileVersion(3, FILE.model_copy(update={"filter": None}))
    updaters = GivenProfiles()
    found = run(tmp_path, updaters, {10: [("d-1", broken)]})
    assert found == {"d-1": [(0, 30)], "d-2": [(0, 30)]}
    assert "NoneType" in updaters.profiles.problem("d-1")
    assert updaters.profiles.wanted == {}


def test_a_version_whose_decision_function_is_not_installed_is_not_begun_and_says_what_to_install(tmp_path):
    decision = FILE.decision.model_copy(update={"function": "absent"})
    updaters = GivenProfiles()
    wanting = ProfileVersion(3, FILE.model_copy(update={"decision": decision}))
    assert run(tmp_path, updaters, {10: [("d-1", wanting)]}) == {"d-1": [(0, 30)], "d-2": [(0, 30)]}
    assert "install the package" in updaters.profiles.problem("d-1")


@pytest.mark.parametrize(
    ("changes", "later"),
    [({"decision": {"fail_safe": "stop"}}, ("decision.fail_safe",)), ({"filter": {"p": 0.7}}, ())],
)
def test_what_is_read_once_at_a_start_is_named(changes, later):
    [(section, values)] = changes.items()
    part = getattr(FILE, section).model_copy(update=values)
    switch = ProfileSwitch(RunningProfile(FILE))
    switch.taken_over("d-1", RunningProfile(FILE.model_copy(update={section: part}), 2))
    assert switch.later("d-1") == later

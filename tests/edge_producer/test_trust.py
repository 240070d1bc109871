"""Trusted time, and what a device keeps, whatever happens to it or to its service."""

import shutil
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_producer.trust import SERVER, TrustedTime, decide
from model_service.trust import ceremony
from schemas.channel_documents import Release
from schemas.durable import Disk
from schemas.errors import TrustError
from schemas.updates import Attack
from tests.simulators.tuf_repository import (
    BUILD,
    FACTORY,
    FAMILY,
    OTHER_DEVICE,
    START,
    Clock,
    Cloud,
    Device,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cloud(tmp_path: Path, clock: Clock) -> Cloud:
    return Cloud(tmp_path, clock)


class Killed(BaseException):
    """Nothing of ours may catch it: it stands for SIGKILL."""


class KilledDisk(Disk):
    """Its device is killed at a write: with half of it beside the name, or right after it is named."""

    def __init__(self, after: int, *, named: bool) -> None:
        self.left, self.named, self.dead = after, named, False

    def rename(self, source: Path, target: Path, *, sync: bool = True) -> None:
        self.dead = self.left == 0
        self.left -= 1
        if self.dead and not self.named:
            source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
            raise Killed
        super().rename(source, target, sync=sync)
        if self.dead:
            raise Killed

    def remove(self, path: Path) -> None:
        if self.dead:
            raise Killed
        super().remove(path)


# time


def test_trusted_time_starts_at_the_build_and_follows_the_monotonic_clock(tmp_path: Path, clock: Clock):
    time = TrustedTime(tmp_path / "time.json", BUILD, clock.monotonic)
    clock.advance(hours=3)
    assert time.now() == BUILD + timedelta(hours=3)


def test_trusted_time_never_goes_back_behind_what_was_verified(tmp_path: Path, clock: Clock):
    time = TrustedTime(tmp_path / "time.json", BUILD, clock.monotonic)
    time.learn(START, "timestamp")
    time.learn(BUILD - timedelta(days=20_000), SERVER)
    assert time.now() == START


def test_what_was_learnt_survives_a_restart_and_a_newer_build_wins(tmp_path: Path, clock: Clock):
    TrustedTime(tmp_path / "time.json", BUILD, clock.monotonic).learn(START, "timestamp")
    assert TrustedTime(tmp_path / "time.json", BUILD, clock.monotonic).now() == START
    newer = START + timedelta(days=30)
    assert TrustedTime(tmp_path / "time.json", newer, clock.monotonic).now() == newer


@pytest.mark.parametrize("damage", [b"", b"{", b'{"verified": 5, "told": null}', b'{"verified": "x"}'])
def test_a_damaged_time_file_falls_back_to_the_build_time(tmp_path: Path, clock: Clock, damage: bytes):
    (tmp_path / "time.json").write_bytes(damage)
    assert TrustedTime(tmp_path / "time.json", BUILD, clock.monotonic).now() == BUILD


def test_a_lie_about_the_time_lasts_until_the_next_honest_answer(tmp_path: Path, cloud: Cloud, clock: Clock):
    device = Device(tmp_path / "device", cloud)
    device.poll()
    device.time.learn(START + timedelta(days=36_500), SERVER)
    with pytest.raises(TrustError) as caught:
        device.poll()
    assert caught.value.attack is Attack.FREEZE
    clock.advance(hours=13)
    cloud.canary(1, FACTORY)
    device.time.learn(clock(), SERVER)  # an honest service again, and a timestamp issued after the lie
    assert device.poll().channel is not None


def test_what_a_service_told_counts_until_it_tells_otherwise_and_survives_a_restart(
    tmp_path: Path, clock: Clock
):
    time = TrustedTime(tmp_path / "time.json", BUILD, clock.monotonic)
    time.learn(datetime.max.replace(tzinfo=UTC), SERVER)
    assert time.now().year == 9000
    for lie_or_truth in (START + timedelta(days=36_500), START + timedelta(hours=3)):
        time.learn(lie_or_truth, SERVER)
        assert time.now() == lie_or_truth
    clock.advance(hours=1)
    again = TrustedTime(tmp_path / "time.json", BUILD, clock.monotonic)
    assert again.now() == START + timedelta(hours=3)  # it was off meanwhile, as far as it knows
    again.learn(START - timedelta(days=9), SERVER)
    assert again.now() == START - timedelta(days=9)


def test_issue_times_move_trusted_time_but_not_past_the_roots_expiry(
    tmp_path: Path, cloud: Cloud, clock: Clock
):
    device = Device(tmp_path / "device", cloud)
    device.poll()
    assert device.time.now() == START
    clock.at = START + timedelta(days=20_000)  # a stolen timestamp key dates ahead
    cloud.online.renew_if_due(cloud.repo, clock())
    clock.at = START
    with pytest.raises(TrustError):
        device.poll()
    assert device.time.now() <= START + timedelta(days=366)


@pytest.mark.parametrize("wall", ["1970-01-01 00:00:00", "2126-01-01 00:00:00"])
def test_the_raw_clock_is_never_asked(tmp_path: Path, cloud: Cloud, wall: str):
    # the device's only clock is its monotonic one: here it starts wherever that wall clock stands
    origin = float(wall[:4]) * 3.15e7
    device = Device(tmp_path / "device", cloud)
    device.time = TrustedTime(tmp_path / "other.json", BUILD, lambda: origin)
    cloud.canary(1, cloud.publish_model(1))
    assert device.poll().changes == (FAMILY,)


# keeping and asking


def test_a_check_that_finds_nothing_new_costs_one_small_file(tmp_path: Path, cloud: Cloud):
    cloud.canary(1, cloud.publish_model(1))
    device = Device(tmp_path / "device", cloud)
    device.poll()
    metadata, documents = cloud.reply(device.verifier)
    assert [name for name, _ in metadata] == ["timestamp.json"]
    assert len(metadata[0][1]) < 600
    assert documents == []


def test_a_device_decides_again_without_a_network_until_something_expires(
    tmp_path: Path, cloud: Cloud, clock: Clock
):
    cloud.canary(1, cloud.publish_model(1))
    device = Device(tmp_path / "device", cloud)
    device.poll()
    again = device.restarted()
    assert decide(again.verifier.apply((), ()), again.facts(), again.time.now()).changes == ()
    clock.advance(days=2)
    with pytest.raises(TrustError) as caught:
        again.verifier.apply((), ())
    assert caught.value.attack is Attack.FREEZE
    assert again.installed == device.installed


def test_a_device_that_slept_through_many_roots_and_keys_follows_in_one_answer(tmp_path: Path, cloud: Cloud):
    device = Device(tmp_path / "device", cloud)
    device.poll()
    for _ in range(3):
        for role, holder in [
            ("root", "root-1"),
            ("root", "root-2"),
            ("timestamp", "engine"),
            ("snapshot", "engine"),
        ]:
            ceremony.rotate(cloud.settings, role, holder, now=cloud.clock)
    for role, holder in [("targets", "targets-3"), ("channels-canary", "engine"), ("models-machine", "gate")]:
        ceremony.rotate(cloud.settings, role, holder, now=cloud.clock)
    cloud.canary(1, cloud.publish_model(1))
    assert device.poll().changes == (FAMILY,)
    assert device.verifier.versions()["root"] == 14
    assert device.restarted().verifier.apply((), ()).channels


def test_a_device_accepts_no_root_that_its_own_root_did_not_sign(tmp_path: Path, cloud: Cloud, clock: Clock):
    device = Device(tmp_path / "device", cloud)
    device.poll()
    foreign = Cloud(tmp_path / "foreign", clock)
    ceremony.rotate(foreign.settings, "root", "root-1", now=clock)
    with pytest.raises(TrustError) as caught:
        device.poll(foreign.everything())
    assert caught.value.attack is Attack.TAMPERED_METADATA


@pytest.mark.parametrize(
    "name", ["snapshot.json", "targets.json", "channels-canary.json", "timestamp.json", "root.json"]
)
def test_a_file_damaged_on_disk_comes_back_with_a_later_answer(tmp_path: Path, cloud: Cloud, name: str):
    cloud.canary(1, cloud.publish_model(1))
    device = Device(tmp_path / "device", cloud)
    device.poll()
    file = tmp_path / "device" / "metadata" / name
    file.write_bytes(file.read_bytes().replace(b'"sig":"', b'"sig":"00'))
    again = device.restarted()
    for _ in range(2):  # the first answer may lack what the versions on disk seemed to say
        with suppress(TrustError):
            again.poll()
    assert again.poll().channel is not None


def test_an_emptied_folder_starts_from_the_built_in_root(tmp_path: Path, cloud: Cloud):
    device = Device(tmp_path / "device", cloud)
    device.poll()
    shutil.rmtree(tmp_path / "device" / "metadata")
    assert device.restarted().poll().channel is None


@pytest.mark.parametrize("named", [False, True])
def test_a_kill_at_any_write_leaves_a_folder_that_goes_on(tmp_path: Path, cloud: Cloud, named: bool):
    cloud.canary(1, cloud.publish_model(1))
    first = Device(tmp_path / "device", cloud)
    first.poll()
    ceremony.rotate(cloud.settings, "root", "root-1", now=cloud.clock)
    ceremony.rotate(cloud.settings, "timestamp", "engine", now=cloud.clock)
    newest = cloud.canary(2, cloud.publish_model(2))
    cloud.broad(3, FACTORY)
    points = 0
    while True:
        folder = tmp_path / f"killed-{points}"
        shutil.copytree(first.folder, folder)
        device = Device(folder, cloud)
        device.highest_seq = 1
        try:
            device.restarted(disk=KilledDisk(points, named=named)).poll()
        except Killed:
            points += 1
        else:
            break
        again = device.restarted()
        assert again.poll().channel is not None
        assert again.highest_seq == 3
        assert again.verifier.versions() == cloud.repo.versions()
    assert newest.seq == 2
    assert points >= 9  # two roots twice, timestamp, snapshot, four roles' files, two documents


# convergence


Step = st.sampled_from(["model", "canary", "broad", "policy", "rotate", "renew", "pool", "other", "restart"])


@given(steps=st.lists(Step, min_size=1, max_size=12))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_devices_that_skip_any_publications_reach_the_newest_and_never_go_back(steps: list[str]):
    with tempfile.TemporaryDirectory() as name:
        folder, clock = Path(name), Clock()
        cloud = Cloud(folder, clock)
        devices = {who: Device(folder / who, cloud, who) for who in ("dev-canary", OTHER_DEVICE)}
        seq, major, newest = 0, 1, cloud.publish_model(1)
        wanted: dict[str, tuple[int, Release]] = {}
        for step in steps:
            clock.advance(hours=1)
            if step == "model":
                major += 1
                newest = cloud.publish_model(major)
            elif step in {"canary", "broad"}:
                seq += 1
                (cloud.canary if step == "canary" else cloud.broad)(seq, newest)
                wanted["dev-canary"] = (seq, newest)
                if step == "broad":
                    wanted[OTHER_DEVICE] = (seq, newest)
            elif step == "policy":
                ceremony.set_policy(cloud.settings, floors={"robot": seq}, now=clock)
            elif step == "rotate":
                ceremony.rotate(cloud.settings, "timestamp", "engine", now=clock)
            elif step == "renew":
                ceremony.renew(cloud.settings, now=clock, everything=True)
            else:
                who = OTHER_DEVICE if step == "other" else "dev-canary"
                if step == "restart":
                    devices[who] = devices[who].restarted()
                before = devices[who].highest_seq
                devices[who].poll()
                assert devices[who].highest_seq >= before
        for who, device in devices.items():
            device.poll()
            reached = (device.highest_seq, device.installed[FAMILY])
            assert reached == wanted.get(who, (0, FACTORY))

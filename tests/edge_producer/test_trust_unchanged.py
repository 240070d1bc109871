"""Laws of a look at a repository without news: nothing is verified again, and nothing is missed."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from edge_producer.trust import SERVER, VerifiedState
from model_service.trust import ceremony
from schemas.channel_documents import BROAD, channel_path, model_role
from schemas.errors import TrustError
from schemas.updates import Attack
from tests.simulators.tuf_repository import (
    FACTORY,
    FAMILY,
    GROUP,
    START,
    Clock,
    Cloud,
    Device,
    Reply,
    altered,
)

TIMESTAMP = "timestamp.json"
KEPT = [TIMESTAMP, "snapshot.json", "targets.json", "channels-canary.json"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cloud(tmp_path: Path, clock: Clock) -> Cloud:
    return Cloud(tmp_path, clock)


@pytest.fixture
def device(tmp_path: Path, cloud: Cloud) -> Device:
    """It has looked once, and knows all that there is."""
    cloud.canary(1, cloud.publish_model(1))
    device = Device(tmp_path / "device", cloud)
    device.poll()
    return device


def attack_of(device: Device, reply: Reply | None = None) -> Attack | None:
    with pytest.raises(TrustError) as caught:
        device.verify(reply)
    return caught.value.attack


def said(device: Device, reply: Reply) -> object:
    """What a device makes of a reply, in a form that can be compared."""
    try:
        found: VerifiedState = device.verify(reply)
    except TrustError as exc:
        return exc.attack, str(exc)
    refused = {family: str(exc) for family, exc in found.refusals.items()}
    return found.channels, found.policy, found.targets, refused, found.versions, str(found.profiles)


def test_a_reply_without_news_is_the_state_that_was_verified_before(device: Device, clock: Clock):
    first = device.verify()
    clock.advance(hours=11)
    assert device.verify() is first
    assert device.verifier.apply((), ()) is first
    assert device.verifier.versions() == first.versions
    assert device.verifier.documents() == device.restarted().verifier.documents()


def test_what_is_new_is_verified(device: Device, cloud: Cloud):
    first = device.verify()
    cloud.online.renew_if_due(cloud.repo, cloud.clock() + timedelta(hours=20))
    renewed = device.verify()
    assert renewed is not first
    assert renewed.versions["timestamp"] > first.versions["timestamp"]
    cloud.canary(2, FACTORY)
    assert [channel.seq for channel in device.verify().channels.values()] == [2]


@pytest.mark.parametrize("role", ["timestamp", "model"])
def test_an_expiry_is_noticed_to_the_second_though_nothing_is_new(
    device: Device, cloud: Cloud, clock: Clock, role: str
):
    until = START + timedelta(days=1)
    if role == "model":
        until = START + timedelta(hours=2)
        keys = [cloud.key(p, model_role(FAMILY)) for p in ("trainer", "gate")]
        cloud.force(model_role(FAMILY), keys, lambda r: setattr(r, "expires", until))
    first = device.verify()
    clock.at = until - timedelta(seconds=1)
    assert device.verify() is first
    clock.at = until
    if role == "model":
        assert [list(device.verify().refusals) for _ in range(2)] == [[FAMILY], [FAMILY]]
    else:
        assert [attack_of(device) for _ in range(2)] == [Attack.FREEZE, Attack.FREEZE]


def test_a_family_that_a_lie_about_the_time_refused_is_back_with_the_truth(
    device: Device, cloud: Cloud, clock: Clock
):
    keys = [cloud.key(p, model_role(FAMILY)) for p in ("trainer", "gate")]
    until = START + timedelta(hours=2)
    cloud.force(model_role(FAMILY), keys, lambda r: setattr(r, "expires", until))
    assert list(device.verify().refusals) == []
    for told, refused in ((until, [FAMILY]), (until - timedelta(seconds=1), [])):
        device.time.learn(told, SERVER)
        assert list(device.verify().refusals) == refused


def test_no_earlier_look_makes_a_rollback_or_a_changed_byte_pass(device: Device, cloud: Cloud, clock: Clock):
    old = cloud.reply(device.verifier)
    clock.advance(hours=13)
    cloud.online.renew_if_due(cloud.repo, clock())
    newest = device.verify()
    assert device.verify() is newest
    assert attack_of(device, old) is Attack.METADATA_ROLLBACK
    files, _ = cloud.reply(device.verifier)
    forged = altered(files, TIMESTAMP, lambda data: data.replace(b'"sig":"', b'"sig":"00'))
    assert attack_of(device, (forged, [])) is Attack.TAMPERED_METADATA
    assert attack_of(device, (files, [(channel_path(GROUP, BROAD), b"{}")])) is Attack.UNSIGNED_INSTRUCTION
    assert said(device, (files, [])) == said(device.restarted(), (files, []))


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_kept_file_that_changes_between_two_looks_comes_back(
    device: Device, cloud: Cloud, name: str, damage: str
):
    whole = device.verify()
    file = device.folder / "metadata" / name
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9])
    assert name.removesuffix(".json") not in device.verifier.versions()
    device.verify()
    assert device.verify().versions == whole.versions == device.restarted().verifier.versions()


def test_whatever_happens_a_device_that_looked_before_says_what_one_says_that_just_started(
    tmp_path: Path, device: Device, cloud: Cloud, clock: Clock
):
    cloud.online.renew_if_due(cloud.repo, clock())
    stale = cloud.everything()
    happens = {
        "nothing": lambda: None,
        "a model": lambda: cloud.canary(2, cloud.publish_model(2)),
        "nothing again": lambda: clock.advance(hours=5),
        "a renewal": lambda: (clock.advance(hours=9), cloud.online.renew_if_due(cloud.repo, clock())),
        "another key": lambda: ceremony.rotate(cloud.settings, "timestamp", "engine", now=clock),
        "nothing for a day": lambda: clock.advance(days=1),
        "a policy": lambda: ceremony.set_policy(cloud.settings, floors={"robot": 1}, now=clock),
        "nothing for a month": lambda: clock.advance(days=31),
        "all anew": lambda: ceremony.renew(cloud.settings, now=clock, everything=True),
    }
    for step, happen in happens.items():
        happen()
        for number, reply in enumerate((cloud.reply(device.verifier), cloud.reply(device.verifier), stale)):
            folder = tmp_path / f"{step} {number}"
            shutil.copytree(device.folder, folder)
            fresh = Device(folder, cloud)
            fresh.time.learn(clock(), SERVER)
            device.time.learn(clock(), SERVER)
            assert said(device, reply) == said(fresh, reply), step

"""Every attack fails closed, and is called by its name."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from edge_producer.trust.metadata_store import MetadataStore
from model_service.trust import ceremony
from model_service.trust.metadata import target_file
from schemas.channel_documents import Release, TargetCustom, artifact_path, channel_path, model_role
from schemas.errors import TrustError
from schemas.updates import Attack
from tests.simulators.tuf_repository import (
    FACTORY,
    FAMILY,
    GROUP,
    OTHER_DEVICE,
    Clock,
    Cloud,
    Device,
    Files,
    Reply,
    altered,
    flipped,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cloud(tmp_path: Path, clock: Clock) -> Cloud:
    return Cloud(tmp_path, clock)


@pytest.fixture
def device(tmp_path: Path, cloud: Cloud) -> Device:
    return Device(tmp_path / "device", cloud)


def refused(device: Device, attack: Attack, reply: Reply | None = None) -> TrustError:
    """The refusal; nothing changed, and the next honest answer is still accepted where there is one."""
    before = dict(device.installed)
    with pytest.raises(TrustError) as caught:
        device.poll(reply)
    assert caught.value.attack is attack, caught.value
    assert device.installed == before
    return caught.value


@pytest.mark.parametrize(
    "role", ["timestamp.json", "snapshot.json", "targets.json", "channels-canary.json", "policy.json"]
)
def test_a_changed_signature_of_any_role_is_tampered_metadata(device: Device, cloud: Cloud, role: str):
    cloud.canary(1, cloud.publish_model(1))
    metadata, documents = cloud.everything()
    refused(device, Attack.TAMPERED_METADATA, (altered(metadata, role, flipped), documents))
    assert device.poll().changes == (FAMILY,)


def test_a_changed_root_is_tampered_metadata(device: Device, cloud: Cloud):
    ceremony.rotate(cloud.settings, "root", "root-1", now=cloud.clock)
    metadata, documents = cloud.everything()
    metadata = [(name, flipped(data) if name == "2.root.json" else data) for name, data in metadata]
    refused(device, Attack.TAMPERED_METADATA, (metadata, documents))


def test_an_older_timestamp_is_a_rollback(device: Device, cloud: Cloud):
    old = cloud.everything()
    cloud.canary(1, cloud.publish_model(1))
    device.poll()
    refused(device, Attack.METADATA_ROLLBACK, old)


def test_an_older_timestamp_of_the_same_snapshot_is_a_rollback(device: Device, cloud: Cloud, clock: Clock):
    old = cloud.everything()
    clock.advance(hours=13)
    assert cloud.online.renew_if_due(cloud.repo, clock())
    device.poll()
    refused(device, Attack.METADATA_ROLLBACK, old)


def test_stolen_online_keys_cannot_roll_a_role_back(device: Device, cloud: Cloud):
    cloud.canary(1, cloud.publish_model(1))
    cloud.canary(2, cloud.publish_model(2))
    device.poll()
    # the attacker signs a fresh snapshot that names the canary role's old version
    cloud.force(
        "channels-canary", [cloud.key("engine", "channels-canary")], lambda role: setattr(role, "version", 2)
    )
    refused(device, Attack.METADATA_ROLLBACK)


def test_the_same_answer_for_ever_is_a_freeze_once_it_expired(device: Device, cloud: Cloud, clock: Clock):
    cloud.canary(1, cloud.publish_model(1))
    frozen = cloud.everything()
    device.poll(frozen)
    clock.advance(hours=23)
    device.poll(frozen)
    clock.advance(hours=2)
    refused(device, Attack.FREEZE, frozen)


def test_a_freeze_is_seen_after_a_restart_once_the_service_told_the_time(
    device: Device, cloud: Cloud, clock: Clock
):
    frozen = cloud.everything()
    device.poll(frozen)
    clock.advance(days=40)
    device = device.restarted()  # it was off: its own time stood still
    device.poll(frozen)
    device.time.learn(clock(), "server")
    refused(device, Attack.FREEZE, frozen)


@pytest.mark.parametrize("role", ["snapshot.json", "channels-canary.json", "models-machine.json"])
def test_genuine_metadata_of_another_moment_are_mix_and_match(device: Device, cloud: Cloud, role: str):
    cloud.canary(1, cloud.publish_model(1))
    old = {name.partition(".")[2]: data for name, data in cloud.everything()[0]}
    cloud.canary(2, cloud.publish_model(2))
    metadata, documents = cloud.everything()
    refused(device, Attack.MIX_AND_MATCH, (altered(metadata, role, lambda _: old[role]), documents))


def test_a_withheld_role_is_mix_and_match(device: Device, cloud: Cloud):
    cloud.canary(1, cloud.publish_model(1))
    metadata, documents = cloud.everything()
    withheld = [(name, data) for name, data in metadata if not name.endswith(".channels-canary.json")]
    refused(device, Attack.MIX_AND_MATCH, (withheld, documents))


def test_a_document_that_its_role_did_not_sign_is_an_unsigned_instruction(device: Device, cloud: Cloud):
    channel = cloud.canary(1, cloud.publish_model(1))
    metadata, documents = cloud.everything()
    path = channel_path(GROUP, "canary")
    forged = channel.model_copy(update={"seq": 9}).model_dump_json().encode()
    refused(device, Attack.UNSIGNED_INSTRUCTION, (metadata, altered(documents, path, lambda _: forged)))


def test_a_document_that_no_role_lists_is_an_unsigned_instruction(device: Device, cloud: Cloud):
    cloud.publish_model(1)
    metadata, documents = cloud.everything()
    stray = cloud.channel("broad", 1, FACTORY).model_dump_json().encode()
    refused(
        device, Attack.UNSIGNED_INSTRUCTION, (metadata, [*documents, (channel_path(GROUP, "broad"), stray)])
    )


def test_a_channel_to_a_bundle_that_nobody_signed_is_an_unsigned_instruction(device: Device, cloud: Cloud):
    cloud.canary(1, Release(version="machine-1.deadbeef", sha256="d" * 64))
    refused(device, Attack.UNSIGNED_INSTRUCTION)


def test_a_channel_to_other_bytes_than_the_models_role_signed_is_mix_and_match(device: Device, cloud: Cloud):
    release = cloud.publish_model(1)
    cloud.canary(1, release.model_copy(update={"sha256": "d" * 64}))
    refused(device, Attack.MIX_AND_MATCH)


def test_a_channel_document_of_another_ring_or_group_is_an_unsigned_instruction(device: Device, cloud: Cloud):
    stranger = cloud.channel("canary", 1, FACTORY, group="elsewhere").model_dump_json().encode()
    entry = target_file(channel_path(GROUP, "canary"), stranger)
    key = cloud.key("engine", "channels-canary")
    cloud.force("channels-canary", [key], lambda role: role.targets.update({entry.path: entry}), stranger)
    refused(device, Attack.UNSIGNED_INSTRUCTION)


def test_genuine_channels_of_another_group_neither_count_nor_stay(device: Device, cloud: Cloud):
    cloud.canary(1, cloud.publish_model(1))
    foreign = cloud.channel("canary", 1, FACTORY, group="elsewhere").model_dump_json().encode()
    entry = target_file(channel_path("elsewhere", "canary"), foreign)
    key = cloud.key("engine", "channels-canary")
    cloud.force("channels-canary", [key], lambda role: role.targets.update({entry.path: entry}), foreign)
    metadata, documents = cloud.everything()
    device.poll((metadata, [*documents, (entry.path, foreign)]))
    assert entry.path not in device.verifier.documents()
    # the other group moves on; its new document is not sent to us
    newer = cloud.channel("canary", 2, FACTORY, group="elsewhere").model_dump_json().encode()
    entry = target_file(entry.path, newer)
    cloud.force("channels-canary", [key], lambda role: role.targets.update({entry.path: entry}), newer)
    assert device.poll().channel is not None


def test_a_channel_of_another_group_that_was_kept_once_is_forgotten(device: Device, cloud: Cloud):
    """What an earlier release of the device stored when it was sent."""
    cloud.canary(1, cloud.publish_model(1))
    device.poll()
    path = channel_path("elsewhere", "broad")
    MetadataStore(device.folder / "metadata").put_document(path, b"{}")
    key = cloud.key("engine", "channels-canary")
    entry = target_file(channel_path("elsewhere", "canary"), b"[]")
    MetadataStore(device.folder / "metadata").put_document(entry.path, b"{}")
    cloud.force("channels-canary", [key], lambda role: role.targets.update({entry.path: entry}), b"[]")
    device.poll()
    assert not {path, entry.path} & device.verifier.documents().keys()


def test_a_channel_with_a_number_that_no_report_can_carry_is_unsafe(device: Device, cloud: Cloud):
    cloud.canary(2**63, cloud.publish_model(1))
    refused(device, Attack.UNSAFE_CONTENT)


DEEP = b"[" * 100_000


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "root.json", "policy.json"])
@pytest.mark.parametrize("damage", [DEEP, b'{"signed":{"version":99999999999999999999}}'])
def test_damaged_metadata_are_asked_for_again(device: Device, cloud: Cloud, name: str, damage: bytes):
    cloud.canary(1, cloud.publish_model(1))
    device.poll()
    (device.folder / "metadata" / name).write_bytes(damage)
    assert device.restarted().poll().channel is not None


@pytest.mark.parametrize(
    "damage",
    [
        b'{"verified":"0001-01-01T00:00:00+05:00","told":null}',
        b'{"verified":"9999-12-31T23:59:59+00:00","told":null}',
        DEEP,
    ],
)
def test_a_damaged_clock_starts_again_from_what_is_verified(device: Device, cloud: Cloud, damage: bytes):
    cloud.canary(1, cloud.publish_model(1))
    device.poll()
    (device.folder / "time.json").write_bytes(damage)
    assert device.restarted().poll().channel is not None


def test_an_older_channel_signed_anew_is_replayed(device: Device, cloud: Cloud):
    first = cloud.canary(1, cloud.publish_model(1))
    cloud.canary(2, cloud.publish_model(2))
    device.poll()
    replayed = first.model_dump_json().encode()
    entry = target_file(channel_path(GROUP, "canary"), replayed)
    key = cloud.key("engine", "channels-canary")
    cloud.force("channels-canary", [key], lambda role: role.targets.update({entry.path: entry}), replayed)
    refused(device, Attack.REPLAYED_CHANNEL)


def test_a_withdrawn_channel_is_replayed(device: Device, cloud: Cloud):
    cloud.canary(1, cloud.publish_model(1))
    device.poll()
    cloud.force(
        "channels-canary", [cloud.key("engine", "channels-canary")], lambda role: role.targets.clear()
    )
    refused(device, Attack.REPLAYED_CHANNEL)


def test_a_bundle_for_other_hardware_is_refused_before_anything_else_about_it(device: Device, cloud: Cloud):
    cloud.canary(1, cloud.publish_model(1, hardware=("arm64",)))
    refused(device, Attack.WRONG_HARDWARE)
    device.hardware = "arm64"
    assert device.poll().changes == (FAMILY,)


def test_a_bundle_for_a_newer_runtime_is_refused(device: Device, cloud: Cloud):
    cloud.canary(1, cloud.publish_model(1, opset=22))
    refused(device, Attack.WRONG_HARDWARE)


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json", "models-machine.json"])
def test_a_longer_file_than_announced_is_endless_data(device: Device, cloud: Cloud, name: str):
    metadata, documents = cloud.everything()
    refused(device, Attack.ENDLESS_DATA, (altered(metadata, name, lambda d: d + b" " * 20_000), documents))


def test_more_files_or_a_longer_document_than_any_honest_answer_is_endless_data(device: Device, cloud: Cloud):
    metadata, documents = cloud.everything()
    refused(device, Attack.ENDLESS_DATA, (metadata + [(f"{n}.x.json", b"") for n in range(600)], documents))
    refused(
        device, Attack.ENDLESS_DATA, (metadata, altered(documents, "policy/fleet.json", lambda d: d * 4096))
    )


@pytest.mark.parametrize("process", ["trainer", "gate"])
def test_one_of_the_two_model_keys_signs_nothing(device: Device, cloud: Cloud, process: str):
    data = b"backdoor"
    custom = TargetCustom(family=FAMILY, version="machine-1.00000001", opset=17).model_dump(mode="json")
    entry = target_file(artifact_path(FAMILY, "machine-1.00000001"), data, custom)
    role = model_role(FAMILY)
    cloud.force(role, [cloud.key(process, role)], lambda r: r.targets.update({entry.path: entry}))
    refused(device, Attack.TAMPERED_METADATA)


@pytest.mark.parametrize("process", ["engine", "guard"])
def test_one_of_the_broad_keys_instructs_nobody(device: Device, cloud: Cloud, process: str):
    release = cloud.publish_model(1)
    document = cloud.channel("broad", 1, release).model_dump_json().encode()
    entry = target_file(channel_path(GROUP, "broad"), document)
    key = cloud.key(process, "channels-broad")
    cloud.force("channels-broad", [key], lambda r: r.targets.update({entry.path: entry}), document)
    refused(device, Attack.TAMPERED_METADATA)


def test_the_canary_key_cannot_sign_a_broad_channel(device: Device, cloud: Cloud):
    document = cloud.channel("broad", 1, FACTORY).model_dump_json().encode()
    entry = target_file(channel_path(GROUP, "broad"), document)
    key = cloud.key("engine", "channels-canary")
    cloud.force("channels-canary", [key], lambda r: r.targets.update({entry.path: entry}), document)
    refused(device, Attack.UNSIGNED_INSTRUCTION, (cloud.everything()[0], [(entry.path, document)]))


def test_a_model_role_cannot_vouch_for_another_familys_bundle(device: Device, cloud: Cloud):
    ceremony.add_family(cloud.settings, "robot", now=cloud.clock)
    custom = TargetCustom(family=FAMILY, version="machine-1.00000001", opset=17).model_dump(mode="json")
    entry = target_file(artifact_path(FAMILY, "machine-1.00000001"), b"x", custom)
    keys = [cloud.key(process, "models-robot") for process in ("trainer", "gate")]
    cloud.force("models-robot", keys, lambda r: r.targets.update({entry.path: entry}))
    with pytest.raises(TrustError) as caught:
        device.verify().target(entry.path)
    assert caught.value.attack is Attack.UNSIGNED_INSTRUCTION


def test_a_canary_channel_binds_the_pool_only(tmp_path: Path, cloud: Cloud):
    cloud.canary(1, cloud.publish_model(1))
    other = Device(tmp_path / "other", cloud, OTHER_DEVICE)
    assert other.poll().channel is None
    assert other.installed == {FAMILY: FACTORY}


def test_nothing_below_the_floor_is_installed_but_the_factory_set_may_be(device: Device, cloud: Cloud):
    old, new = cloud.publish_model(1), cloud.publish_model(2)
    cloud.canary(1, new)
    device.poll()
    ceremony.set_policy(cloud.settings, floors={FAMILY: 2}, now=cloud.clock)
    cloud.canary(2, old)
    refused(device, Attack.BELOW_FLOOR)
    cloud.canary(3, FACTORY)
    assert device.poll().wanted == {FAMILY: FACTORY}


def test_revoked_content_is_not_installed_any_more_and_keeps_running_where_it_runs(
    device: Device, cloud: Cloud
):
    release = cloud.publish_model(1)
    cloud.canary(1, release)
    device.poll()
    assert release.sha256 is not None
    ceremony.set_policy(cloud.settings, revoke=[release.sha256], now=cloud.clock)
    assert device.poll().changes == ()
    device.installed = {FAMILY: FACTORY}
    refused(device, Attack.REVOKED_CONTENT)


def test_an_expired_channel_is_a_freeze(device: Device, cloud: Cloud, clock: Clock):
    cloud.canary(1, cloud.publish_model(1))
    clock.advance(days=31)
    cloud.online.renew_if_due(cloud.repo, clock())
    assert "channel document 1 expired" in str(refused(device, Attack.FREEZE))


def test_an_expired_policy_is_a_freeze(device: Device, cloud: Cloud, clock: Clock):
    cloud.canary(1, cloud.publish_model(1))
    short = cloud.repo.policy().model_copy(update={"seq": 2, "expires": clock() + timedelta(hours=1)})
    data = short.model_dump_json().encode()
    entry = target_file("policy/fleet.json", data)
    cloud.force(
        "policy", [cloud.offline_key("policy")], lambda r: r.targets.update({entry.path: entry}), data
    )
    clock.advance(hours=2)
    assert "policy expired" in str(refused(device, Attack.FREEZE))


def test_an_older_policy_signed_anew_is_a_rollback(device: Device, cloud: Cloud):
    first = cloud.repo.policy().model_dump_json().encode()
    ceremony.set_policy(cloud.settings, floors={FAMILY: 2}, now=cloud.clock)
    device.poll()
    entry = target_file("policy/fleet.json", first)
    cloud.force(
        "policy", [cloud.offline_key("policy")], lambda r: r.targets.update({entry.path: entry}), first
    )
    refused(device, Attack.METADATA_ROLLBACK)


def test_an_expired_model_role_stops_its_own_family_only(device: Device, cloud: Cloud, clock: Clock):
    release = cloud.publish_model(1)
    ceremony.add_family(cloud.settings, "robot", now=cloud.clock)
    keys = [cloud.key(process, "models-machine") for process in ("trainer", "gate")]
    cloud.force("models-machine", keys, lambda r: setattr(r, "expires", clock() + timedelta(hours=1)))
    cloud.canary(1, release)
    clock.advance(hours=2)
    assert device.verify().refusals.keys() == {FAMILY}
    refused(device, Attack.FREEZE)
    cloud.canary(2, FACTORY)
    assert device.poll().wanted == {FAMILY: FACTORY}


def test_after_any_broken_file_the_next_honest_answer_is_accepted(tmp_path: Path, cloud: Cloud):
    cloud.canary(1, cloud.publish_model(1))
    metadata, documents = cloud.everything()
    for name in [name for name, _ in metadata if name != "1.root.json"]:
        device = Device(tmp_path / name, cloud)
        broken: Files = altered(metadata, name, lambda _: json.dumps({"signed": {}}).encode())
        with pytest.raises(TrustError):
            device.poll((broken, documents))
        assert device.poll().changes == (FAMILY,)

"""What a device verifies at each bound: sizes, counts, numbers, dates; and that it asks for no more."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_producer.trust.metadata_store import MetadataStore
from edge_producer.trust.verifier import MAX_DOCUMENT_BYTES, MAX_FILES, MAX_SEQ
from edge_producer.trust.workflow import Limits, MissingError, Workflow
from model_service.trust import ceremony
from model_service.trust.metadata import target_file
from schemas.channel_documents import (
    CANARY,
    ISSUED_FIELD,
    POLICY_PATH,
    TargetCustom,
    artifact_path,
    channel_path,
    model_role,
)
from schemas.durable import Disk
from schemas.errors import TrustError
from schemas.proto.delivery_pb2 import ReportRequest
from schemas.updates import Attack
from tests.simulators.tuf_repository import FACTORY, FAMILY, GROUP, START, Clock, Cloud, Device, altered

CHANNEL = channel_path(GROUP, CANARY)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cloud(tmp_path: Path, clock: Clock) -> Cloud:
    return Cloud(tmp_path, clock)


@pytest.fixture
def device(tmp_path: Path, cloud: Cloud) -> Device:
    return Device(tmp_path / "device", cloud)


def attack_seen(device: Device, reply=None) -> Attack | None:
    """What an answer is called; None: it verifies."""
    try:
        device.verify(reply)
    except TrustError as exc:
        return exc.attack
    return None


def publish(cloud: Cloud, role: str, key, path: str, data: bytes) -> None:
    """A document of any bytes, signed as its role does."""
    entry = target_file(path, data)
    cloud.force(role, [key], lambda r: r.targets.update({path: entry}), data)


def publish_policy(cloud: Cloud, data: bytes) -> None:
    publish(cloud, "policy", cloud.offline_key("policy"), POLICY_PATH, data)


# sizes and counts


@pytest.mark.parametrize(("size", "seen"), [(16_384, None), (16_385, Attack.ENDLESS_DATA)])
def test_metadata_of_the_largest_size_are_read(device, cloud, size, seen):
    metadata, documents = cloud.everything()
    padded = altered(metadata, "timestamp.json", lambda d: d + b" " * (size - len(d)))
    assert attack_seen(device, (padded, documents)) is seen


@pytest.mark.parametrize(("by", "seen"), [(0, None), (1, Attack.ENDLESS_DATA)])
def test_a_document_of_the_largest_size_is_read(device, cloud, by, seen):
    text = cloud.channel(CANARY, 1, FACTORY).model_dump_json().encode()
    key = cloud.key("engine", "channels-canary")
    publish(cloud, "channels-canary", key, CHANNEL, text + b" " * (MAX_DOCUMENT_BYTES + by - len(text)))
    assert attack_seen(device) is seen


@pytest.mark.parametrize(("by", "seen"), [(0, None), (1, Attack.ENDLESS_DATA)])
def test_as_many_files_as_any_honest_answer_has_are_read(device, cloud, by, seen):
    metadata, documents = cloud.everything()
    more = [(f"{n}.x.json", b"") for n in range(MAX_FILES + by - len(metadata))]
    assert attack_seen(device, (metadata + more, documents)) is seen
    other = [(f"{n}.x", b"") for n in range(MAX_FILES + by - len(documents))]
    assert attack_seen(device, (metadata, documents + other)) is seen


@pytest.mark.parametrize(("seq", "seen"), [(MAX_SEQ, None), (MAX_SEQ + 1, Attack.UNSAFE_CONTENT)])
def test_the_largest_number_that_a_report_can_carry_is_followed(device, cloud, seq, seen):
    cloud.canary(seq, FACTORY)
    assert attack_seen(device) is seen


# documents


def test_a_policy_of_the_same_number_is_taken_and_a_damaged_one_on_disk_hinders_none(device, cloud):
    device.verify()
    policy = cloud.repo.policy()
    again = policy.model_copy(update={"floors": {FAMILY: 3}})
    publish_policy(cloud, again.model_dump_json().encode())
    assert device.verify().policy.floors == {FAMILY: 3}
    MetadataStore(device.folder / "metadata").put_document(POLICY_PATH, b"{")
    older = policy.model_copy(update={"seq": policy.seq})
    publish_policy(cloud, older.model_dump_json().encode())
    assert device.verify().policy.floors == {}


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]"])
def test_a_signed_document_that_is_none_is_unsafe(device, cloud, data):
    publish_policy(cloud, data or b" ")
    assert attack_seen(device) is Attack.UNSAFE_CONTENT


def test_a_channel_that_says_another_ring_than_its_path_is_an_unsigned_instruction(device, cloud):
    other = cloud.channel("broad", 1, FACTORY).model_dump_json().encode()
    publish(cloud, "channels-canary", cloud.key("engine", "channels-canary"), CHANNEL, other)
    assert attack_seen(device) is Attack.UNSIGNED_INSTRUCTION


def test_without_a_policy_nothing_is_followed(device, cloud):
    cloud.force("policy", [cloud.offline_key("policy")], lambda r: r.targets.clear())
    assert attack_seen(device) is Attack.UNSIGNED_INSTRUCTION


def test_a_document_that_was_not_sent_is_taken_from_disk_only_if_it_is_the_one_that_is_listed(device, cloud):
    cloud.canary(1, FACTORY)
    metadata, documents = cloud.everything()
    assert attack_seen(device, (metadata, [d for d in documents if d[0] != CHANNEL])) is Attack.MIX_AND_MATCH
    device.verify()
    assert attack_seen(device, (metadata, [])) is None
    MetadataStore(device.folder / "metadata").put_document(CHANNEL, b"{}")
    assert attack_seen(device, (metadata, [])) is Attack.MIX_AND_MATCH


class CountingDisk(Disk):
    """Counts what is written, by name."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def write(self, path, data, **given):
        self.names.append(path.name)
        super().write(path, data, **given)


def test_what_is_kept_already_is_not_written_again(tmp_path, cloud):
    disk = CountingDisk()
    device = Device(tmp_path / "counted", cloud, disk=disk)
    cloud.canary(1, FACTORY)
    device.poll()
    assert len(disk.names) == len(set(disk.names)) == len(cloud.everything()[0]) + 3
    disk.names.clear()
    device.poll()
    device.restarted(disk=disk).poll()
    assert disk.names == []


# models


def test_a_target_without_a_bundles_custom_is_no_bundle_and_hinders_no_other(device, cloud):
    release = cloud.publish_model(1)
    role = model_role(FAMILY)
    keys = [cloud.key(process, role) for process in ("trainer", "gate")]
    stray = target_file(f"models/{FAMILY}/stray.bundle", b"x")
    cloud.force(role, keys, lambda r: r.targets.update({stray.path: stray}))
    verified = device.verify()
    assert list(verified.targets) == [f"models/{FAMILY}/{release.version}.bundle"]
    [target] = verified.targets.values()
    assert (target.sha256, target.length) == (release.sha256, len(b"bundle 1"))


@pytest.mark.parametrize("role", ["channels-canary", "policy"])
def test_an_expired_role_that_instructs_is_a_freeze_for_all(device, cloud, clock, role):
    key = cloud.offline_key(role) if role == "policy" else cloud.key("engine", role)
    cloud.force(role, [key], lambda r: setattr(r, "expires", clock() + timedelta(hours=1)))
    clock.advance(hours=2)
    assert attack_seen(device) is Attack.FREEZE


def test_a_tampered_model_role_is_refused_for_all(device, cloud):
    cloud.publish_model(1)
    role = model_role(FAMILY)
    cloud.force(role, [cloud.key("trainer", role)], lambda r: None)
    assert attack_seen(device) is Attack.TAMPERED_METADATA


# time


def issue(cloud: Cloud, text: object) -> None:
    """A timestamp that says it was issued then."""

    def change(role):
        role.unrecognized_fields[ISSUED_FIELD] = text

    cloud.force("channels-canary", [cloud.key("engine", "channels-canary")], change)


@pytest.mark.parametrize("text", ["2026-06-11T00:00:00", "soon", 5, None])
def test_an_issue_time_that_is_none_moves_no_clock(device, cloud, text):
    device.verify()
    issue(cloud, text)
    device.verify()
    assert device.time.now() == START


def test_an_issue_time_moves_the_clock_of_a_device_but_not_past_the_roots_expiry(device, cloud):
    device.verify()
    issue(cloud, "2026-06-02T00:00:00+00:00")
    device.verify()
    assert device.time.now() == datetime(2026, 6, 2, tzinfo=UTC)
    issue(cloud, "2126-06-11T00:00:00+00:00")
    with pytest.raises(TrustError):
        device.verify()
    expires = json.loads(cloud.root)["signed"]["expires"]
    assert device.time.now() == datetime.fromisoformat(expires)


# the workflow


class Source:
    """A source of metadata that notes what it was asked for."""

    def __init__(self, files) -> None:
        self.files, self.asked = dict(files), []

    def __call__(self, name: str, max_length: int) -> bytes:
        self.asked.append(name)
        if name not in self.files:
            raise MissingError(name)
        return self.files[name]


def workflow(tmp_path, cloud, limits=None, source=None):
    source = source or Source(cloud.everything()[0])
    store = MetadataStore(tmp_path / "store")
    return Workflow(store, cloud.root, source, cloud.clock, limits=limits), source


@pytest.mark.parametrize(("rotations", "reached"), [(1, 2), (2, 3), (5, 3)])
def test_as_many_roots_are_followed_at_once_as_the_limit_says(tmp_path, cloud, rotations, reached):
    for name in ("root-1", "root-2"):
        ceremony.rotate(cloud.settings, "root", name, now=cloud.clock)
    subject, source = workflow(tmp_path, cloud, Limits(root_rotations=rotations))
    with suppress(TrustError):  # a root that is not the newest may name other keys
        subject.refresh()
    assert subject.root.version == reached
    asked = [n for n in source.asked if n.endswith("root.json")]
    assert asked == [f"{v}.root.json" for v in range(2, 2 + rotations) if v <= 4]
    again, _ = workflow(tmp_path, cloud, Limits(root_rotations=rotations), source)
    assert again.root.version == 1
    with suppress(TrustError):
        again.refresh()
    assert again.root.version == reached


def test_roots_that_were_verified_are_not_fetched_again(tmp_path, cloud):
    ceremony.rotate(cloud.settings, "root", "root-1", now=cloud.clock)
    workflow(tmp_path, cloud)[0].refresh()
    subject, source = workflow(tmp_path, cloud)
    subject.refresh()
    assert "2.root.json" not in source.asked
    assert "3.root.json" in source.asked


def test_only_what_is_newer_is_fetched(tmp_path, cloud):
    workflow(tmp_path, cloud)[0].refresh()
    subject, source = workflow(tmp_path, cloud)
    subject.refresh()
    assert source.asked == ["2.root.json", "timestamp.json"]
    cloud.canary(1, FACTORY)
    subject, source = workflow(tmp_path, cloud)
    subject.refresh()
    assert [n.partition(".")[2] for n in source.asked] == ["root.json", "json", "snapshot.json"]


@pytest.mark.parametrize(("delegations", "found"), [(0, False), (1, True), (32, True)])
def test_a_target_is_looked_for_in_no_more_roles_than_the_limit_says(tmp_path, cloud, delegations, found):
    subject, _ = workflow(tmp_path, cloud, Limits(delegations=delegations))
    subject.refresh()
    assert (subject.find(POLICY_PATH) is not None) is found
    assert subject.find("models/machine/none.bundle") is None
    assert subject.find("nobody/lists/this") is None


def test_every_delegated_role_is_named(tmp_path, cloud):
    subject, _ = workflow(tmp_path, cloud)
    subject.refresh()
    names = {"policy", "channels-canary", "channels-broad", model_role(FAMILY)}
    assert set(subject.delegated()) == names
    for name in names:
        assert subject.load(name, "targets") is subject.load(name, "targets")


@pytest.mark.parametrize("role", ["snapshot", "targets", "policy"])
def test_what_is_named_and_not_sent_is_mix_and_match_and_damage_on_disk_is_forgotten(tmp_path, cloud, role):
    store = MetadataStore(tmp_path / "store")

    def load():
        subject, source = workflow(tmp_path, cloud)
        source.files = {n: d for n, d in source.files.items() if not n.endswith(f".{role}.json")}
        subject.refresh()
        subject.load("policy", "targets")

    with pytest.raises(TrustError) as caught:
        load()
    assert caught.value.attack is Attack.MIX_AND_MATCH
    whole, _ = workflow(tmp_path, cloud)
    whole.refresh()
    whole.load("policy", "targets")
    data = store.role(role)
    load()
    store.put_role(role, data.replace(b'"sig":"', b'"sig":"00'))
    with pytest.raises(TrustError) as caught:
        load()
    assert caught.value.attack is Attack.MIX_AND_MATCH
    assert store.role(role) is None


def test_an_expired_role_that_nothing_newer_replaces_is_a_freeze_and_stays(tmp_path, cloud, clock):
    whole, _ = workflow(tmp_path, cloud)
    whole.refresh()
    clock.advance(days=1, hours=-1)
    cloud.online.renew_if_due(cloud.repo, clock())
    clock.advance(days=400)
    subject, source = workflow(tmp_path, cloud)
    source.files = {"timestamp.json": source.files["timestamp.json"]}
    with pytest.raises(TrustError) as caught:
        subject.refresh()
    assert caught.value.attack is Attack.FREEZE
    assert MetadataStore(tmp_path / "store").role("snapshot") is not None


def test_the_largest_number_is_that_of_a_reports_field():
    assert ReportRequest(channel_seq=MAX_SEQ).channel_seq == MAX_SEQ
    with pytest.raises(ValueError, match="out of range"):
        ReportRequest(channel_seq=MAX_SEQ + 1)


def test_what_was_verified_last_verifies_without_the_service(device, cloud):
    cloud.canary(1, FACTORY)
    device.verify()
    assert device.verifier.apply((), ()).channels[CANARY].seq == 1


def test_a_family_whose_role_expired_hides_no_bundle_of_another(device, cloud, clock):
    ceremony.add_family(cloud.settings, "robot", now=cloud.clock)
    version, role = "robot-1.00000001", model_role("robot")
    custom = TargetCustom(family="robot", version=version, opset=17).model_dump(mode="json")
    entry = target_file(artifact_path("robot", version), b"x", custom)
    cloud.force(
        role,
        [cloud.key(p, role) for p in ("trainer", "gate")],
        lambda r: r.targets.update({entry.path: entry}),
    )
    keys = [cloud.key(p, model_role(FAMILY)) for p in ("trainer", "gate")]
    cloud.force(model_role(FAMILY), keys, lambda r: setattr(r, "expires", clock() + timedelta(hours=1)))
    clock.advance(hours=2)
    verified = device.verify()
    assert (list(verified.refusals), list(verified.targets)) == ([FAMILY], [entry.path])

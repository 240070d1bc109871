"""Rows are judged by the version that their header names, if it is signed and was in the group's channel.

The rig: a real lake with its registries and version store, `Sender`, a registered device that seals under a
version, and `run`, which hands batches to ingest one after the other.
"""

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from feature_store.copies import copy_of
from feature_store.device_registry import DeviceRecord, DeviceRegistry
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from feature_store.version_store import VersionStore
from schemas.boot_ids import GATEWAY
from schemas.envelope import read_envelope, signed_by
from schemas.errors import ProfileVersionError
from schemas.profile_file import builtin_profiles, find_profile, parse_profile
from schemas.profile_versions import ProfileVersion
from schemas.sealed_together import sealed_together
from schemas.version_names import VersionHeader
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.records import TaskState
from stream_processors.ingest.ingest_job import Ingest
from stream_processors.ingest.known_headers import KnownHeaders
from stream_processors.ingest.lake_directory import LakeDirectory
from stream_processors.ingest.waiting_versions import MOST_BYTES, MOST_OF_PRODUCER, MOST_OF_TASK, WAIT_S
from tests.simulators.messages import T0, SimDevice, SimLog
from tests.simulators.profile_signers import ProfileSigners

MACHINE = find_profile("machine")
RARER = parse_profile(builtin_profiles()["machine"].read_text().replace("p = 0.08", "p = 0.05", 1), "p")
APPENDED = T0 + timedelta(minutes=1)
ROWS = "telemetry_machine"


def in_version(number, profile):
    return ProfileVersion(number, profile).header


class Cloud:
    """A lake with `machine` registered, and ingest over it."""

    def __init__(self, root, *senders):
        self.lake = Lake.open(root)
        registry = ProfileRegistry(self.lake)
        registry.register(MACHINE)
        devices = self.devices = DeviceRegistry(self.lake)
        devices.register(
            [
                DeviceRecord(
                    s.device_id, "machine", "s", group, "hw", s.signer.key_id, s.signer.public_pem().decode()
                )
                for s, group in senders
            ]
        )
        self.versions, self.signers = VersionStore(root), ProfileSigners()
        self.signers.register(self.versions)
        self.time = 0.0
        self.directory = LakeDirectory(registry, devices, lambda: self.time, versions=VersionStore(root))
        self.state, self.job = TaskState("task-00"), Ingest(self.directory)

    def push(self, number, profile, *, group="default", by="policy"):
        signed = self.signers.sign(profile, number, by=by, groups=("default", "other"))
        self.versions.put(signed)
        self.versions.enter_channel(group, signed.statement.version)

    def run(self, *messages, after_s=1.0):
        now = APPENDED + timedelta(seconds=after_s)
        out = run_jobs([self.job], messages, self.state, now)
        counters = {k: self.state.counters.get(k, 0) + n for k, n in out.counters.items()}
        state = {k: v for k, v in {**self.state.state, **out.state}.items() if v is not None}
        self.state = TaskState("task-00", self.state.n + 1, {}, state, {**self.state.counters, **counters})
        return out

    def counts(self, what):
        return self.state.counters.get(f"ingest/telemetry.v1/{what}", 0)

    @property
    def waits(self):
        return [k for k in self.state.state if k.startswith("ingest/waits/")]


def landed(out):
    return out.rows[ROWS]["sample_p"].to_pylist() if ROWS in out.rows else []


def refused(out):
    if "quarantine" not in out.rows:
        return []
    return list(zip(*(out.rows["quarantine"][c].to_pylist() for c in ("error", "reason")), strict=True))


def rows(device, p, n=1, first=0):
    return device.rows(first, n, sample_p=[p] * n, inclusion_probability=[p] * n)


def test_rows_that_name_no_version_are_judged_by_what_is_registered(lake_root):
    device, log = SimDevice(), SimLog()
    cloud = Cloud(lake_root, (device, "default"))
    cloud.push(1, MACHINE)
    cloud.push(2, RARER)
    assert landed(cloud.run(log.append(rows(device, 0.08)))) == [0.08]


def test_each_row_is_judged_by_the_version_that_its_header_names(lake_root):
    old, new, log = SimDevice("m-1"), SimDevice("m-2"), SimLog()
    cloud = Cloud(lake_root, (old, "default"), (new, "default"))
    cloud.push(1, MACHINE)
    cloud.push(2, RARER, by="profiles")
    old.version, new.version = in_version(1, MACHINE), in_version(2, RARER)
    out = cloud.run(
        log.append(rows(old, 0.08)), log.append(rows(new, 0.08)), log.append(rows(new, 0.05, first=1))
    )
    assert sorted(landed(out)) == [0.05, 0.08]
    assert refused(out) == [("PolicyError", "sample_p is not one the policy allows")]


def test_a_version_of_another_group_is_refused(lake_root):
    device, log = SimDevice(), SimLog()
    cloud = Cloud(lake_root, (device, "other"))
    cloud.push(1, MACHINE, group="default")
    device.version = in_version(1, MACHINE)
    [(error, reason)] = refused(cloud.run(log.append(rows(device, 0.08))))
    assert (error, "never in the channel of group 'other'" in reason) == ("ProfileVersionError", True)


def test_a_known_number_with_another_content_is_refused(lake_root):
    device, log = SimDevice(), SimLog()
    cloud = Cloud(lake_root, (device, "default"))
    cloud.push(1, MACHINE)
    device.version = VersionHeader(1, "0" * 16)
    assert [e for e, _ in refused(cloud.run(log.append(rows(device, 0.08))))] == ["ProfileVersionError"]


def test_a_version_whose_signers_key_was_removed_judges_nothing_any_more(lake_root):
    device, log = SimDevice(), SimLog()
    cloud = Cloud(lake_root, (device, "default"))
    cloud.push(1, MACHINE)
    device.version = in_version(1, MACHINE)
    assert landed(cloud.run(log.append(rows(device, 0.08))))
    for path in lake_root.rglob("_keys/*.json"):
        path.unlink()
    cloud.time += 60
    out = cloud.run(log.append(rows(device, 0.08, first=1)))
    assert [e for e, _ in refused(out)] == ["ProfileVersionError"]


def test_rows_of_an_unknown_version_wait_and_land_once_when_it_comes(lake_root):
    device, log = SimDevice(), SimLog()
    cloud = Cloud(lake_root, (device, "default"))
    cloud.push(1, MACHINE)
    device.version = in_version(2, RARER)
    sealed = rows(device, 0.05, 3)
    first, again = log.append(sealed), log.append(sealed)
    out = cloud.run(first)
    assert (landed(out), refused(out), len(cloud.waits)) == ([], [], 1)
    assert cloud.counts("waiting_messages") == 1
    assert cloud.counts("received_messages") == 0
    cloud.push(2, RARER, by="profiles")
    out = cloud.run(again)
    assert landed(out) == [0.05] * 3
    assert out.rows[ROWS]["_offset"].to_pylist() == [0, 0, 0]
    assert (cloud.waits, cloud.counts("waiting_messages"), cloud.counts("duplicate_rows")) == ([], 0, 3)
    assert cloud.counts("received_messages") == 2


def test_others_go_on_while_one_waits_and_an_empty_call_changes_nothing(lake_root):
    device, other, log = SimDevice("m-1"), SimDevice("m-2"), SimLog()
    cloud = Cloud(lake_root, (device, "default"), (other, "default"))
    device.version = in_version(9, RARER)
    out = cloud.run(log.append(rows(device, 0.05)), log.append(rows(other, 0.08)))
    assert landed(out) == [0.08]
    assert not cloud.run()


def test_a_message_waits_so_long_and_is_then_refused_with_its_place(lake_root):
    device, log = SimDevice(), SimLog()
    cloud = Cloud(lake_root, (device, "default"))
    device.version = in_version(9, RARER)
    cloud.run(log.append(rows(device, 0.05)))
    assert refused(cloud.run(after_s=WAIT_S)) == []
    out = cloud.run(after_s=WAIT_S + 1)
    [(error, reason)] = refused(out)
    assert (error, "machine@9" in reason) == ("ProfileVersionError", True)
    assert (cloud.waits, cloud.counts("waiting_messages"), cloud.counts("quarantined_rows")) == ([], 0, 1)


def test_what_one_producer_and_one_task_may_have_wait_is_bounded(lake_root):
    senders, log = [SimDevice(f"m-{i}") for i in range(6)], SimLog()
    cloud = Cloud(lake_root, *((s, "default") for s in senders))
    for sender in senders:
        sender.version = in_version(9, RARER)
    flood = [log.append(rows(s, 0.05, first=i)) for s in senders for i in range(MOST_OF_PRODUCER + 1)]
    out = cloud.run(*flood)
    assert len(cloud.waits) == MOST_OF_TASK
    assert len(refused(out)) == len(flood) - MOST_OF_TASK
    kept = Counter(cloud.state.state[key]["key"] for key in cloud.waits)
    assert max(kept.values()) == MOST_OF_PRODUCER


def test_the_bytes_that_wait_are_bounded(lake_root):
    device, log = SimDevice(), SimLog()
    cloud = Cloud(lake_root, (device, "default"))
    device.version = in_version(9, RARER)
    many = [log.append(rows(device, 0.05, 1500, first=1500 * i)) for i in range(8)]
    size = min(len(m.value) for m in many)
    out = cloud.run(*many)
    assert size > MOST_BYTES / 8
    assert len(cloud.waits) <= MOST_BYTES // size
    assert len(refused(out)) == len(many) - len(cloud.waits)


def test_a_stranger_cannot_make_anything_wait(lake_root):
    device, stranger, log = SimDevice(), SimDevice(), SimLog()
    cloud = Cloud(lake_root, (device, "default"))
    stranger.version = in_version(9, RARER)
    out = cloud.run(log.append(rows(stranger, 0.05)))
    assert cloud.waits == []
    assert [e for e, _ in refused(out)] == ["SignatureError"]


def test_the_version_is_part_of_what_is_signed(lake_root):
    device, log = SimDevice(), SimLog()
    cloud = Cloud(lake_root, (device, "default"))
    cloud.push(1, MACHINE)
    cloud.push(2, RARER)
    device.version = in_version(2, RARER)
    message = log.append(rows(device, 0.05))
    other = in_version(1, MACHINE).encode()
    swapped = [(k, other if k == "profile_version" else v) for k, v in message.headers]
    out = cloud.run(message._replace(headers=swapped))
    assert [e for e, _ in refused(out)] == ["SignatureError"]
    none = [h for h in message.headers if h[0] != "profile_version"]
    assert [e for e, _ in refused(cloud.run(message._replace(headers=none)))] == ["SignatureError"]


@pytest.mark.parametrize("n", [1, 9])
def test_headers_with_a_version_are_read_from_memory_as_in_full(n):
    device, log = SimDevice(version=in_version(3, RARER)), SimLog()
    sealed = [rows(device, 0.05, first=i) for i in range(n + 1)]
    messages = [log.append(m) for m in (sealed_together(sealed, device.signer) if n > 1 else sealed)]
    known = KnownHeaders()
    known.learn(messages[0], read_envelope(messages[0].key, messages[0].headers)[0])
    last = messages[-1]
    envelope, proof = read_envelope(last.key, last.headers)
    assert known.read(last) == (envelope, proof, signed_by(last.topic, last.key, last.headers))
    other = [(k, b"4.0123456789abcdef" if k == "profile_version" else v) for k, v in last.headers]
    assert known.read(last._replace(headers=other)) is None
    gone = [(k, None if k == "profile_version" else v) for k, v in last.headers]
    assert known.read(last._replace(headers=gone)) is None


def test_a_gateways_rows_are_judged_by_what_was_in_a_channel_of_its_devices(tmp_path):
    line, hall = SimDevice("line-1"), SimDevice("hall-3")
    cloud = Cloud(tmp_path, (line, "default"))
    record = cloud.devices.history().newest["line-1"]
    cloud.devices.register(
        [
            replace(record, gateway="hall-3"),
            replace(
                record, device_id="hall-3", group="gateways", hardware=GATEWAY, key_id=hall.signer.key_id,
                public_key=hall.signer.public_pem().decode(),
            ),
        ]
    )  # fmt: skip
    cloud.push(1, MACHINE)
    cloud.push(2, RARER, group="other")
    cloud.time += 60
    judge = cloud.directory.judge_of
    assert judge("machine", in_version(1, MACHINE), "hall-3") == MACHINE
    with pytest.raises(ProfileVersionError, match="never in the channel of group 'default', 'gateways'"):
        judge("machine", in_version(2, RARER), "hall-3")


def test_the_watch_goes_by_what_a_channel_named_last_and_unnamed_rows_by_what_is_registered(
    tmp_path,
):
    device = SimDevice("line-1")
    cloud = Cloud(tmp_path, (device, "default"))
    assert cloud.directory.profile_of("machine") == MACHINE
    cloud.push(1, MACHINE)
    cloud.push(2, RARER)
    unnamed = cloud.signers.sign(MACHINE, 3, groups=("default",))
    cloud.versions.put(unnamed)
    cloud.time += 60
    assert cloud.directory.profile_of("machine") == RARER
    assert cloud.directory.judge_of("machine", None, "line-1") == MACHINE
    newest = tmp_path / "_profile_versions" / "machine" / "000002.json"
    for path in (newest, copy_of(tmp_path, newest)):
        path.write_bytes(b"{")
    cloud.time += 60
    assert cloud.directory.profile_of("machine") == MACHINE

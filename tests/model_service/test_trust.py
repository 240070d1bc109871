"""The cloud side of trust: who can publish what, and what readers and a restart find after a kill."""

import hashlib
import multiprocessing
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from edge_producer.trust import TrustedTime, TrustVerifier
from model_service.settings import ModelSettings
from model_service.trust import (
    broad_state,
    ceremony,
    countersign_broad,
    countersign_model,
    load_online_key,
    model_state,
    propose_broad,
    propose_model,
    publish_broad,
    publish_canary,
    publish_model,
)
from model_service.trust.keyring import Keyring
from model_service.trust.metadata import Targets, newer, sign, target_file
from model_service.trust.proposals import proposal_file
from schemas.channel_documents import TargetCustom, artifact_path, channel_path, model_role
from schemas.cohorts import SaltedShare
from schemas.durable import DISK
from schemas.errors import OperatorError, PipelineError, RegistryError, RetryableError, TrustError
from schemas.updates import Attack
from tests.simulators.tuf_repository import BUILD, FACTORY, FAMILY, GROUP, START, Clock, Cloud, Device
from tests.waiting import wait_until

ROLE = model_role(FAMILY)
DATA = b"bundle"
SHA256 = hashlib.sha256(DATA).hexdigest()
VERSION = f"{FAMILY}-1.{SHA256[:8]}"
PATH = artifact_path(FAMILY, VERSION)
CUSTOM = TargetCustom(family=FAMILY, version=VERSION, opset=17)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cloud(tmp_path: Path, clock: Clock) -> Cloud:
    return Cloud(tmp_path, clock)


def propose(cloud: Cloud) -> None:
    propose_model(cloud.repo, cloud.key("trainer", ROLE), DATA, CUSTOM)


def countersign(cloud: Cloud) -> None:
    countersign_model(cloud.repo, cloud.key("gate", ROLE), SHA256, CUSTOM)


# models


def test_a_bundle_is_published_once_both_keys_signed_it(cloud: Cloud):
    assert model_state(cloud.repo, FAMILY, PATH, SHA256) == "absent"
    propose(cloud)
    assert model_state(cloud.repo, FAMILY, PATH, SHA256) == "proposed"
    with pytest.raises(RetryableError, match="enough signatures"):
        publish_model(cloud.repo, FAMILY, cloud.online, PATH)
    countersign(cloud)
    assert model_state(cloud.repo, FAMILY, PATH, SHA256) == "signed"
    assert publish_model(cloud.repo, FAMILY, cloud.online) == PATH
    assert model_state(cloud.repo, FAMILY, PATH, SHA256) == "published"
    assert cloud.repo.target(PATH) == (len(DATA), SHA256, CUSTOM.model_dump(mode="json"))
    published = cloud.repo.artifact(SHA256)
    assert published is not None
    assert (
        published == cloud.settings.repository / "targets" / "models" / FAMILY / f"{SHA256}.{VERSION}.bundle"
    )
    assert published.read_bytes() == DATA


def test_every_step_may_be_repeated(cloud: Cloud):
    for _ in range(2):
        propose(cloud)
    for _ in range(2):
        countersign(cloud)
    for _ in range(2):
        publish_model(cloud.repo, FAMILY, cloud.online, PATH)
    propose(cloud)
    countersign(cloud)
    assert cloud.repo.versions()[ROLE] == 2


@pytest.mark.parametrize("process", ["trainer", "gate"])
def test_a_process_whose_key_was_rotated_must_restart(cloud: Cloud, process: str):
    old = {name: cloud.key(name, ROLE) for name in ("trainer", "gate")}
    ceremony.rotate(cloud.settings, ROLE, process, now=cloud.clock)
    if process == "trainer":
        with pytest.raises(OperatorError, match="restart this process"):
            propose_model(cloud.repo, old["trainer"], DATA, CUSTOM)
    else:
        propose(cloud)
        with pytest.raises(OperatorError, match="restart this process"):
            countersign_model(cloud.repo, old["gate"], SHA256, CUSTOM)


def test_the_gates_key_twice_is_not_two_keys(cloud: Cloud):
    propose_model(cloud.repo, cloud.key("gate", ROLE), DATA, CUSTOM)
    with pytest.raises(TrustError, match="no valid signature") as caught:
        countersign(cloud)
    assert caught.value.attack is Attack.UNSIGNED_INSTRUCTION
    with pytest.raises(RetryableError):
        publish_model(cloud.repo, FAMILY, cloud.online, PATH)


def forged(cloud: Cloud, change: Callable[[Targets], object], role: str = ROLE, path: str = PATH) -> None:
    """A proposal of the trainer (or engine) that does more than it says."""
    process = "trainer" if role == ROLE else "engine"
    proposal = newer(cloud.repo.published().roles[role], cloud.clock(), timedelta(days=365))
    proposal.targets[path] = target_file(path, DATA, CUSTOM.model_dump(mode="json"))
    change(proposal)
    DISK.write(proposal_file(cloud.repo, role, path), sign(proposal, [cloud.key(process, role)]))
    DISK.write(cloud.settings.artifacts / SHA256, DATA)


def add_another(proposal: Targets) -> None:
    proposal.targets["models/machine/evil.bundle"] = target_file("models/machine/evil.bundle", b"evil")


def other_bytes(proposal: Targets) -> None:
    proposal.targets[PATH] = target_file(PATH, b"evil", CUSTOM.model_dump(mode="json"))


def other_hardware(proposal: Targets) -> None:
    custom = CUSTOM.model_copy(update={"hardware": ("anything",)}).model_dump(mode="json")
    proposal.targets[PATH] = target_file(PATH, DATA, custom)


@pytest.mark.parametrize(
    "change",
    [
        add_another,
        other_bytes,
        other_hardware,
        lambda p: p.targets.pop(PATH),
        lambda p: setattr(p, "version", 7),
        lambda p: setattr(p, "expires", START + timedelta(days=4000)),
        lambda p: setattr(p, "expires", START - timedelta(days=1)),
        lambda p: p.unrecognized_fields.update({"x-edgeloop-issued": "2099-01-01T00:00:00+00:00"}),
        lambda p: p.unrecognized_fields.update({"x-surprise": 1}),
        lambda p: p.targets[PATH].hashes.update({"sha512": "0" * 128}),
        lambda p: setattr(p.targets[PATH], "length", 1),
    ],
)
def test_a_gate_refuses_a_proposal_that_does_anything_else(cloud: Cloud, change: Callable[[Targets], object]):
    forged(cloud, change)
    with pytest.raises(TrustError):
        countersign(cloud)
    with pytest.raises(RetryableError):
        publish_model(cloud.repo, FAMILY, cloud.online, PATH)


def test_a_gate_refuses_a_proposal_that_drops_what_is_published(cloud: Cloud):
    cloud.publish_model(3)
    forged(cloud, lambda p: [p.targets.pop(path) for path in list(p.targets) if path != PATH])
    with pytest.raises(TrustError, match="changes more"):
        countersign(cloud)


def test_a_gate_refuses_an_artifact_that_was_swapped(cloud: Cloud):
    propose(cloud)
    (cloud.settings.artifacts / SHA256).write_bytes(DATA[::-1])
    with pytest.raises(TrustError) as caught:
        countersign(cloud)
    assert caught.value.attack is Attack.TAMPERED_ARTIFACT


def test_a_proposal_is_stale_once_its_role_has_a_newer_version_and_is_then_proposed_and_signed_again(
    cloud: Cloud,
):
    propose(cloud)
    countersign(cloud)
    cloud.publish_model(2)
    assert model_state(cloud.repo, FAMILY, PATH, SHA256) == "stale"
    with pytest.raises(RetryableError, match="stale"):
        countersign(cloud)
    with pytest.raises(RetryableError, match="stale"):
        publish_model(cloud.repo, FAMILY, cloud.online, PATH)
    propose(cloud)
    countersign(cloud)
    publish_model(cloud.repo, FAMILY, cloud.online, PATH)
    assert len(cloud.repo.published().roles[ROLE].targets) == 2


def test_a_family_that_was_not_added_has_no_role(cloud: Cloud):
    custom = CUSTOM.model_copy(update={"family": "robot", "version": "robot-1.00000000"})
    with pytest.raises(TrustError, match="do not delegate"):
        propose_model(cloud.repo, cloud.key("trainer", ROLE), DATA, custom)


# channels


def test_a_broad_channel_takes_two_keys_and_is_readable_when_it_is_visible(cloud: Cloud):
    channel = cloud.channel("broad", 1, FACTORY)
    propose_broad(cloud.repo, channel, cloud.key("engine", "channels-broad"))
    with pytest.raises(RetryableError, match="enough signatures"):
        publish_broad(cloud.repo, GROUP, cloud.online)
    countersign_broad(cloud.repo, channel, cloud.key("guard", "channels-broad"))
    assert broad_state(cloud.repo, channel) == "signed"
    for _ in range(2):
        publish_broad(cloud.repo, GROUP, cloud.online)
    assert cloud.repo.channels(GROUP) == {"broad": channel}
    assert broad_state(cloud.repo, channel) == "published"


def test_a_persons_key_replaces_the_guards(cloud: Cloud):
    channel = cloud.channel("broad", 1, FACTORY)
    propose_broad(cloud.repo, channel, cloud.key("engine", "channels-broad"))
    countersign_broad(cloud.repo, channel, cloud.offline_key("person"))
    publish_broad(cloud.repo, GROUP, cloud.online)
    assert cloud.repo.channels(GROUP) == {"broad": channel}


def test_a_guard_refuses_another_document_than_it_examined(cloud: Cloud):
    channel = cloud.channel("broad", 1, FACTORY)
    wider = channel.model_copy(update={"holdout": SaltedShare(share=1.0)})
    propose_broad(cloud.repo, wider, cloud.key("engine", "channels-broad"))
    with pytest.raises(TrustError, match="other bytes"):
        countersign_broad(cloud.repo, channel, cloud.key("guard", "channels-broad"))


def test_a_guard_refuses_a_change_of_a_second_group(cloud: Cloud):
    channel = cloud.channel("broad", 1, FACTORY)
    path = channel_path(GROUP, "broad")
    document = channel.model_dump_json().encode()

    def both(proposal: Targets) -> None:
        proposal.targets[path] = target_file(path, document)
        proposal.targets["channels/other/broad.json"] = target_file("channels/other/broad.json", document)

    forged(cloud, both, "channels-broad", path)
    with pytest.raises(TrustError, match="changes more"):
        countersign_broad(cloud.repo, channel, cloud.key("guard", "channels-broad"))


@pytest.mark.parametrize("ring", ["canary", "broad"])
def test_seq_never_falls_in_a_ring(cloud: Cloud, ring: str):
    publish = cloud.canary if ring == "canary" else cloud.broad
    publish(5, FACTORY)
    for seq in (4, 5):
        with pytest.raises(TrustError) as caught:
            publish(seq, cloud.publish_model(seq))
        assert caught.value.attack is Attack.REPLAYED_CHANNEL
    assert cloud.repo.channels(GROUP)[ring].seq == 5  # type: ignore[index]


def test_a_channel_goes_into_its_own_ring_only(cloud: Cloud):
    with pytest.raises(ValueError, match="ring broad"):
        publish_canary(
            cloud.repo,
            cloud.channel("broad", 1, FACTORY),
            cloud.key("engine", "channels-canary"),
            cloud.online,
        )
    with pytest.raises(ValueError, match="ring canary"):
        propose_broad(cloud.repo, cloud.channel("canary", 1, FACTORY), cloud.key("engine", "channels-broad"))


# publication


def test_a_reader_sees_one_consistent_state_at_every_moment(cloud: Cloud, tmp_path: Path):
    stop, faults = threading.Event(), list[Exception]()
    reads = [0]

    def read() -> None:
        time = TrustedTime(tmp_path / "time.json", BUILD, cloud.clock.monotonic)
        while not stop.is_set():
            verifier = TrustVerifier(tmp_path / f"reader-{reads[0] % 7}", cloud.root, time, group=GROUP)
            try:
                verifier.apply(*cloud.repo.reply(verifier.versions(), verifier.documents(), GROUP))
            except (PipelineError, OSError, ValueError, LookupError) as exc:
                faults.append(exc)
                return
            reads[0] += 1

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for seq in range(1, 9):
            cloud.canary(seq, FACTORY)
            ceremony.rotate(cloud.settings, "timestamp", "engine", now=cloud.clock)
            ceremony.rotate(cloud.settings, "snapshot", "engine", now=cloud.clock)
        ceremony.rotate(cloud.settings, "targets", "targets-1", now=cloud.clock)
        ceremony.rotate(cloud.settings, "channels-canary", "engine", now=cloud.clock)
        wait_until(lambda: faults or reads[0] > 20, what="the reader's twentieth read")
    finally:
        stop.set()
        reader.join()
    assert faults == []


def test_the_online_roles_are_renewed_at_half_their_lifetime(cloud: Cloud, clock: Clock):
    assert not cloud.online.renew_if_due(cloud.repo, clock())
    before = cloud.repo.versions()
    clock.advance(hours=13)
    assert cloud.online.renew_if_due(cloud.repo, clock())
    assert cloud.repo.versions() == {**before, "timestamp": 2}
    clock.advance(days=4)
    assert cloud.online.renew_if_due(cloud.repo, clock())
    assert cloud.repo.versions() == {**before, "timestamp": 3, "snapshot": 2}


def test_a_process_with_a_rotated_key_cannot_publish(cloud: Cloud):
    old = cloud.online
    ceremony.rotate(cloud.settings, "timestamp", "engine", now=cloud.clock)
    with pytest.raises(OperatorError, match="restart this process"):
        publish_canary(
            cloud.repo, cloud.channel("canary", 1, FACTORY), cloud.key("engine", "channels-canary"), old
        )


def test_an_altered_published_document_needs_an_operator(cloud: Cloud):
    cloud.canary(1, FACTORY)
    for folder in ("repository", "repository-copies"):
        [file] = (cloud.settings.root / folder / "targets" / "channels" / GROUP).iterdir()
        file.write_bytes(b"{}")
    with pytest.raises(OperatorError, match="is damaged"):
        cloud.repo.channels(GROUP)


def test_artifacts_are_named_by_published_models_only(cloud: Cloud):
    propose(cloud)
    assert cloud.repo.artifact(SHA256) is None


# ceremony


def test_init_repeated_changes_nothing_and_adds_what_is_new(cloud: Cloud):
    before = cloud.repo.versions()
    ceremony.init(cloud.settings, [FAMILY], {GROUP: SaltedShare()}, now=cloud.clock)
    assert cloud.repo.versions() == before
    assert cloud.repo.root() == cloud.root
    ceremony.init(cloud.settings, [FAMILY, "robot"], {"new": SaltedShare(share=0.5)}, now=cloud.clock)
    assert "models-robot" in cloud.repo.versions()
    assert cloud.repo.policy().canary.keys() == {GROUP, "new"}


def test_keys_are_kept_apart_and_only_their_owner_may_read_them(cloud: Cloud):
    keys = cloud.settings.keys
    held = {str(p.relative_to(keys)) for p in keys.rglob("*.pem")}
    assert held == {
        "engine/snapshot.pem",
        "engine/timestamp.pem",
        "engine/channels-canary.pem",
        "engine/channels-broad.pem",
        "guard/channels-broad.pem",
        f"trainer/{ROLE}.pem",
        f"gate/{ROLE}.pem",
    }
    private = [*keys.rglob("*"), *cloud.settings.offline_keys.rglob("*")]
    assert all(stat.S_IMODE(p.stat().st_mode) & 0o077 == 0 for p in private)
    offline = [p for p in cloud.settings.offline_keys.iterdir() if p.suffix == ".pem"]
    assert len(offline) == 8
    assert all(b"ENCRYPTED PRIVATE KEY" in p.read_bytes() for p in offline)


def test_a_key_that_everybody_may_read_is_refused(cloud: Cloud):
    path = cloud.settings.keys / "engine" / "timestamp.pem"
    path.chmod(0o644)
    with pytest.raises(OperatorError, match="open to everybody"):
        load_online_key(path.parent, "timestamp")


@pytest.mark.parametrize(
    ("role", "holder"),
    [
        ("root", "root-2"),
        ("targets", "targets-1"),
        ("policy", "policy"),
        ("snapshot", "engine"),
        ("timestamp", "engine"),
        ("channels-canary", "engine"),
        ("channels-broad", "guard"),
        (ROLE, "trainer"),
    ],
)
def test_a_rotated_key_is_not_accepted_and_devices_follow(
    cloud: Cloud, tmp_path: Path, role: str, holder: str
):
    device = Device(tmp_path / "device", cloud)
    device.poll()
    before = {k.key_id for s in ceremony.status(cloud.settings) if s.role == role for k in s.keys}
    new = ceremony.rotate(cloud.settings, role, holder, now=cloud.clock)
    [after] = [s for s in ceremony.status(cloud.settings) if s.role == role]
    assert len({k.key_id for k in after.keys} & before) == len(before) - 1
    assert {k.holder: k.key_id for k in after.keys}[holder] == new
    cloud.broad(1, cloud.publish_model(1))
    assert device.poll().changes == (FAMILY,)


def test_a_lost_timestamp_key_is_replaced_with_the_offline_keys(cloud: Cloud, tmp_path: Path):
    device = Device(tmp_path / "device", cloud)
    device.poll()
    (cloud.settings.keys / "engine" / "timestamp.pem").unlink()
    ceremony.rotate(cloud.settings, "timestamp", "engine", now=cloud.clock)
    cloud.canary(1, FACTORY)
    assert device.poll().channel is not None


def test_a_rotation_needs_two_of_three_offline_keys(cloud: Cloud):
    for name in ("root-1", "root-3"):
        (cloud.settings.offline_keys / f"{name}.pem").unlink()
    with pytest.raises(OperatorError, match="needs 2 keys, 1 are available; bring those of root-1, root-3"):
        ceremony.rotate(cloud.settings, "timestamp", "engine", now=cloud.clock)


def test_offline_keys_may_be_brought_from_anywhere_with_their_passphrase(cloud: Cloud, tmp_path: Path):
    passphrase = (cloud.settings.offline_keys / "PASSPHRASE").read_text().splitlines()[0]
    away = tmp_path / "stick"
    cloud.settings.offline_keys.rename(away)
    (away / "PASSPHRASE").unlink()
    with pytest.raises(OperatorError, match="no passphrase"):
        ceremony.rotate(cloud.settings, "root", "root-1", now=cloud.clock)
    with pytest.raises(OperatorError, match="cannot be read"):
        ceremony.rotate(cloud.settings, "root", "root-1", Keyring(cloud.settings, away, "wrong"), cloud.clock)
    ceremony.rotate(cloud.settings, "root", "root-1", Keyring(cloud.settings, away, passphrase), cloud.clock)
    cloud.canary(1, FACTORY)  # daily work needs none of them
    assert not any(k.here for s in ceremony.status(cloud.settings) for k in s.keys if k.offline)


def test_nobody_holds_a_key_of_another_role(cloud: Cloud):
    with pytest.raises(RegistryError, match="is held by guard"):
        ceremony.rotate(cloud.settings, "timestamp", "guard", now=cloud.clock)


def test_renew_signs_what_is_due_and_devices_accept_it(cloud: Cloud, clock: Clock, tmp_path: Path):
    device = Device(tmp_path / "device", cloud)
    device.poll()
    assert ceremony.renew(cloud.settings, now=clock) == ["snapshot", "timestamp"]
    clock.advance(days=300)
    renewed = ceremony.renew(cloud.settings, now=clock)
    assert set(renewed) == set(cloud.repo.versions())
    device.poll()
    assert min(s.expires for s in ceremony.status(cloud.settings) if s.role != "timestamp") > clock()


def test_floors_never_fall(cloud: Cloud):
    ceremony.set_policy(cloud.settings, floors={FAMILY: 3}, now=cloud.clock)
    with pytest.raises(RegistryError, match="never falls"):
        ceremony.set_policy(cloud.settings, floors={FAMILY: 2}, now=cloud.clock)
    assert cloud.repo.policy().seq == 2


# kills


def _run_killed(work: Callable[[], object], writes: int) -> int:
    """Run it in a process of its own that kills itself at its n-th rename or link; its exit code."""

    def body() -> None:
        left = iter(range(writes, -1, -1))

        def dying(event: str, _args: object) -> None:
            if event in {"os.rename", "os.link"} and next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(dying)
        work()

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    process.join(60)
    assert process.exitcode in {0, -signal.SIGKILL}
    return process.exitcode or 0


@pytest.mark.faults
def test_init_killed_at_any_write_goes_on_at_the_next_call(tmp_path: Path):
    for point in range(0, 120, 7):
        settings = ModelSettings(root=tmp_path / f"models-{point}", lake_root=tmp_path / "lake")
        code = _run_killed(lambda s=settings: ceremony.init(s, [FAMILY], {GROUP: SaltedShare()}), point)  # type: ignore[misc]
        ceremony.init(settings, [FAMILY], {GROUP: SaltedShare()})
        repo = ceremony.open_repository(settings)
        verifier = TrustVerifier(
            tmp_path / f"device-{point}",
            repo.root(),
            TrustedTime(tmp_path / f"time-{point}.json", BUILD),
            group=GROUP,
        )
        assert verifier.apply(*repo.reply({}, {}, GROUP)).policy.seq == 1
        assert not (settings.root / ".trust-init").exists()
        if code == 0:
            break
    else:
        pytest.fail("init never came to its end")
    assert point > 30


@pytest.mark.sliced(one_of=4)
@pytest.mark.faults
@pytest.mark.parametrize("what", ["publish", "rotate-timestamp", "rotate-root", "rotate-gate"])
def test_publication_and_rotation_killed_at_any_write_go_on_at_the_next_call(tmp_path: Path, what: str):
    for point in range(40):
        cloud = Cloud(tmp_path / f"{point}", Clock())
        device = Device(tmp_path / f"device-{point}", cloud)
        device.poll()
        release = cloud.publish_model(1)
        work: dict[str, Callable[[], object]] = {
            "publish": lambda c=cloud, r=release: c.canary(1, r),  # type: ignore[misc]
            "rotate-timestamp": lambda c=cloud: ceremony.rotate(
                c.settings, "timestamp", "engine", now=c.clock
            ),  # type: ignore[misc]
            "rotate-root": lambda c=cloud: ceremony.rotate(c.settings, "root", "root-1", now=c.clock),  # type: ignore[misc]
            "rotate-gate": lambda c=cloud: ceremony.rotate(c.settings, ROLE, "gate", now=c.clock),  # type: ignore[misc]
        }
        code = _run_killed(work[what], point)
        device.poll()  # whatever is visible holds
        work[what]()
        cloud.broad(2, release)
        assert device.poll().channel is not None
        assert device.highest_seq == 2
        if code == 0:
            break
    else:
        pytest.fail(f"{what} never came to its end")
    assert point >= 3


@pytest.mark.parametrize("name", ["1.root.json", "timestamp.json"])
def test_a_bit_that_turned_beside_the_signed_part_is_healed_too(cloud: Cloud, name: str):
    """Hex digits in upper case still verify, and so does a quorum without one of its signatures."""
    cloud.repo.check_files()
    path = cloud.repo.metadata / name
    held = path.read_bytes()
    assert held.index(b'"signatures"') < held.index(b'"signed"')
    letters = [at for at in range(held.index(b'"signed"')) if chr(held[at]).isalpha()]
    for at in letters[::5]:
        path.write_bytes(held[:at] + bytes([held[at] ^ 0x20]) + held[at + 1 :])
        cloud.repo.check_files()
        assert path.read_bytes() == held, at

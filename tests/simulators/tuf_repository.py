"""A whole trust repository with a settable clock and all keys, which a test may misuse; and its devices."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edge_producer.trust import DeviceFacts, Instruction, TrustedTime, TrustVerifier, VerifiedState, decide
from model_service.settings import ModelSettings
from model_service.trust import (
    OnlineSigner,
    TrustRepository,
    ceremony,
    countersign_broad,
    countersign_model,
    load_online_key,
    propose_broad,
    propose_model,
    publish_broad,
    publish_canary,
    publish_model,
)
from model_service.trust.keyring import Keyring
from model_service.trust.metadata import CryptoSigner, Targets, meta_file, newer, sign
from model_service.trust.roles import OFFLINE, KeyLocation
from schemas.channel_documents import (
    BROAD,
    CANARY,
    ChannelDocument,
    Release,
    Ring,
    TargetCustom,
    artifact_path,
    model_role,
)
from schemas.cohorts import EVERYBODY, SaltedShare
from schemas.durable import DISK

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
BUILD = datetime(2026, 5, 1, tzinfo=UTC)
GROUP, FAMILY, CANARY_DEVICE, OTHER_DEVICE = "site", "machine", "dev-canary", "dev-other"
FACTORY = Release(version="machine-0.00000000")

Files = list[tuple[str, bytes]]
Reply = tuple[Files, Files]


class Clock:
    """True time, which only the test moves."""

    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - START).total_seconds() + 5000.0

    def advance(self, **by: float) -> None:
        self.at += timedelta(**by)


class Cloud:
    """The cloud side, with the keys of every process."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.clock = clock
        self.settings = ModelSettings(root=folder / "models", lake_root=folder / "lake")
        pool = SaltedShare(devices=(CANARY_DEVICE,))
        ceremony.init(self.settings, [FAMILY], {GROUP: pool}, now=clock)
        self.repo = TrustRepository(self.settings.repository, self.settings.proposals, now=clock)
        self.root = self.repo.root()

    @property
    def online(self) -> OnlineSigner:
        return OnlineSigner.load(self.settings)

    def key(self, process: str, role: str) -> CryptoSigner:
        return load_online_key(self.settings.keys / process, role)

    def offline_key(self, name: str) -> CryptoSigner:
        return Keyring(self.settings).get_or_make(KeyLocation(OFFLINE, name))

    def publish_model(
        self, major: int, hardware: tuple[str, ...] = (), opset: int = 17, data: bytes | None = None
    ) -> Release:
        """A bundle signed by trainer and gate."""
        data = data or f"bundle {major}".encode()
        sha256 = hashlib.sha256(data).hexdigest()
        version = f"{FAMILY}-{major}.{sha256[:8]}"
        path, role = artifact_path(FAMILY, version), model_role(FAMILY)
        custom = TargetCustom(family=FAMILY, version=version, hardware=hardware, opset=opset)
        propose_model(self.repo, self.key("trainer", role), data, custom)
        countersign_model(self.repo, self.key("gate", role), sha256, custom)
        publish_model(self.repo, FAMILY, self.online, path)
        return Release(version=version, sha256=sha256)

    def channel(self, ring: Ring, seq: int, target: Release, **changes: object) -> ChannelDocument:
        """A channel document that has the target for everybody."""
        return ChannelDocument(
            group=GROUP,
            ring=ring,
            seq=seq,
            rollout_id="r1",
            target={FAMILY: target},
            baseline={FAMILY: FACTORY},
            cohort=EVERYBODY,
            issued=self.clock(),
            expires=self.clock() + timedelta(days=30),
        ).model_copy(update=changes)

    def canary(self, seq: int, target: Release, **changes: object) -> ChannelDocument:
        """A published canary document."""
        channel = self.channel(CANARY, seq, target, **changes)
        publish_canary(self.repo, channel, self.key("engine", "channels-canary"), self.online)
        return channel

    def broad(self, seq: int, target: Release, **changes: object) -> ChannelDocument:
        """A published broad document, signed by engine and guard."""
        channel = self.channel(BROAD, seq, target, **changes)
        propose_broad(self.repo, channel, self.key("engine", "channels-broad"))
        countersign_broad(self.repo, channel, self.key("guard", "channels-broad"))
        publish_broad(self.repo, GROUP, self.online)
        return channel

    def reply(self, verifier: TrustVerifier) -> Reply:
        """What an honest service answers."""
        answer = self.repo.reply(verifier.versions(), verifier.documents(), GROUP)
        return list(answer.metadata), list(answer.documents)

    def everything(self) -> Reply:
        """All that is published now: to be replayed later."""
        answer = self.repo.reply({}, {}, GROUP)
        return list(answer.metadata), list(answer.documents)

    def force(
        self, role: str, signers: Sequence[CryptoSigner], change: Callable[[Targets], None], data: bytes = b""
    ) -> None:
        """Publish a role's next version with any signatures, as a thief of the online keys can."""
        with self.repo.locked() as published:
            following = newer(published.roles[role], self.clock(), timedelta(days=90))
            change(following)
            signed = sign(following, signers)
            snapshot = newer(published.snapshot, self.clock(), timedelta(days=7))
            snapshot.meta[f"{role}.json"] = meta_file(following.version, signed)
            snapshot_bytes = sign(snapshot, [self.key("engine", "snapshot")])
            timestamp = newer(published.timestamp, self.clock(), timedelta(days=1))
            timestamp.snapshot_meta = meta_file(snapshot.version, snapshot_bytes)
            DISK.write(self.repo.metadata / f"{following.version}.{role}.json", signed)
            DISK.write(self.repo.metadata / f"{snapshot.version}.snapshot.json", snapshot_bytes)
            timestamp_bytes = sign(timestamp, [self.key("engine", "timestamp")])
            DISK.write(self.repo.metadata / "timestamp.json", timestamp_bytes)
            for path, entry in following.targets.items():
                if data and entry.hashes["sha256"] == hashlib.sha256(data).hexdigest():
                    DISK.write(self.repo.target_file(path, entry.hashes["sha256"]), data)


class Device:
    """A device that fetches, verifies and decides; it runs what it decided."""

    def __init__(
        self, folder: Path, cloud: Cloud, device_id: str = CANARY_DEVICE, **verifier: object
    ) -> None:
        self.device_id, self.cloud, self.folder = device_id, cloud, folder
        self.time = TrustedTime(folder / "time.json", BUILD, cloud.clock.monotonic)
        self.verifier = TrustVerifier(folder / "metadata", cloud.root, self.time, group=GROUP, **verifier)  # type: ignore[arg-type]
        self.installed = {FAMILY: FACTORY}
        self.highest_seq = 0
        self.hardware = "sim"

    def facts(self) -> DeviceFacts:
        """What it knows of itself."""
        families = (FAMILY,)
        return DeviceFacts(
            self.device_id, GROUP, self.hardware, families, self.highest_seq, dict(self.installed), 21
        )

    def verify(self, reply: Reply | None = None) -> VerifiedState:
        """Verify an answer; by default an honest one."""
        return self.verifier.apply(*(self.cloud.reply(self.verifier) if reply is None else reply))

    def poll(self, reply: Reply | None = None) -> Instruction:
        """Verify, decide, and run it."""
        instruction = decide(self.verify(reply), self.facts(), self.time.now())
        if instruction.channel is not None:
            self.highest_seq = instruction.channel.seq
            self.installed.update(instruction.wanted)
        return instruction

    def restarted(self, **verifier: object) -> "Device":
        """The same device after a kill: only its folder is left, and what it had committed."""
        again = Device(self.folder, self.cloud, self.device_id, **verifier)
        again.installed, again.highest_seq = copy.copy(self.installed), self.highest_seq
        return again


def altered(files: Files, name: str, change: Callable[[bytes], bytes]) -> Files:
    """The files with one of them changed; its name may lack the version."""
    found = [n for n, _ in files if n == name or n.partition(".")[2] == name]
    assert found, f"no {name} among {[n for n, _ in files]}"
    return [(n, change(data) if n == found[0] else data) for n, data in files]


def flipped(data: bytes) -> bytes:
    """Metadata whose expiry is a thousand years later; the signatures are the old ones."""
    assert b'"expires":"2' in data
    return data.replace(b'"expires":"2', b'"expires":"3')

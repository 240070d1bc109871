"""Decides what a device should run, from verified documents and facts about the device. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from edge_producer.trust.verifier import VerifiedState
from schemas.channel_documents import BROAD, ChannelDocument, Release, artifact_path
from schemas.errors import TrustError
from schemas.runtime_range import allows
from schemas.updates import Attack


@dataclass(frozen=True)
class DeviceFacts:
    """What a device knows about itself.

    Attributes:
        hardware: Hardware class.
        families: Model families that it runs.
        highest_seq: Highest number of the channel documents that it ever accepted; 0 for none.
        installed: The releases that it runs, by family.
        max_opset: Highest ONNX operator set of its runtime.
        runtime: Version of onnxruntime.
    """

    device_id: str
    group: str
    hardware: str
    families: tuple[str, ...]
    highest_seq: int
    installed: Mapping[str, Release]
    max_opset: int
    runtime: str = ""


@dataclass(frozen=True)
class Instruction:
    """What the channel document in force wants of this device.

    Attributes:
        channel: The document; None where the group never had one: then the device keeps what is installed.
        wanted: Release by family, of the device's families that the document names.
        changes: Families whose wanted release is not the installed one, in the device's order.
    """

    channel: ChannelDocument | None = None
    wanted: Mapping[str, Release] = field(default_factory=dict)
    changes: tuple[str, ...] = ()


def decide(verified: VerifiedState, facts: DeviceFacts, now: datetime) -> Instruction:
    """The instruction in force. Checked in this order: channel document, hardware, seq, floors, revocations.

    Only changes are checked for hardware, floors and revocations: a refusal never stops what runs.

    Args:
        verified: From ``TrustVerifier.apply``.
        facts: About the device.
        now: Trusted time.

    Raises:
        TrustError: A check failed; it names the likely attack, and nothing must change.
    """
    if now >= verified.policy.expires:
        raise TrustError(
            f"the fleet policy expired at {verified.policy.expires:%Y-%m-%d %H:%M}", Attack.FREEZE
        )
    channel = document_in_force(verified, facts)
    if channel is None:
        if facts.highest_seq:
            raise TrustError(
                f"there is no channel document, but {facts.highest_seq} was accepted before",
                Attack.REPLAYED_CHANNEL,
            )
        return Instruction()
    if now >= channel.expires:
        raise TrustError(
            f"channel document {channel.seq} expired at {channel.expires:%Y-%m-%d %H:%M}", Attack.FREEZE
        )
    named = channel.wanted(facts.device_id)
    wanted = {family: named[family] for family in facts.families if family in named}
    changes = tuple(f for f, release in wanted.items() if facts.installed.get(f) != release)
    for family in changes:
        check_fit(verified, facts, family, wanted[family])
    if channel.seq < facts.highest_seq:
        raise TrustError(
            f"channel document {channel.seq} came after {facts.highest_seq}", Attack.REPLAYED_CHANNEL
        )
    for family in changes:
        check_policy(verified, family, wanted[family])
    return Instruction(channel, wanted, changes)


def document_in_force(verified: VerifiedState, facts: DeviceFacts) -> ChannelDocument | None:
    """The newest channel document for the device; those of the canary ring bind the policy's pool only."""
    pool = verified.policy.canary.get(facts.group)
    binding = [
        channel
        for ring, channel in verified.channels.items()
        if channel.group == facts.group
        and (ring == BROAD or (pool is not None and pool.includes(facts.device_id)))
    ]
    return max(binding, key=lambda channel: channel.seq, default=None)


def check_fit(
    verified: VerifiedState, facts: DeviceFacts, family: str, release: Release, kind: str = ""
) -> None:
    """Return if both keys of the family signed this very artifact, as such a kind, for this device.

    Raises:
        TrustError: They did not.
    """
    if release.sha256 is None:
        return
    path = artifact_path(family, release.version)
    target = verified.target(path)
    if target.sha256 != release.sha256:
        raise TrustError(
            f"the channel document names other bytes as {path} than its role", Attack.MIX_AND_MATCH
        )
    custom = target.custom
    if (custom.family, custom.version) != (family, release.version):
        raise TrustError(f"{path} is signed as {custom.family} {custom.version}", Attack.MIX_AND_MATCH)
    if custom.kind != kind:
        raise TrustError(f"{path} is signed as {custom.kind or 'a model'}", Attack.MIX_AND_MATCH)
    if custom.hardware and facts.hardware not in custom.hardware:
        raise TrustError(
            f"refused: hardware {facts.hardware}: {release.version} runs on {', '.join(custom.hardware)}",
            Attack.WRONG_HARDWARE,
        )
    if custom.opset > facts.max_opset:
        raise TrustError(
            f"refused: runtime: {release.version} needs operator set {custom.opset}, this one has"
            f" {facts.max_opset}",
            Attack.WRONG_HARDWARE,
        )
    if not allows(custom.runtime, facts.runtime):
        raise TrustError(
            f"refused: runtime onnxruntime {facts.runtime}: {release.version} runs on {custom.runtime}",
            Attack.WRONG_HARDWARE,
        )


def check_policy(verified: VerifiedState, family: str, release: Release) -> None:
    """Check floor and revocations. Factory releases pass: a device must always be able to return to them.

    Raises:
        TrustError: It lies below the floor, or was revoked.
    """
    if release.sha256 is None:
        return
    floor = verified.policy.floors.get(family, 0)
    if release.major < floor:
        raise TrustError(f"{release.version} lies below the floor {floor}", Attack.BELOW_FLOOR)
    if release.sha256 in verified.policy.revoked:
        raise TrustError(f"{release.version} was revoked", Attack.REVOKED_CONTENT)

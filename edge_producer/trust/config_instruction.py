"""Decides which configuration a device should decide by, from verified documents and facts. Pure.

Apart from the models' decision: a configuration that is refused never holds up a model, nor the other way.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edge_producer.trust.instruction import DeviceFacts, check_fit, check_policy, document_in_force
from edge_producer.trust.verifier import VerifiedState
from schemas.channel_documents import CONFIG_KIND, ChannelDocument, Release, artifact_path
from schemas.errors import TrustError
from schemas.updates import Attack


@dataclass(frozen=True)
class ConfigInstruction:
    """What the channel document in force wants of one family.

    Attributes:
        release: Without a digest: no configuration.
        length: Signed length of the artifact, bytes; 0: none is to be fetched.
    """

    channel: ChannelDocument
    release: Release
    length: int


def decide_config(
    verified: VerifiedState, facts: DeviceFacts, family: str, now: datetime
) -> ConfigInstruction | None:
    """The instruction in force; None: no document names the family, and the device keeps what it has.

    Args:
        verified: From ``TrustVerifier.apply``.
        facts: About the device; ``installed`` names the configuration that it has, ``highest_seq`` the newest
            document that it followed for the family.
        family: Of configurations.
        now: Trusted time.

    Raises:
        TrustError: A check failed; it names the likely attack, and nothing must change.
    """
    if now >= verified.policy.expires:
        raise TrustError("the fleet policy has expired", Attack.FREEZE)
    channel = document_in_force(verified, facts)
    if channel is None:
        if facts.highest_seq:
            raise TrustError(
                f"there is no channel document, but {facts.highest_seq} was accepted before",
                Attack.REPLAYED_CHANNEL,
            )
        return None
    if now >= channel.expires:
        raise TrustError(f"channel document {channel.seq} has expired", Attack.FREEZE)
    if channel.seq < facts.highest_seq:
        raise TrustError(
            f"channel document {channel.seq} came after {facts.highest_seq}", Attack.REPLAYED_CHANNEL
        )
    release = channel.wanted(facts.device_id).get(family)
    if release is None:
        return None
    if release.sha256 is None or facts.installed.get(family) == release:
        return ConfigInstruction(channel, release, 0)
    check_fit(verified, facts, family, release, CONFIG_KIND)
    check_policy(verified, family, release)
    length = verified.target(artifact_path(family, release.version)).length
    return ConfigInstruction(channel, release, length)

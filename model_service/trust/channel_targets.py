"""Makes channel documents targets: canary by the engine's key, broad by two of engine, guard and a person."""

from __future__ import annotations

import hashlib
from pathlib import Path

from model_service.trust.metadata import CryptoSigner, Targets, newer, parse, sign, target_file
from model_service.trust.online import OnlineSigner
from model_service.trust.proposals import (
    State,
    TargetChange,
    countersign,
    proposal_file,
    propose,
    signed_proposal,
    state,
    withdraw,
)
from model_service.trust.published import PublishedState
from model_service.trust.repository import TrustRepository
from model_service.trust.roles import ROLE_LIFETIME
from schemas.channel_documents import BROAD, BROAD_ROLE, CANARY, CANARY_ROLE, ChannelDocument, channel_path
from schemas.durable import DISK
from schemas.errors import RetryableError, TrustError
from schemas.updates import Attack


def document_bytes(channel: ChannelDocument) -> bytes:
    """The bytes of a channel document that are signed: the same on every machine."""
    return channel.model_dump_json().encode()


def publish_canary(
    repo: TrustRepository, channel: ChannelDocument, signer: CryptoSigner, online: OnlineSigner
) -> None:
    """Sign and publish a canary document. A repeat changes nothing.

    Args:
        repo: Gets the document.
        channel: A document of the canary ring.
        signer: The engine's key of role ``channels-canary``.
        online: Makes it visible.

    Raises:
        ValueError: The document is of another ring.
        TrustError: Its seq is not above that of the published one.
    """
    if channel.ring != CANARY:
        raise ValueError(f"channel document {channel.seq} is of ring {channel.ring}")
    data = document_bytes(channel)
    change = _change(channel)
    with repo.locked() as published:
        role = published.roles[CANARY_ROLE]
        if role.targets.get(change.path) == change.entry:
            return
        _refuse_older_seq(repo, channel)
        following = newer(role, repo.now(), ROLE_LIFETIME)
        following.targets[change.path] = change.entry
        files = {_file(repo, change): data}
        online.publish(repo, published, {CANARY_ROLE: sign(following, [signer])}, files)


def propose_broad(repo: TrustRepository, channel: ChannelDocument, signer: CryptoSigner) -> None:
    """Sign a proposal of a broad document. Repeat it until it is published: the proposal may become stale.

    Raises:
        ValueError: The document is of another ring.
        TrustError: Its seq is not above that of the published one.
    """
    change = _broad(channel)
    if broad_state(repo, channel) != "published":
        _refuse_older_seq(repo, channel)
    DISK.write(_content_file(repo, change.entry.hashes["sha256"]), document_bytes(channel))
    propose(repo, change, signer)


def countersign_broad(repo: TrustRepository, channel: ChannelDocument, signer: CryptoSigner) -> None:
    """Sign a proposal that holds exactly this document and changes nothing else.

    Raises:
        RetryableError: There is no proposal on the published version: it must be proposed (again).
        TrustError: It holds another document, changes anything else, lives too long, or has no signature.
    """
    countersign(repo, _broad(channel), signer)


def publish_broad(repo: TrustRepository, group: str, online: OnlineSigner) -> None:
    """Publish the group's broad proposal. If it is published already, nothing happens.

    Raises:
        RetryableError: No proposal on the published version has two signatures.
        TrustError: The document beside the proposal is not the one that was signed.
    """
    path = channel_path(group, BROAD)
    with repo.locked() as published:
        if _is_done(repo, published, path):
            return
        data = signed_proposal(repo, published, BROAD_ROLE, path)
        entry = parse(Targets, data, BROAD_ROLE).targets[path]
        # The proposal signs a digest; the document lies in a file that anybody with the folder could replace.
        document = _content(repo, entry.hashes["sha256"])
        _refuse_older_seq(repo, ChannelDocument.model_validate_json(document))
        files = {repo.target_file(path, entry.hashes["sha256"]): document}
        online.publish(repo, published, {BROAD_ROLE: data}, files)
        withdraw(repo, BROAD_ROLE, path)
        _content_file(repo, entry.hashes["sha256"]).unlink(missing_ok=True)


def broad_state(repo: TrustRepository, channel: ChannelDocument) -> State:
    """How far a broad document is; ``stale`` and ``absent``: propose it again."""
    return state(repo, _broad(channel))


def _change(channel: ChannelDocument) -> TargetChange:
    path = channel_path(channel.group, channel.ring)
    role = CANARY_ROLE if channel.ring == CANARY else BROAD_ROLE
    return TargetChange(role, target_file(path, document_bytes(channel)))


def _broad(channel: ChannelDocument) -> TargetChange:
    if channel.ring != BROAD:
        raise ValueError(f"channel document {channel.seq} is of ring {channel.ring}")
    return _change(channel)


def _refuse_older_seq(repo: TrustRepository, channel: ChannelDocument) -> None:
    known = repo.channels(channel.group).get(channel.ring)
    if known is not None and channel.seq <= known.seq:
        raise TrustError(
            f"channel document {channel.seq} of {channel.group} cannot follow {known.seq}: seqs only rise",
            Attack.REPLAYED_CHANNEL,
        )


def _file(repo: TrustRepository, change: TargetChange) -> Path:
    return repo.target_file(change.path, change.entry.hashes["sha256"])


def _content_file(repo: TrustRepository, sha256: str) -> Path:
    return repo.proposals / BROAD_ROLE / f"{sha256}.document"


def _content(repo: TrustRepository, sha256: str) -> bytes:
    try:
        document = _content_file(repo, sha256).read_bytes()
    except FileNotFoundError as exc:
        raise RetryableError("the proposal's document is missing; propose it again") from exc
    if hashlib.sha256(document).hexdigest() != sha256:
        raise TrustError(
            f"{_content_file(repo, sha256)}: a proposed document differs from what was signed; it is not "
            "published, and is written again with the next proposal",
            Attack.UNSIGNED_INSTRUCTION,
        )
    return document


def _is_done(repo: TrustRepository, published: PublishedState, path: str) -> bool:
    """Whether a document is published and none is proposed: then the call is a repeat."""
    return path in published.roles[BROAD_ROLE].targets and not proposal_file(repo, BROAD_ROLE, path).exists()

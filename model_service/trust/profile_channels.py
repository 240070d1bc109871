"""Makes a group's document on profiles a target, by the engine's key, and reads what is published."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from feature_store.version_store import VersionStore
from model_service.trust.metadata import CryptoSigner, newer, sign, target_file
from model_service.trust.online import OnlineSigner
from model_service.trust.published import PublishedState
from model_service.trust.repository import TrustRepository
from model_service.trust.roles import ROLE_LIFETIME
from schemas.errors import OperatorError, TrustError
from schemas.profile_channel import PROFILE_CHANNEL_ROLE, ProfileChannel, profile_channel_path
from schemas.updates import Attack


def publish_profile_channel(
    repo: TrustRepository,
    document: ProfileChannel,
    signer: CryptoSigner,
    online: OnlineSigner,
    lake_root: Path,
) -> None:
    """Sign and publish a group's document on profiles. A repeat changes nothing.

    Args:
        repo: Gets the document.
        document: The document.
        signer: The engine's key of role ``channels-profile``.
        online: Makes it visible.
        lake_root: The lake, which must know before that the group's channel names these versions.

    Raises:
        OperatorError: The repository has no such role: no version was ever signed in it.
        ProfileVersionError: A version is not in the lake, or is not for this group.
        TrustError: Its seq is not above that of the published one.
    """
    path, data = profile_channel_path(document.group), document.model_dump_json().encode()
    entry = target_file(path, data)
    # Step 1: the lake: a worker judges by what a channel ever named. A crash after it names too much there,
    # of which a signature still says that it is for this group.
    store = VersionStore(lake_root)
    for wanted in document.profiles.values():
        for statement in (wanted.target, wanted.baseline):
            if statement is not None:
                store.enter_channel(document.group, statement.version)
    # Step 2: sign and make visible. From here on devices obey it.
    with repo.locked() as published:
        if PROFILE_CHANNEL_ROLE not in published.roles:
            raise OperatorError("no version of a profile was ever signed here: `edgeloop profile push`")
        role = published.roles[PROFILE_CHANNEL_ROLE]
        if role.targets.get(path) == entry:
            return
        _refuse_older_seq(repo, published, document)
        following = newer(role, repo.now(), ROLE_LIFETIME)
        following.targets[path] = entry
        files = {repo.target_file(path, entry.hashes["sha256"]): data}
        online.publish(repo, published, {PROFILE_CHANNEL_ROLE: sign(following, [signer])}, files)


def profile_channel(repo: TrustRepository, group: str) -> ProfileChannel | None:
    """The group's published document on profiles; None: it has none.

    Raises:
        OperatorError: It cannot be read.
    """
    data = repo.document(profile_channel_path(group))
    try:
        return None if data is None else ProfileChannel.model_validate_json(data)
    except (ValidationError, json.JSONDecodeError) as exc:
        raise OperatorError(f"the published document on profiles of {group} cannot be read: {exc}") from exc


def _refuse_older_seq(repo: TrustRepository, published: PublishedState, document: ProfileChannel) -> None:
    if published.target(profile_channel_path(document.group)) is None:
        return
    known = profile_channel(repo, document.group)
    if known is not None and document.seq <= known.seq:
        raise TrustError(
            f"document {document.seq} on profiles of {document.group} came after {known.seq}: seqs only rise",
            Attack.REPLAYED_CHANNEL,
        )

"""Makes model bundles targets: the trainer proposes, the gate countersigns, the engine publishes."""

from __future__ import annotations

import hashlib

from pydantic import ValidationError

from model_service.stored_artifacts import is_whole, places, put_artifact, whole_artifact
from model_service.trust.metadata import CryptoSigner, TargetFile, Targets, parse, target_file
from model_service.trust.online import OnlineSigner
from model_service.trust.proposals import (
    State,
    TargetChange,
    countersign,
    proposal_file,
    propose,
    read_proposal,
    signed_proposal,
    state,
    waiting,
    withdraw,
)
from model_service.trust.repository import TrustRepository
from schemas.channel_documents import TargetCustom, artifact_path, model_role
from schemas.durable import DISK
from schemas.errors import DamagedFileError, RetryableError, TrustError
from schemas.updates import Attack


def propose_model(repo: TrustRepository, signer: CryptoSigner, data: bytes, custom: TargetCustom) -> None:
    """Store the artifact under its digest and sign a proposal. Repeat it until the model is published.

    Args:
        repo: Gets artifact and proposal.
        signer: The trainer's key of the family.
        data: The artifact.
        custom: Which model it is; names the target, and is signed beside the digest.
    """
    entry = target_file(_path(custom), data, custom.model_dump(mode="json"))
    put_artifact(repo.artifacts, data)
    propose(repo, TargetChange(model_role(custom.family), entry), signer)


def countersign_model(repo: TrustRepository, signer: CryptoSigner, sha256: str, custom: TargetCustom) -> None:
    """Sign a proposal that adds exactly this artifact to the published role.

    Args:
        repo: Holds the proposal.
        signer: The gate's key of the family.
        sha256: Digest of the bytes that the gate evaluated.
        custom: Which model these bytes are, as the gate read them; the proposal must have the same.

    Raises:
        RetryableError: There is no proposal on the published version.
        TrustError: It changes anything else, names other bytes, or has no signature.
    """
    path = _path(custom)
    entry = _proposed(repo, custom.family, path)
    found = _custom(entry, path)
    # Obligation 1: the proposal names the bytes that were evaluated, which are stored under that digest.
    stored = _artifact(repo, sha256)
    if entry.hashes != {"sha256": sha256} or entry.length != len(stored):
        raise TrustError(
            f"the proposal of {path} names other bytes than were evaluated", Attack.TAMPERED_ARTIFACT
        )
    # Obligation 2: what devices decide by (family, version, hardware) is what the gate read from the bytes.
    if found != custom:
        raise TrustError(
            f"the proposal of {path} describes another model: {found.model_dump()}", Attack.TAMPERED_METADATA
        )
    # Obligation 3, in ``countersign``: nothing else of the role changes, and the trainer has signed.
    countersign(repo, TargetChange(model_role(custom.family), entry), signer)


def publish_model(repo: TrustRepository, family: str, online: OnlineSigner, path: str | None = None) -> str:
    """Publish a proposal that both keys signed.

    Args:
        repo: Holds proposals and artifacts.
        family: Model family.
        online: Makes the target visible.
        path: Target path to publish; None: the first one whose proposal has both signatures.

    Returns:
        The target path.

    Raises:
        RetryableError: No proposal on the published version has both signatures.
        TrustError: The artifact differs from what was signed.
    """
    role = model_role(family)
    with repo.locked() as published:
        for candidate in [path] if path is not None else waiting(repo, role):
            if (
                candidate in published.roles[role].targets
                and not proposal_file(repo, role, candidate).exists()
            ):
                return candidate
            try:
                data = signed_proposal(repo, published, role, candidate)
            except RetryableError:
                if path is not None:
                    raise
                continue
            entry = parse(Targets, data, role).targets[candidate]
            _link(repo, entry)
            online.publish(repo, published, {role: data})
            withdraw(repo, role, candidate)
            return candidate
    raise RetryableError(f"no proposal of family {family} has both signatures")


def model_state(repo: TrustRepository, family: str, path: str, data_sha256: str) -> State:
    """How far a bundle is; ``stale`` and ``absent``: propose it again."""
    published = repo.target(path)
    if published is not None:
        return "published" if published.sha256 == data_sha256 else "absent"
    try:
        entry = _proposed(repo, family, path)
    except RetryableError:
        return "absent"
    return (
        state(repo, TargetChange(model_role(family), entry))
        if entry.hashes["sha256"] == data_sha256
        else "absent"
    )


def _proposed(repo: TrustRepository, family: str, path: str) -> TargetFile:
    data = read_proposal(repo, model_role(family), path)
    if data is None:
        published = repo.published().roles.get(model_role(family))
        if published is not None and path in published.targets:
            return published.targets[path]
        raise RetryableError(f"{path} is not proposed yet")
    entry = parse(Targets, data, path).targets.get(path)
    if entry is None:
        raise TrustError(f"the proposal of {path} does not name it", Attack.TAMPERED_METADATA)
    return entry


def _path(custom: TargetCustom) -> str:
    return artifact_path(custom.family, custom.version)


def _custom(entry: TargetFile, path: str) -> TargetCustom:
    try:
        custom = TargetCustom.model_validate(entry.custom)
    except ValidationError as exc:
        raise TrustError(
            f"the proposal of {path} does not say which model it is", Attack.TAMPERED_METADATA
        ) from exc
    if path != _path(custom):
        raise TrustError(f"the proposal of {path} is about {custom.version}", Attack.TAMPERED_METADATA)
    return custom


def _artifact(repo: TrustRepository, sha256: str) -> bytes:
    try:
        path = whole_artifact(places(repo.artifacts, repo.targets, sha256), sha256)
    except DamagedFileError as exc:  # or somebody has swapped it: either way it is not signed
        raise TrustError(str(exc), Attack.TAMPERED_ARTIFACT) from exc
    if path is None:
        raise RetryableError(f"artifact {sha256[:12]} is not stored yet")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise TrustError(
            f"artifact {sha256[:12]} does not have the digest of its name", Attack.TAMPERED_ARTIFACT
        )
    return data


def _link(repo: TrustRepository, entry: TargetFile) -> None:
    """Put the artifact into the repository: a copy of its own, so that one can restore the other."""
    sha256 = entry.hashes["sha256"]
    data = _artifact(repo, sha256)
    if len(data) != entry.length:
        raise TrustError(f"artifact {sha256[:12]} does not have the signed length", Attack.TAMPERED_ARTIFACT)
    file = repo.target_file(entry.path, sha256)
    if not is_whole(file, sha256):
        DISK.write(file, data)

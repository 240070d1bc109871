"""One change to one role, on its way to enough signatures.

A proposal is a whole metadata file: the published role plus exactly one target. It lies in
``<proposals>/<role>/<target path, quoted>.json`` and is stale as soon as the role's published version moves
on: who proposed it proposes it again, and who countersigned it does so again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

from model_service.trust.metadata import (
    CryptoSigner,
    TargetFile,
    Targets,
    cosign,
    is_signed,
    issued,
    newer,
    parse,
    seal,
    signers_of,
)
from model_service.trust.published import PublishedState
from model_service.trust.repository import TrustRepository
from model_service.trust.roles import ROLE_LIFETIME
from schemas.channel_documents import ISSUED_FIELD
from schemas.durable import DISK
from schemas.errors import OperatorError, RetryableError, TrustError
from schemas.updates import Attack

State = Literal["absent", "stale", "proposed", "signed", "published"]
_SLACK = timedelta(minutes=5)


@dataclass(frozen=True)
class TargetChange:
    """One target of one role."""

    role: str
    entry: TargetFile

    @property
    def path(self) -> str:
        """Target path."""
        return str(self.entry.path)


def propose(repo: TrustRepository, change: TargetChange, signer: CryptoSigner) -> None:
    """Sign the published role plus the change. Repeating it changes nothing, unless the proposal is stale.

    Raises:
        OperatorError: The role does not know the signer's key.
    """
    with repo.locked() as published:
        _require_known(published, change.role, signer)
        if _is_published(published, change):
            return
        known = _read(repo, change.role, change.path)
        if known is not None and _holds(published, change, known, signer):
            return
        role = newer(published.roles[change.role], repo.now(), ROLE_LIFETIME)
        role.targets[change.path] = change.entry
        DISK.write(proposal_file(repo, change.role, change.path), seal(role, [signer]))


def countersign(repo: TrustRepository, change: TargetChange, signer: CryptoSigner) -> None:
    """Add a signature to a proposal that makes exactly this change, and no other.

    Raises:
        RetryableError: There is no proposal on the published version: it must be proposed (again).
        TrustError: It changes anything else, lives too long, or nobody signed it.
        OperatorError: The role does not know the signer's key.
    """
    with repo.locked() as published:
        _require_known(published, change.role, signer)
        if _is_published(published, change):
            return
        data = _current(repo, published, change.role, change.path)
        check(published, change, parse(Targets, data, change.role), repo.now())
        signed = signers_of(published.targets, change.role, data, change.role)
        mine = signer.public_key.keyid
        if not signed - {mine}:
            raise TrustError(f"nobody signed the proposal of {change.path}", Attack.UNSIGNED_INSTRUCTION)
        if mine not in signed:
            DISK.write(proposal_file(repo, change.role, change.path), cosign(data, signer))


def signed_proposal(repo: TrustRepository, published: PublishedState, role: str, path: str) -> bytes:
    """A proposal on the published version with enough signatures. Call it within ``repo.locked()``.

    Raises:
        RetryableError: There is none, it is stale, or it lacks signatures.
    """
    data = _current(repo, published, role, path)
    if not is_signed(published.targets, role, data, role):
        raise RetryableError(f"the proposal of {path} lacks signatures")
    return data


def state(repo: TrustRepository, change: TargetChange) -> State:
    """How far a change has come."""
    published = repo.published()
    if _is_published(published, change):
        return "published"
    data = _read(repo, change.role, change.path)
    if data is None:
        return "absent"
    proposal = parse(Targets, data, change.role)
    if proposal.version != _base(published, change.role).version + 1:
        return "stale"
    if proposal.targets.get(change.path) != change.entry:
        return "absent"
    return "signed" if is_signed(published.targets, change.role, data, change.role) else "proposed"


def withdraw(repo: TrustRepository, role: str, path: str) -> None:
    """Delete a proposal; what is published stays."""
    proposal_file(repo, role, path).unlink(missing_ok=True)


def waiting(repo: TrustRepository, role: str) -> list[str]:
    """Target paths that have a proposal, stale or not."""
    return [_unquoted(file) for file in sorted((repo.proposals / role).glob("[!.]*.json"))]


def check(published: PublishedState, change: TargetChange, proposal: Targets, now: datetime) -> None:
    """Refuse a proposal that does anything but the one change.

    Raises:
        TrustError: It adds, removes or changes anything else, or lives longer than allowed.
    """
    if not _makes(published, change, proposal):
        raise TrustError(
            f"the proposal of {change.path} changes more of role {change.role} than that, or other bytes",
            Attack.TAMPERED_METADATA,
        )
    if not now < proposal.expires <= now + ROLE_LIFETIME + _SLACK:
        raise TrustError(
            f"the proposal of {change.path} would expire at {proposal.expires}", Attack.TAMPERED_METADATA
        )
    at = issued(proposal)
    if at is None or at > now + _SLACK:
        raise TrustError(
            f"the proposal of {change.path} says it was issued at {at}", Attack.TAMPERED_METADATA
        )


def proposal_file(repo: TrustRepository, role: str, path: str) -> Path:
    """Where the proposal of a target lies."""
    return repo.proposals / role / f"{quote(path, safe='')}.json"


def _unquoted(file: Path) -> str:
    return unquote(file.name.removesuffix(".json"))


def _bare(role: Targets) -> dict[str, Any]:
    """The signed part without its two times, which are checked apart."""
    content = role.to_dict()
    return {name: value for name, value in content.items() if name not in {"expires", ISSUED_FIELD}}


def _holds(published: PublishedState, change: TargetChange, data: bytes, signer: CryptoSigner) -> bool:
    """Whether the proposal is this change on the published version, with this signature."""
    signed = signers_of(published.targets, change.role, data, change.role)
    return signer.public_key.keyid in signed and _makes(published, change, parse(Targets, data, change.role))


def _makes(published: PublishedState, change: TargetChange, proposal: Targets) -> bool:
    """Whether the proposal is the published role, one version on, with the change and nothing else."""
    expected = copy.deepcopy(_base(published, change.role))
    expected.version += 1
    expected.targets[change.path] = change.entry
    return _bare(expected) == _bare(proposal)


def _require_known(published: PublishedState, role: str, signer: CryptoSigner) -> None:
    _base(published, role)
    if signer.public_key.keyid not in published.targets.get_delegated_role(role).keyids:
        raise OperatorError(
            f"role {role} does not know this process's key: was it rotated? restart this process"
        )


def _is_published(published: PublishedState, change: TargetChange) -> bool:
    return bool(_base(published, change.role).targets.get(change.path) == change.entry)


def _base(published: PublishedState, role: str) -> Targets:
    if role not in published.roles:
        raise TrustError(f"nothing delegates to role {role}", Attack.UNSIGNED_INSTRUCTION)
    return published.roles[role]


def _current(repo: TrustRepository, published: PublishedState, role: str, path: str) -> bytes:
    data = _read(repo, role, path)
    if data is None:
        raise RetryableError(f"nobody proposed {path} yet")
    version = parse(Targets, data, role).version
    if version <= _base(published, role).version:
        raise RetryableError(f"the proposal of {path} is stale: role {role} moved on; propose it again")
    return data


def _read(repo: TrustRepository, role: str, path: str) -> bytes | None:
    try:
        return proposal_file(repo, role, path).read_bytes()
    except FileNotFoundError:
        return None

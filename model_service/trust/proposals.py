"""Proposals: one change to one role, which collects signatures until it has enough.

A proposal is a whole metadata file: the published role plus exactly one target. Its file is
``<proposals>/<role>/<target path, quoted>.json``. It is stale as soon as a newer version of the role is
published: then it must be proposed again, and countersigned again.
"""

from __future__ import annotations

import copy
import logging
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
    sign,
    signers_of,
)
from model_service.trust.published import PublishedState
from model_service.trust.repository import TrustRepository
from model_service.trust.roles import ROLE_LIFETIME
from schemas.channel_documents import ISSUED_FIELD
from schemas.durable import DISK
from schemas.errors import OperatorError, RetryableError, TrustError
from schemas.updates import Attack

log = logging.getLogger(__name__)

State = Literal["absent", "stale", "proposed", "signed", "published"]
_SLACK = timedelta(minutes=5)
"""How far the clocks of two processes may differ."""


@dataclass(frozen=True)
class TargetChange:
    """A new or changed target of a role."""

    role: str
    entry: TargetFile

    @property
    def path(self) -> str:
        """Target path."""
        return str(self.entry.path)


def propose(repo: TrustRepository, change: TargetChange, signer: CryptoSigner) -> None:
    """Sign the published role plus the change. A repeat changes nothing, unless the proposal is stale.

    Raises:
        OperatorError: The role does not list the signer's key.
    """
    with repo.locked() as published:
        _require_known(published, change.role, signer)
        if _is_published(published, change):
            return
        known = read_proposal(repo, change.role, change.path)
        if known is not None and _is_signed_proposal(published, change, known, signer):
            return
        role = newer(published.roles[change.role], repo.now(), ROLE_LIFETIME)
        role.targets[change.path] = change.entry
        DISK.write(proposal_file(repo, change.role, change.path), sign(role, [signer]))


def countersign(repo: TrustRepository, change: TargetChange, signer: CryptoSigner) -> None:
    """Add a signature to a proposal that makes exactly this change, and no other.

    Raises:
        RetryableError: There is no proposal on the published version: it must be proposed (again).
        TrustError: It changes anything else, lives too long, or has no signature.
        OperatorError: The role does not list the signer's key.
    """
    with repo.locked() as published:
        _require_known(published, change.role, signer)
        if _is_published(published, change):
            return
        data = _current(repo, published, change.role, change.path)
        # Obligation 1: it is the published role plus this change, and does not live too long.
        check(published, change, parse(Targets, data, change.role), repo.now())
        # Obligation 2: another key of the role has signed it: this one must never be the first.
        signed = signers_of(published.targets, change.role, data, change.role)
        own_id = signer.public_key.keyid
        if not signed - {own_id}:
            raise TrustError(
                f"the proposal of {change.path} has no valid signature", Attack.UNSIGNED_INSTRUCTION
            )
        if own_id not in signed:
            DISK.write(proposal_file(repo, change.role, change.path), cosign(data, signer))


def signed_proposal(repo: TrustRepository, published: PublishedState, role: str, path: str) -> bytes:
    """A proposal on the published version with enough signatures. Call it within ``repo.locked()``.

    Raises:
        RetryableError: There is none, it is stale, or it lacks signatures.
    """
    data = _current(repo, published, role, path)
    if not is_signed(published.targets, role, data, role):
        raise RetryableError(f"the proposal of {path} does not have enough signatures yet")
    return data


def state(repo: TrustRepository, change: TargetChange) -> State:
    """How far a change is."""
    published = repo.published()
    if _is_published(published, change):
        return "published"
    data = read_proposal(repo, change.role, change.path)
    if data is None:
        return "absent"
    proposal = parse(Targets, data, change.role)
    if proposal.version != _published_role(published, change.role).version + 1:
        return "stale"
    if proposal.targets.get(change.path) != change.entry:
        return "absent"
    return "signed" if is_signed(published.targets, change.role, data, change.role) else "proposed"


def withdraw(repo: TrustRepository, role: str, path: str) -> None:
    """Delete a proposal; what is published stays."""
    proposal_file(repo, role, path).unlink(missing_ok=True)


def waiting(repo: TrustRepository, role: str) -> list[str]:
    """Target paths that have a proposal, stale or not, in order."""
    return [_unquoted(file) for file in sorted((repo.proposals / role).glob("[!.]*.json"))]


def check(published: PublishedState, change: TargetChange, proposal: Targets, now: datetime) -> None:
    """Refuse a proposal that does anything else than the one change.

    Raises:
        TrustError: It adds, removes or changes anything else, or lives longer than allowed.
    """
    if not _makes_only(published, change, proposal):
        raise TrustError(
            f"the proposal of {change.path} changes more of role {change.role}, or names other bytes",
            Attack.TAMPERED_METADATA,
        )
    if not now < proposal.expires <= now + ROLE_LIFETIME + _SLACK:
        raise TrustError(
            f"the proposal of {change.path} would expire at {proposal.expires}", Attack.TAMPERED_METADATA
        )
    at = issued(proposal)
    if at is None or at > now + _SLACK:
        raise TrustError(
            f"the proposal of {change.path} claims to be issued at {at}", Attack.TAMPERED_METADATA
        )


def proposal_file(repo: TrustRepository, role: str, path: str) -> Path:
    """File of a target's proposal."""
    return repo.proposals / role / f"{quote(path, safe='')}.json"


def _unquoted(file: Path) -> str:
    return unquote(file.name.removesuffix(".json"))


def _without_dates(role: Targets) -> dict[str, Any]:
    """The signed part without its two dates, which ``check`` tests by themselves."""
    content = role.to_dict()
    return {name: value for name, value in content.items() if name not in {"expires", ISSUED_FIELD}}


def _is_signed_proposal(
    published: PublishedState, change: TargetChange, data: bytes, signer: CryptoSigner
) -> bool:
    """Whether the file is a proposal of this change on the published version, with this signature."""
    signed = signers_of(published.targets, change.role, data, change.role)
    proposal = parse(Targets, data, change.role)
    return signer.public_key.keyid in signed and _makes_only(published, change, proposal)


def _makes_only(published: PublishedState, change: TargetChange, proposal: Targets) -> bool:
    """Whether the proposal is the next version of the published role, with the change and nothing else."""
    expected = copy.deepcopy(_published_role(published, change.role))
    expected.version += 1
    expected.targets[change.path] = change.entry
    return _without_dates(expected) == _without_dates(proposal)


def _require_known(published: PublishedState, role: str, signer: CryptoSigner) -> None:
    _published_role(published, role)
    if signer.public_key.keyid not in published.targets.get_delegated_role(role).keyids:
        raise OperatorError(
            f"role {role} does not list this process's key: if the key was rotated, restart this process"
        )


def _is_published(published: PublishedState, change: TargetChange) -> bool:
    return bool(_published_role(published, change.role).targets.get(change.path) == change.entry)


def _published_role(published: PublishedState, role: str) -> Targets:
    if role not in published.roles:
        raise TrustError(f"the targets do not delegate to role {role}", Attack.UNSIGNED_INSTRUCTION)
    return published.roles[role]


def _current(repo: TrustRepository, published: PublishedState, role: str, path: str) -> bytes:
    data = read_proposal(repo, role, path)
    if data is None:
        raise RetryableError(f"{path} is not proposed yet")
    version = parse(Targets, data, role).version
    if version <= _published_role(published, role).version:
        raise RetryableError(
            f"the proposal of {path} is stale: role {role} has a newer version; propose it again"
        )
    return data


def read_proposal(repo: TrustRepository, role: str, path: str) -> bytes | None:
    """A proposal's file; None where there is none. One that is damaged counts as none: it is made again."""
    file = proposal_file(repo, role, path)
    try:
        data = file.read_bytes()
        parse(Targets, data, file.name)
    except FileNotFoundError:
        return None
    except (TrustError, ValueError) as exc:
        log.warning("%s is damaged (%s): it is made and signed again", file, exc)
        return None
    return data

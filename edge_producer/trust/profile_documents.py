"""What a verified reply says about profiles: the group's document, the versions that it needs, keys, bounds.

None of it holds up models: what is wrong here is a refusal of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError

from edge_producer.trust.workflow import TargetFile, Workflow, fits
from schemas.channel_documents import POLICY_ROLE, SignedDocument
from schemas.errors import ProfileVersionError, TrustError
from schemas.profile_bounds import BOUNDS_PATH, DEFAULT_BOUNDS, ProfileBounds
from schemas.profile_channel import PROFILE_CHANNEL_ROLE, ProfileChannel, profile_channel_path
from schemas.profile_statement import MAX_CONTENT_BYTES, PROFILES_ROLE, SignedVersion, VersionKey
from schemas.updates import Attack
from schemas.version_chain import FOLDER, needed, version_path
from schemas.version_names import VersionName

PROFILE_ROLES = (PROFILES_ROLE, PROFILE_CHANNEL_ROLE)
"""Roles that may expire without holding up models."""
_MAX_VERSION_BYTES = 2 * MAX_CONTENT_BYTES
_Kind = TypeVar("_Kind", bound=SignedDocument)


@dataclass(frozen=True)
class ProfileDocuments:
    """What was signed about profiles.

    Attributes:
        channel: The document of the device's group; None: it has none.
        versions: The versions that the device needs to follow it, as far as they came.
        keys: Keys that may sign versions, by id.
        bounds: Bounds in force.
        refusal: Why none of it counts; None: it counts.
        files: What is to be kept, by target path.
    """

    channel: ProfileChannel | None = None
    versions: tuple[SignedVersion, ...] = ()
    keys: Mapping[str, VersionKey] = field(default_factory=dict)
    bounds: ProfileBounds = DEFAULT_BOUNDS
    refusal: TrustError | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


def read_profile_documents(
    workflow: Workflow, group: str, sent: Mapping[str, bytes], kept: Mapping[str, bytes]
) -> ProfileDocuments:
    """What a reply says about profiles.

    Args:
        workflow: Has verified the roles.
        group: The device's group.
        sent: Documents that came, by target path.
        kept: Documents on disk, verified when they came.
    """
    own = {p: d for p, d in kept.items() if p in _paths(group) or p.startswith(FOLDER)}
    try:
        return _read(workflow, group, sent, own)
    except TrustError as exc:
        return ProfileDocuments(refusal=exc, files=own)


def _paths(group: str) -> tuple[str, str]:
    return profile_channel_path(group), BOUNDS_PATH


def _read(
    workflow: Workflow, group: str, sent: Mapping[str, bytes], kept: Mapping[str, bytes]
) -> ProfileDocuments:
    files: dict[str, bytes] = {}
    for path in _paths(group):
        entry = workflow.find(path)
        if entry is not None:
            found = _content(path, entry, sent, kept)
            if found is None:
                raise TrustError(f"{path} is listed by its role, but was not sent", Attack.MIX_AND_MATCH)
            files[path] = found
        elif path in sent:
            raise TrustError(f"no role lists {path[:80]!r}", Attack.UNSIGNED_INSTRUCTION)
    channel_path, bounds_path = _paths(group)
    if channel_path not in files:
        return ProfileDocuments(files=files)
    channel = _parsed(ProfileChannel, channel_path, files[channel_path])
    bounds = DEFAULT_BOUNDS
    if bounds_path in files:
        bounds = _parsed(ProfileBounds, bounds_path, files[bounds_path])
    keys = {
        key_id: VersionKey(role, public)
        for role in (PROFILES_ROLE, POLICY_ROLE)
        for key_id, public in workflow.keys_of(role).items()
    }
    find = _finder(workflow, sent, kept, files)
    policy = {key_id for key_id, key in keys.items() if key.role == POLICY_ROLE}
    versions = (find(name) for name in sorted(needed(channel, find, policy)))
    return ProfileDocuments(channel, tuple(v for v in versions if v), keys, bounds, files=files)


def _finder(
    workflow: Workflow, sent: Mapping[str, bytes], kept: Mapping[str, bytes], files: dict[str, bytes]
) -> Callable[[VersionName], SignedVersion | None]:
    """Looks versions up; those that are found enter ``files``."""

    def find(name: VersionName) -> SignedVersion | None:
        path = version_path(name)
        entry = workflow.find(path)
        data = None if entry is None else _content(path, entry, sent, kept)
        if data is None:
            return None
        files[path] = data
        try:
            return SignedVersion.from_json(json.loads(data))
        except (ProfileVersionError, ValueError, RecursionError) as exc:
            raise TrustError(f"{path} is signed, but is no version", Attack.UNSAFE_CONTENT) from exc

    return find


def _content(
    path: str, entry: TargetFile, sent: Mapping[str, bytes], kept: Mapping[str, bytes]
) -> bytes | None:
    """A document as its role lists it, as sent, else as kept; None: it is not at hand."""
    data = sent.get(path)
    if data is None:
        known = kept.get(path)
        return known if known is not None and fits(entry, known) else None
    if len(data) > _MAX_VERSION_BYTES:
        raise TrustError(f"{path}: {len(data)} bytes", Attack.ENDLESS_DATA)
    if not fits(entry, data):
        raise TrustError(f"{path} is not what its role signed", Attack.UNSIGNED_INSTRUCTION)
    return data


def _parsed(kind: type[_Kind], path: str, data: bytes) -> _Kind:
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        raise TrustError(f"{path} is signed, but is not a {kind.__name__}", Attack.UNSAFE_CONTENT) from exc

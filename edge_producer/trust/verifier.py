"""Verifies the service's replies against the trusted root: channel documents, policy and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from edge_producer.file_stamps import Stamps
from edge_producer.trust.metadata_store import MetadataStore
from edge_producer.trust.profile_documents import PROFILE_ROLES, ProfileDocuments, read_profile_documents
from edge_producer.trust.trusted_time import TrustedTime
from edge_producer.trust.workflow import MissingError, Signed, TargetFile, Workflow, fits
from schemas.channel_documents import (
    ISSUED_FIELD,
    POLICY_PATH,
    RINGS,
    ROOT,
    TARGETS,
    TIMESTAMP,
    ChannelDocument,
    FleetPolicy,
    Ring,
    TargetCustom,
    channel_path,
    model_role,
)
from schemas.durable import DISK, Disk
from schemas.errors import TrustError
from schemas.updates import Attack

TIMESTAMP_FILE = f"{TIMESTAMP}.json"
MAX_DOCUMENT_BYTES = 256 * 1024
MAX_SEQ = 2**63 - 1
MAX_FILES = 512
"""Most files in one reply."""

Files = Sequence[tuple[str, bytes]]
_MODELS = model_role("")
_Kind = TypeVar("_Kind", ChannelDocument, FleetPolicy)


@dataclass(frozen=True)
class VerifiedTarget:
    """A model bundle that both keys of its family signed.

    Attributes:
        length: Length of the artifact, bytes.
        sha256: Digest of the artifact, hex.
        custom: What the keys signed about the model besides its bytes.
    """

    length: int
    sha256: str
    custom: TargetCustom


@dataclass(frozen=True)
class VerifiedState:
    """What was signed, fresh and consistent when it was verified.

    Attributes:
        channels: Newest channel document of each ring of the device's group that has one.
        policy: The fleet policy.
        targets: Every model bundle that a model role lists, by target path.
        refusals: By family, why its role has expired while the rest is valid.
        versions: Version of the metadata, by role.
        profiles: What is signed about profiles.
    """

    channels: Mapping[Ring, ChannelDocument]
    policy: FleetPolicy
    targets: Mapping[str, VerifiedTarget] = field(default_factory=dict)
    refusals: Mapping[str, TrustError] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    profiles: ProfileDocuments = field(default_factory=ProfileDocuments)

    def target(self, path: str) -> VerifiedTarget:
        """The artifact's length, digest and signed ``custom``.

        Raises:
            TrustError: No model role lists it, or the role has expired.
        """
        found = self.targets.get(path)
        if found is not None:
            return found
        family = path.split("/")[1] if path.count("/") == 2 else ""
        if family in self.refusals:
            refusal = self.refusals[family]
            raise TrustError(str(refusal), refusal.attack)
        raise TrustError(f"no role lists {path}", Attack.UNSIGNED_INSTRUCTION)


@dataclass(frozen=True)
class _Standing:
    """What was verified last, and what it rests on: as long as all of that stands, it need not be done again.

    Attributes:
        timestamp: The timestamp metadata in force.
        documents: SHA-256 of the documents that are kept, by target path.
        until: When the first role expires.
        stamps: Of every file that is kept.
    """

    state: VerifiedState
    timestamp: bytes | None
    documents: Mapping[str, str]
    until: datetime
    stamps: Stamps

    def answers(self, metadata: Files, documents: Files, now: datetime) -> bool:
        """Whether a reply says what is known already, at a time at which all of it holds.

        A service sends the timestamp in any case. Other bytes, whatever they are, have to be verified.
        """
        same = all(name == TIMESTAMP_FILE and data == self.timestamp for name, data in metadata)
        return same and not documents and now < self.until


class TrustVerifier:
    """Verifies replies for one device, and keeps what it has verified.

    Most replies say that nothing is new. They cost no signature and no file: what was verified before stands
    until a role expires, a byte comes that is not known, or a kept file is another one than it was.

    Args:
        folder: Trusted metadata and documents; created at first use. One process at a time.
        root: Root metadata that came with the device, or with its join bundle.
        time: Decides what has expired, and learns from the issue times of verified metadata.
        group: The device's group: only its channel documents are read.
        disk: Everything is written through it.

    Raises:
        TrustError: ``root`` is not root metadata.
    """

    def __init__(
        self,
        folder: Path,
        root: bytes,
        time: TrustedTime,
        *,
        group: str,
        disk: Disk = DISK,
    ) -> None:
        self._store = MetadataStore(folder, disk)
        self._time, self._group = time, group
        self._root_expires: datetime | None = None
        self._standing: _Standing | None = None
        self._root = self._workflow(root, {}).root_bytes

    def versions(self) -> dict[str, int]:
        """Versions of the trusted metadata, by role: what the service need not send again."""
        standing = self._stands()
        return self._store.versions() if standing is None else dict(standing.state.versions)

    def documents(self) -> dict[str, str]:
        """SHA-256 of the documents that are kept, by target path."""
        standing = self._stands()
        return self._store.documents() if standing is None else dict(standing.documents)

    def apply(self, metadata: Files, documents: Files) -> VerifiedState:
        """Verify a reply and keep it; after a refusal, what was trusted before is still there.

        Args:
            metadata: Names as in ``delivery.proto``, and bytes.
            documents: Target paths, and bytes.

        Raises:
            TrustError: Something does not verify; names the likely attack.
        """
        standing = self._stands()
        if standing is not None and standing.answers(metadata, documents, self._time.now()):
            return standing.state
        workflow = self._workflow(self._root, self._pack(metadata))
        workflow.refresh()
        self._root = workflow.root_bytes
        targets, refusals = _models(workflow)
        sent = _pack_of(documents)
        held = self._documents(workflow, sent)
        policy, channels = self._policy(held), self._channels(held)
        profiles = read_profile_documents(workflow, self._group, sent, self._kept())
        self._keep({**held, **profiles.files})
        versions = self._store.versions()
        state = VerifiedState(channels, policy, targets, refusals, versions, profiles)
        self._standing = self._resting_on(workflow, state)
        return state

    def _resting_on(self, workflow: Workflow, state: VerifiedState) -> _Standing | None:
        """What was just verified, to be gone by; None: it is looked at again, since something is refused."""
        if state.refusals or state.profiles.refusal is not None:
            return None
        timestamp, documents = self._store.role(TIMESTAMP), self._store.documents()
        return _Standing(state, timestamp, documents, workflow.expires, self._store.stamps())

    def _stands(self) -> _Standing | None:
        """What was verified last, where each file that is kept is still the same."""
        if self._standing is not None and self._standing.stamps != self._store.stamps():
            self._standing = None
        return self._standing

    def _workflow(self, root: bytes, pack: Mapping[str, bytes]) -> Workflow:
        def fetch(name: str, max_length: int) -> bytes:
            data = pack.get(name)
            if data is None:
                raise MissingError(name)
            if len(data) > max_length:
                raise TrustError(f"{name}: {len(data)} bytes, at most {max_length}", Attack.ENDLESS_DATA)
            return data

        return Workflow(self._store, root, fetch, self._time.now, self._learn)

    def _pack(self, metadata: Files) -> dict[str, bytes]:
        pack = _pack_of(metadata)
        known = self._store.role(TIMESTAMP)
        if known is not None:
            pack.setdefault(TIMESTAMP_FILE, known)
        return pack

    def _learn(self, role: str, signed: Signed) -> None:
        """Advance trusted time to an issue time, but not past the root's expiry, signed by offline keys."""
        if role == ROOT:
            self._root_expires = signed.expires
        issued = _issued(signed)
        if issued is not None:
            self._time.learn(issued if self._root_expires is None else min(issued, self._root_expires), role)

    def _documents(self, workflow: Workflow, sent: Mapping[str, bytes]) -> dict[str, bytes]:
        """The policy and the group's channel documents, as a role lists them: as sent, else as kept.

        Other groups' documents are ignored, even if genuine: if kept, they would be missed in later replies.
        """
        own = {POLICY_PATH, *(channel_path(self._group, ring) for ring in RINGS)}
        held: dict[str, bytes] = {}
        for path in sorted(own):
            entry = workflow.find(path)
            if entry is not None:
                held[path] = self._document(path, entry, sent.get(path))
            elif path in sent:
                raise TrustError(f"no role lists {path[:80]!r}", Attack.UNSIGNED_INSTRUCTION)
        return held

    def _document(self, path: str, entry: TargetFile, sent: bytes | None) -> bytes:
        if sent is not None:
            if len(sent) > MAX_DOCUMENT_BYTES:
                raise TrustError(f"{path}: {len(sent)} bytes", Attack.ENDLESS_DATA)
            if not fits(entry, sent):
                raise TrustError(f"{path} is not what its role signed", Attack.UNSIGNED_INSTRUCTION)
            return sent
        kept = self._store.document(path)
        if kept is None or not fits(entry, kept):
            raise TrustError(f"{path} is listed by its role, but was not sent", Attack.MIX_AND_MATCH)
        return kept

    def _policy(self, held: Mapping[str, bytes]) -> FleetPolicy:
        if POLICY_PATH not in held:
            raise TrustError("no role lists a policy", Attack.UNSIGNED_INSTRUCTION)
        policy = _parsed(FleetPolicy, POLICY_PATH, held[POLICY_PATH])
        before = self._store.document(POLICY_PATH)
        known = 0 if before is None else _seq(before)
        if policy.seq < known:
            raise TrustError(f"policy {policy.seq} came after {known}", Attack.METADATA_ROLLBACK)
        return policy

    def _channels(self, held: Mapping[str, bytes]) -> dict[Ring, ChannelDocument]:
        channels: dict[Ring, ChannelDocument] = {}
        for ring in RINGS:
            path = channel_path(self._group, ring)
            if path in held:
                channels[ring] = _parsed(ChannelDocument, path, held[path])
                if (channels[ring].group, channels[ring].ring) != (self._group, ring):
                    raise TrustError(f"{path} is about another group or ring", Attack.UNSIGNED_INSTRUCTION)
                if channels[ring].seq > MAX_SEQ:
                    raise TrustError(f"{path} has a number that no report can carry", Attack.UNSAFE_CONTENT)
        return channels

    def _kept(self) -> dict[str, bytes]:
        found = {path: self._store.document(path) for path in self._store.documents()}
        return {path: data for path, data in found.items() if data is not None}

    def _keep(self, held: Mapping[str, bytes]) -> None:
        for path, data in held.items():
            if self._store.document(path) != data:
                self._store.put_document(path, data)
        for path in self._store.documents().keys() - held.keys():
            self._store.forget_document(path)


def _pack_of(files: Files) -> dict[str, bytes]:
    if len(files) > MAX_FILES:
        raise TrustError(f"{len(files)} files in one reply, at most {MAX_FILES}", Attack.ENDLESS_DATA)
    return dict(files)


def _models(workflow: Workflow) -> tuple[dict[str, VerifiedTarget], dict[str, TrustError]]:
    """Load every delegated role. One family's expired role does not hold up the others."""
    targets: dict[str, VerifiedTarget] = {}
    refusals: dict[str, TrustError] = {}
    for role in workflow.delegated():
        try:
            listed = workflow.load(role, TARGETS).targets
        except TrustError as exc:
            if exc.attack is Attack.FREEZE and role in PROFILE_ROLES:
                continue  # whoever reads a document of the role meets the same refusal
            if exc.attack is not Attack.FREEZE or not role.startswith(_MODELS):
                raise
            refusals[role.removeprefix(_MODELS)] = exc
            continue
        if role.startswith(_MODELS):
            for path, entry in listed.items():
                custom = _custom(entry)
                if custom is not None and workflow.find(path) is entry:
                    targets[path] = VerifiedTarget(entry.length, entry.hashes.get("sha256", ""), custom)
    return targets, refusals


def _custom(entry: TargetFile) -> TargetCustom | None:
    try:
        return TargetCustom.model_validate(entry.custom)
    except ValidationError:
        return None  # an unknown kind of target: no role lists it as a bundle


def _issued(signed: Signed) -> datetime | None:
    try:
        issued = datetime.fromisoformat(signed.unrecognized_fields[ISSUED_FIELD])
    except (KeyError, TypeError, ValueError):
        return None
    return issued if issued.tzinfo is not None else None


def _seq(kept: bytes) -> int:
    """Number of the policy on disk; 0 where it is damaged."""
    try:
        return FleetPolicy.model_validate_json(kept).seq
    except ValidationError:
        return 0


def _parsed(kind: type[_Kind], path: str, data: bytes) -> _Kind:
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        raise TrustError(f"{path} is signed, but is not a {kind.__name__}", Attack.UNSAFE_CONTENT) from exc

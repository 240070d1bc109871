"""Proposes candidates with the trainer's key, and renews proposals that have become stale."""

from __future__ import annotations

from sqlalchemy import Connection

from model_service.registry import candidates
from model_service.registry.candidates import UNPUBLISHED, AnyManifest, Candidate
from model_service.settings import ModelSettings
from model_service.trust.ceremony import open_repository
from model_service.trust.keys import load_online_key
from model_service.trust.metadata import CryptoSigner
from model_service.trust.model_targets import model_state, propose_model
from schemas.channel_documents import TargetCustom, artifact_path, model_role
from schemas.config_manifest import ConfigManifest
from schemas.errors import OperatorError
from schemas.manifest import Manifest

TRAINER = "trainer"
_OUTDATED = ("stale", "absent")


class Proposer:
    """Signs proposals with the trainer's keys, one a family; each key is loaded when it is first needed."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._repository = open_repository(settings)
        self._signers: dict[str, CryptoSigner] = {}

    def propose(self, manifest: AnyManifest, sha256: str) -> None:
        """Sign that this artifact is this version of the family. A repetition changes nothing.

        Raises:
            OperatorError: The trainer has no key for this family, or the artifact is missing.
        """
        custom = manifest.custom() if isinstance(manifest, ConfigManifest) else TargetCustom.of(manifest)
        propose_model(self._repository, self._signer(manifest.family), self._artifact(sha256), custom)

    def renew_proposals(self, connection: Connection) -> int:
        """Renew proposals that another publication of their family made stale; returns their number."""
        return sum(self._renew(connection, c) for c in candidates.in_states(connection, UNPUBLISHED))

    def _renew(self, connection: Connection, candidate: Candidate) -> bool:
        family, version, sha256 = candidate.family, candidate.version, candidate.sha256
        state = model_state(self._repository, family, artifact_path(family, version), sha256)
        if state not in _OUTDATED:
            return False
        kind = ConfigManifest if candidate.is_config else Manifest
        self.propose(kind.model_validate(candidates.manifest_of(connection, version)), sha256)
        return True

    def _signer(self, family: str) -> CryptoSigner:
        if family not in self._signers:
            self._signers[family] = load_online_key(self._settings.keys / TRAINER, model_role(family))
        return self._signers[family]

    def _artifact(self, sha256: str) -> bytes:
        path = self._settings.artifacts / sha256
        try:
            return path.read_bytes()
        except OSError as exc:
            raise OperatorError(f"artifact {path} cannot be read: {exc.strerror}") from exc

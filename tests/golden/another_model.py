"""One more model of the family, signed by the stack's own trainer and gate keys: no training run needed."""

from __future__ import annotations

import hashlib
import time
from contextlib import closing
from dataclasses import replace

from sqlalchemy import insert

from model_service.models.bundle_files import build_bundle
from model_service.registry import candidates
from model_service.registry.candidates import CandidateState, candidate_of
from model_service.registry.database import Registry
from model_service.registry.registry_tables import gate_verdicts
from model_service.settings import ModelSettings
from model_service.trust.keys import load_online_key
from model_service.trust.model_targets import countersign_model, propose_model
from model_service.trust.repository import TrustRepository
from schemas.bundle_archive import GOLDEN, MANIFEST, MODEL, pack, unpack
from schemas.channel_documents import TargetCustom, model_role
from schemas.durable import DISK
from schemas.manifest import Manifest, parse_manifest


def sign_another(settings: ModelSettings, champion: str) -> str:
    """A model that computes what a candidate of the stack computes, as the next candidate; its version.

    The engine publishes it and begins the rollouts that the profile asks for.
    """
    with closing(Registry(settings.database_url)) as registry:
        with registry.reading() as connection:
            old = candidates.get(connection, champion)
            major = candidates.next_major(connection, old.family)
        manifest, artifact = _copied((settings.artifacts / old.sha256).read_bytes(), major)
        digest, now = hashlib.sha256(artifact).hexdigest(), time.time()
        DISK.write(settings.artifacts / digest, artifact)
        _sign(settings, manifest, artifact, digest)
        made = candidate_of(
            manifest, run_id="", champion=champion, sha256=digest, length=len(artifact), now=now
        )
        verdict = {
            "version": manifest.version, "gate": "golden", "passed": True, "value": 0.0, "bound": 0.0,
            "low": None, "high": None, "detail": {"says": "signed by hand"}, "evaluated_at": now,
        }  # fmt: skip
        with registry.transaction() as connection:
            signed = replace(made, state=CandidateState.SIGNED, detail="signed by hand")
            candidates.insert(connection, signed, manifest)
            connection.execute(insert(gate_verdicts).values(**verdict))
    return manifest.version


def _copied(artifact: bytes, major: int) -> tuple[Manifest, bytes]:
    """The same graph under another version: only the seed in its manifest differs."""
    files = unpack(artifact)
    manifest = parse_manifest(files[MANIFEST], "the artifact")
    training = manifest.training.model_copy(update={"seed": major})
    bundle = build_bundle(
        manifest.model_copy(update={"training": training}), files[MODEL], files[GOLDEN], major
    )
    return bundle.manifest, pack(bundle.files)


def _sign(settings: ModelSettings, manifest: Manifest, artifact: bytes, digest: str) -> None:
    repository = TrustRepository(settings.repository, settings.proposals)
    role = model_role(manifest.name)
    custom = TargetCustom(family=manifest.name, version=manifest.version, opset=manifest.opset)
    trainer, gate = (load_online_key(settings.keys / holder, role) for holder in ("trainer", "gate"))
    propose_model(repository, trainer, artifact, custom)
    countersign_model(repository, gate, digest, custom)

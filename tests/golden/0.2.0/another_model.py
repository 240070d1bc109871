"""One more model of the family, signed by the stack's own trainer and gate keys: no training run needed."""

from __future__ import annotations

import hashlib
import time

from sqlalchemy import func, insert, select

from feature_store.durable import replace
from model_service.registry.database import Registry
from model_service.registry.tables import candidates, gate_verdicts
from model_service.settings import ModelSettings
from model_service.training.bundle import sealed
from model_service.trust.keys import load_online_key
from model_service.trust.models import countersign_model, propose_model
from model_service.trust.repository import TrustRepository
from schemas.bundle import parse_manifest
from schemas.bundle_archive import GOLDEN, MANIFEST, MODEL, pack, unpack
from schemas.channels import TargetCustom, artifact_path, model_role


def sign_another(settings: ModelSettings, champion: str) -> str:
    """A model that computes what a candidate of the stack computes, as the next candidate; its version.

    The engine publishes it and begins the rollouts that the profile asks for.
    """
    registry = Registry(settings.database_url)
    with registry.reading() as connection:
        found = select(candidates.c.sha256).where(candidates.c.version == champion)
        sha256 = connection.execute(found).scalar_one()
        major = connection.execute(select(func.max(candidates.c.major))).scalar_one() + 1
    files = unpack((settings.artifacts / sha256).read_bytes())
    manifest = parse_manifest(files[MANIFEST], "the artifact")
    training = manifest.training.model_copy(update={"seed": major})
    manifest = manifest.model_copy(update={"training": training})
    bundle = sealed(manifest, files[MODEL], files[GOLDEN], major)
    manifest, data = bundle.manifest, pack(bundle.files)
    digest = hashlib.sha256(data).hexdigest()
    replace(settings.artifacts / digest, data)
    repository = TrustRepository(settings.repository, settings.proposals)
    role, path = model_role(manifest.name), artifact_path(manifest.name, manifest.version)
    custom = TargetCustom(family=manifest.name, version=manifest.version, opset=manifest.opset)
    trainer, gate = (load_online_key(settings.keys / holder, role) for holder in ("trainer", "gate"))
    propose_model(repository, trainer, manifest.name, path, data, custom)
    countersign_model(repository, gate, manifest.name, path, digest)
    now = time.time()
    candidate = {
        "version": manifest.version, "family": manifest.name, "major": major, "kind": manifest.kind,
        "run_id": "", "champion": champion, "sha256": digest, "length": len(data),
        "manifest": manifest.model_dump(mode="json"), "state": "signed", "detail": "signed by hand",
        "created_at": now, "updated_at": now,
    }  # fmt: skip
    verdict = {
        "version": manifest.version, "gate": "golden", "passed": True, "value": 0.0, "bound": 0.0,
        "low": None, "high": None, "detail": {"says": "signed by hand"}, "evaluated_at": now,
    }  # fmt: skip
    with registry.transaction() as connection:
        connection.execute(insert(candidates).values(**candidate))
        connection.execute(insert(gate_verdicts).values(**verdict))
    registry.close()
    return manifest.version

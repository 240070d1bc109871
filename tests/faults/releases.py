"""Models for rollouts: signed by the stack's own trainer and gate keys, without a training run."""

from __future__ import annotations

import hashlib
import time
from contextlib import closing
from dataclasses import dataclass, replace

from sqlalchemy import insert

from model_service.models.bundle_files import BundleFiles, build_bundle
from model_service.registry import candidates
from model_service.registry.candidates import CandidateState, candidate_of
from model_service.registry.database import Registry
from model_service.registry.registry_tables import gate_verdicts
from model_service.settings import ModelSettings
from model_service.trust.keys import load_online_key
from model_service.trust.model_targets import countersign_model, propose_model
from model_service.trust.repository import TrustRepository
from schemas.bundle_archive import GOLDEN, MODEL, pack
from schemas.channel_documents import TargetCustom, model_role
from schemas.durable import DISK
from tests.edge_producer.bundles import misses_golden
from tests.simulators.update_service import candidate

FAMILY = "machine"


@dataclass(frozen=True)
class Release:
    """A signed model.

    Attributes:
        earlier: Versions that were signed before it and were meant to be good.
    """

    version: str
    earlier: tuple[str, ...]


def sign_release(settings: ModelSettings, *, wrong: bool = False) -> Release:
    """Sign the next model of the family; the engine publishes it and begins the rollouts that are asked for.

    Args:
        settings: Of the stack's model service.
        wrong: Its golden scores are not those of its graph: only a device's trial can tell.
    """
    with closing(Registry(settings.database_url)) as registry:
        with registry.reading() as connection:
            major = candidates.next_major(connection, FAMILY)
            known = candidates.in_states(connection, tuple(CandidateState))
        bundle = _unlike_any_other(misses_golden(major) if wrong else candidate(major), major)
        artifact = pack(bundle.files)
        digest, now = hashlib.sha256(artifact).hexdigest(), time.time()
        DISK.write(settings.artifacts / digest, artifact)
        _sign(settings, bundle.manifest, artifact, digest)
        made = candidate_of(
            bundle.manifest, run_id="", champion="", sha256=digest, length=len(artifact), now=now
        )
        verdict = {
            "version": bundle.manifest.version, "gate": "golden", "passed": True, "value": 0.0, "bound": 0.0,
            "low": None, "high": None, "detail": {"says": "signed by hand"}, "evaluated_at": now,
        }  # fmt: skip
        with registry.transaction() as connection:
            signed = replace(made, state=CandidateState.SIGNED, detail="wrong" if wrong else "signed by hand")
            candidates.insert(connection, signed, bundle.manifest)
            connection.execute(insert(gate_verdicts).values(**verdict))
    good = tuple(c.version for c in known if c.detail != "wrong")
    return Release(bundle.manifest.version, good)


def _unlike_any_other(bundle: BundleFiles, major: int) -> BundleFiles:
    """The same graph under a version of its own: a registry that was set back gives numbers out again."""
    training = bundle.manifest.training.model_copy(update={"seed": time.time_ns() // 1000})
    manifest = bundle.manifest.model_copy(update={"training": training})
    return build_bundle(manifest, bundle.files[MODEL], bundle.files[GOLDEN], major)


def _sign(settings: ModelSettings, manifest, artifact: bytes, digest: str) -> None:
    repository = TrustRepository(settings.repository, settings.proposals)
    role = model_role(manifest.name)
    custom = TargetCustom(family=manifest.name, version=manifest.version, opset=manifest.opset)
    trainer, gate = (load_online_key(settings.keys / holder, role) for holder in ("trainer", "gate"))
    propose_model(repository, trainer, artifact, custom)
    countersign_model(repository, gate, digest, custom)

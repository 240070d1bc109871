"""Publishes a model that trainer and gate signed by mistake: its golden scores are wrong.

Every signature is valid, so only the device's own trial can detect it.
"""

from __future__ import annotations

import hashlib
import io
import time
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import insert

from model_service import (
    Candidate,
    CandidateState,
    ModelSettings,
    OnlineSigner,
    Registry,
    TrustRepository,
    bundle_files,
    candidates,
    load_online_key,
    model_targets,
    registry_tables,
)
from schemas.bundle_archive import GOLDEN, MANIFEST, MODEL, pack, unpack
from schemas.channel_documents import TargetCustom, model_role
from schemas.durable import DISK
from schemas.errors import RegistryError
from schemas.manifest import Manifest, parse_manifest

_OFF_BY = 0.2
_BY_MISTAKE = "signed by mistake, for the demo"


def sign_a_mistake(settings: ModelSettings, version: str) -> str:
    """Publish a copy of ``version`` with wrong golden scores and all signatures; returns its version.

    It has no training run, so the engine starts no rollout of it by itself.
    """
    registry = Registry(settings.database_url)
    try:
        with registry.reading() as connection:
            model = candidates.get(connection, version)
            if model is None:
                raise RegistryError(f"no model {version}")
            major = candidates.next_major(connection, model.family)
        manifest, artifact = _mistaken((settings.artifacts / model.sha256).read_bytes(), major)
        DISK.write(settings.artifacts / hashlib.sha256(artifact).hexdigest(), artifact)
        _sign(settings, manifest, artifact)
        with registry.transaction() as connection:
            candidates.insert(connection, _published(manifest, artifact, version), manifest)
            connection.execute(insert(registry_tables.gate_verdicts).values(**_verdict(manifest.version)))
    finally:
        registry.close()
    return manifest.version


def withdraw_mistakes(settings: ModelSettings) -> None:
    """Mark the models signed by mistake as refused, so that nobody can roll them out."""
    registry = Registry(settings.database_url)
    why = f"{_BY_MISTAKE}: it failed its trial"
    try:
        with registry.transaction() as connection:
            for out in candidates.in_states(connection, (CandidateState.PUBLISHED,)):
                if not out.run_id:
                    candidates.advance(connection, out, CandidateState.REFUSED, time.time(), why)
    finally:
        registry.close()


def _mistaken(artifact: bytes, major: int) -> tuple[Manifest, bytes]:
    files = unpack(artifact)
    table = pa.ipc.open_file(io.BytesIO(files[GOLDEN])).read_all()
    at = table.schema.get_field_index("score")
    moved = pc.add(table.column("score"), pa.scalar(_OFF_BY, pa.float32()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.set_column(at, table.schema.field(at), moved))
    manifest = parse_manifest(files[MANIFEST], "the artifact")
    bundle = bundle_files.build_bundle(manifest, files[MODEL], sink.getvalue().to_pybytes(), major)
    return bundle.manifest, pack(bundle.files)


def _sign(settings: ModelSettings, manifest: Manifest, artifact: bytes) -> None:
    repository = TrustRepository(settings.repository, settings.proposals)
    role = model_role(manifest.name)
    custom = TargetCustom.of(manifest)
    trainer, gate = (load_online_key(settings.keys / holder, role) for holder in ("trainer", "gate"))
    model_targets.propose_model(repository, trainer, artifact, custom)
    model_targets.countersign_model(repository, gate, hashlib.sha256(artifact).hexdigest(), custom)
    model_targets.publish_model(repository, manifest.name, OnlineSigner.load(settings))


def _published(manifest: Manifest, artifact: bytes, champion: str) -> Candidate:
    digest = hashlib.sha256(artifact).hexdigest()
    handed_over = candidates.candidate_of(
        manifest, run_id="", champion=champion, sha256=digest, length=len(artifact), now=time.time()
    )
    return replace(handed_over, state=CandidateState.PUBLISHED, detail=_BY_MISTAKE)


def _verdict(version: str) -> dict[str, object]:
    """The gate's part of the mistake: a verdict that the golden vectors match."""
    return {
        "version": version,
        "gate": "golden",
        "passed": True,
        "value": 0.0,
        "bound": 0.0,
        "low": None,
        "high": None,
        "detail": {"says": _BY_MISTAKE},
        "evaluated_at": time.time(),
    }

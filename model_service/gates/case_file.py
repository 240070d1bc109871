"""Collects what the gates judge on: bytes by digest, rows by the run's question at its pinned cut."""

from __future__ import annotations

from contextlib import closing

from feature_store import connect, duck
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from feature_store.point_in_time import training_rows
from model_service.gates.evaluate import GateCase
from model_service.gates.verdict_store import PendingCandidate
from model_service.models.fault_bank import load_fault_bank
from model_service.registry.bundle_store import bundle_of_version, factory_bundle_of, read_artifact
from model_service.registry.candidates import champion_version
from model_service.registry.database import Registry
from model_service.settings import ModelSettings
from model_service.training.lineage import wanted_of
from schemas.errors import BundleError, DatasetError

_COHORTS = """SELECT device_id, concat_ws('/', profile, site, "group", hardware) AS cohort FROM fleet"""


def collect(settings: ModelSettings, registry: Registry, waiting: PendingCandidate) -> GateCase:
    """The case of a candidate.

    Raises:
        BundleError: Its artifact or its champion is missing or altered.
        RegistryError: Nobody knows its champion.
        QueryError: Its pinned cut is gone.
        DatasetError: Its run does not say what it was trained on, or not at that cut.
    """
    candidate = read_artifact(settings.artifacts, waiting.sha256)
    if candidate.manifest.version != waiting.version:
        raise BundleError(f"the artifact of {waiting.version} holds {candidate.manifest.version}")
    with registry.reading() as connection:
        champion = bundle_of_version(connection, settings.artifacts, waiting.family, waiting.champion)
        in_force = champion_version(connection, waiting.family)
    lake = Lake(settings.lake_root)
    profile = ProfileRegistry(lake).profiles().get(waiting.profile)
    if profile is None:
        raise DatasetError(f"this lake has no profile '{waiting.profile}'")
    if not waiting.pin or waiting.plan is None:
        raise DatasetError(f"run {waiting.run_id} names no pinned cut and no question")
    wanted = wanted_of(profile, waiting.plan.wanted)
    cut = CutStore(lake).resolve(waiting.pin)
    with closing(connect(settings.lake_root, waiting.pin)) as con:
        rows = training_rows(con, wanted).rows
        cohorts = {r["device_id"]: r["cohort"] for r in duck.query(con, _COHORTS).to_pylist()}
    claimed = {
        "run_id": waiting.run_id,
        "cut": cut.id,
        "pin": waiting.pin,
        "known_at": wanted.known_at,
        "champion": in_force or factory_bundle_of(waiting.family).manifest.version,
    }
    moved, bank = waiting.plan.moved, load_fault_bank(profile.name)
    return GateCase(profile, candidate, champion, rows, moved, claimed, cohorts, bank)

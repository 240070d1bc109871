"""Reads how a champion's healthy reference came to lie where it does, step by step since the first model."""

from __future__ import annotations

from itertools import pairwise

from sqlalchemy import Connection

from model_service.detectors.kinds import detector_of
from model_service.gates.unexplained_shift import Unexplained
from model_service.models.candidate import moved_features
from model_service.registry import candidates
from model_service.registry.bundle_store import starting_bundle_of
from model_service.training import run_store
from model_service.training.training_run import TrainingRun
from schemas.manifest import Manifest
from schemas.model_version import ModelVersion
from schemas.profile import Profile


def unexplained_of(connection: Connection, profile: Profile, champion: Manifest) -> Unexplained | None:
    """What no drift and no person explains of the champion's healthy reference; None: it states none.

    Nor is there one of other features than the profile has by now: such a champion fits no candidate.

    A run that the registry does not hold explains nothing.

    Args:
        connection: Reads the registry.
        profile: Of the family's devices.
        champion: Model in force.
    """
    if not champion.parameters or champion.features != profile.feature_names:
        return None
    chain, runs = [champion], _runs(connection, [champion])
    while (before := _predecessor(connection, chain[-1], runs)) is not None:
        chain.append(before)
        runs |= _runs(connection, [before])
    chain.reverse()
    found = Unexplained.none(chain[0].version, chain[0].features, detector_of(chain[0]))
    for before, after in pairwise(chain):
        run = runs.get(after.lineage.run_id) if after.lineage is not None else None
        if run is not None and run.by_person:
            continue
        plan = run.plan if run is not None and run.onset is not None else None
        moved = None if plan is None else moved_features(profile, plan.moved)
        found = found.after(detector_of(before), detector_of(after), moved)
    return found


def _runs(connection: Connection, models: list[Manifest]) -> dict[str, TrainingRun]:
    return run_store.by_id(connection, {m.lineage.run_id for m in models if m.lineage is not None})


def _predecessor(connection: Connection, model: Manifest, runs: dict[str, TrainingRun]) -> Manifest | None:
    """The model that this one was adapted from; None: it is a first one, fitted on its rows alone."""
    lineage = model.lineage
    run = runs.get(lineage.run_id) if lineage is not None else None
    if lineage is None or (run is not None and run.plan is not None and (run.plan.bank or run.plan.imported)):
        return None
    stored = candidates.manifest_of(connection, lineage.champion)
    start = starting_bundle_of(model.family).manifest
    before = Manifest.model_validate(stored) if stored else start
    same = before.version == lineage.champion and before.features == model.features
    older = ModelVersion.parse(before.version).major < ModelVersion.parse(model.version).major
    comparable = bool(before.parameters) and before.detector == model.detector
    return before if same and older and comparable else None

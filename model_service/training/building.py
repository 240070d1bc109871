"""What a candidate starts from, and its bundle: adapted, fitted anew, by a user's trainer, or imported."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from model_service.detectors.bank_store import bank_of, choosing_bank, required_bank
from model_service.detectors.fitted_candidate import build_fitted_candidate, lake_history
from model_service.detectors.import_store import newest_import, stored_import
from model_service.detectors.imported_bundle import build_imported, is_imported
from model_service.detectors.kinds import detector_of
from model_service.models.bundle_files import BundleFiles
from model_service.models.candidate import build_candidate
from model_service.models.training_rows import part_of
from model_service.models.trial_effects import for_devices
from model_service.training.training_run import TrainingPlan, TrainingRun
from schemas.manifest import Lineage, Manifest
from schemas.profile import Profile

IMPORT = "imported"
"""Kind of a run that makes a candidate of the profile's newest import."""


def starts_over(run: TrainingRun, champion: Manifest, profile: Profile) -> bool:
    """Whether the candidate takes nothing from the champion: none was fitted, or others than we made it."""
    return run.kind == IMPORT or bool(profile.training.trainer) or not champion.parameters


def chosen_by(root: Path, run: TrainingRun, profile: Profile) -> tuple[str, str]:
    """Digests of the generic faults that choose and judge a model as a first one, and of the import or "".

    Raises:
        DatasetError: What the run needs of them is not there; the message says what to do.
    """
    imported = newest_import(root, profile.name) if run.kind == IMPORT else ""
    return required_bank(root, profile), imported


def waits_for_a_person(champion: Manifest) -> str:
    """Why a drift of this model is not learnt by itself; empty: it may be."""
    if not is_imported(champion):
        return ""
    return (
        f"Model {champion.version} was imported, and only whoever made it can train it again: bring a new "
        "one with `edgeloop model import`, or `edgeloop drift ack RUN --retrain` fits another in its place"
    )


def candidate_bundle(  # noqa: PLR0913, PLR0917  (the bytes depend on each of them)
    root: Path,
    profile: Profile,
    rows: pa.Table,
    plan: TrainingPlan,
    champion: BundleFiles,
    lineage: Lineage,
    seed: int,
    major: int,
) -> BundleFiles:
    """The bundle that a run's plan leads to; a repetition gives the same bytes.

    Raises:
        DatasetError: Too few rows, or a user's trainer fails.
        BundleError: The import is gone, or its scores leave [0, 1].
    """
    made = _as_trained(root, profile, rows, plan, champion, lineage, seed, major)
    return for_devices(made, profile, bank_of(root, profile, plan.effects))


def _as_trained(  # noqa: PLR0913, PLR0917  (as ``candidate_bundle``)
    root: Path,
    profile: Profile,
    rows: pa.Table,
    plan: TrainingPlan,
    champion: BundleFiles,
    lineage: Lineage,
    seed: int,
    major: int,
) -> BundleFiles:
    if plan.imported:
        given = stored_import(root, plan.imported, profile)
        history = lake_history(profile, part_of(rows, "train"))
        return build_imported(profile, history, given, lineage, seed, major)
    if plan.bank:
        bank = choosing_bank(root, profile, plan.bank)
        return build_fitted_candidate(profile, rows, bank, lineage, seed, major).bundle
    kind, moved = plan.model_kind, plan.moved
    return build_candidate(
        profile, rows, champion, moved, lineage, seed, major, kind, detector_of, one_cause=plan.one_cause
    )

"""What the gates judge a candidate on: artifacts by digest, rows by the run's selection at its pinned cut."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa

from feature_store import connect, duck
from feature_store.current_profiles import current_profiles
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.point_in_time import tables_read, training_rows
from model_service.detectors.bank_store import bank_of, choosing_bank, known_bank, newest_bank, stored_bank
from model_service.detectors.import_store import stored_import
from model_service.detectors.imported_bundle import ImportedModel
from model_service.gates.drift_proof import read_proof
from model_service.gates.reference_history import unexplained_of
from model_service.gates.unexplained_shift import Unexplained
from model_service.gates.verdict_store import PendingCandidate
from model_service.models.bundle_files import BundleFiles
from model_service.models.fault_bank import FaultBank, shipped_bank
from model_service.registry.bundle_store import bundle_of_version, read_artifact, starting_bundle_of
from model_service.registry.candidates import champion_version
from model_service.registry.database import Registry
from model_service.settings import ModelSettings
from model_service.training.lineage import selection_of
from schemas.errors import BundleError, DatasetError
from schemas.profile import Profile

_COHORTS = """SELECT device_id, concat_ws('/', profile, site, "group", hardware) AS cohort FROM fleet"""


@dataclass(frozen=True, slots=True, eq=False)
class GateInputs:
    """Everything that the gates read.

    Attributes:
        profile: Gives the bounds of the gates.
        candidate: Its bundle, from the artifact's bytes.
        champion: The bundle that it is meant to replace.
        rows: Training and holdout rows, read by the gate itself.
        moved: Features and channels that moved, by the run's plan.
        expected: Run, cut, pin and champion, as the registry has them; the manifest must name the same.
        cohorts: Cohort by device.
        bank: Known faults; None: the profile has no bank.
        first: It was fitted on its rows alone, or others made it: no learnt champion to compare with.
        chosen_by: Generic faults that such a model was chosen by; None: it is none.
        effects: The bank whose effects its bundle carries to devices; None: it carries none.
        imported: The file that it was made of, and windows to judge it on; None: it was trained.
        proven: The drift behind it shows by itself that the champion's normal is over (``drift_proof``).
        announced: Channels whose change a person announced, and that moved so.
        shown: The drift behind it is a new normal by what the devices show (``drift_proof``).
        unlearnt: That normal began after the champion was trained.
        asked_by: Who asked for its run, or decided on its drift; empty: no person did.
        so_far: What nothing explains of the champion's reference; None: the champion is a first model.
        one_cause: By the run's plan, one cause moved all that moved.
    """

    profile: Profile
    candidate: BundleFiles
    champion: BundleFiles
    rows: pa.Table
    moved: tuple[str, ...]
    expected: Mapping[str, object]
    cohorts: Mapping[str, str]
    bank: FaultBank | None
    first: bool = False
    chosen_by: FaultBank | None = None
    effects: FaultBank | None = None
    imported: ImportedModel | None = None
    proven: bool = False
    announced: frozenset[str] = frozenset()
    shown: bool = False
    unlearnt: bool = False
    asked_by: str = ""
    so_far: Unexplained | None = None
    one_cause: bool = False


def read_inputs(settings: ModelSettings, registry: Registry, pending: PendingCandidate) -> GateInputs:
    """The inputs for a candidate.

    Raises:
        BundleError: Its artifact or its champion's is missing or altered.
        RegistryError: The registry does not know its champion.
        QueryError: Its pinned cut is gone.
        DatasetError: Its run does not record what it was trained on, or names no cut.
    """
    candidate = read_artifact(settings.artifacts, pending.sha256)
    if candidate.manifest.version != pending.version:
        raise BundleError(f"the artifact of {pending.version} holds {candidate.manifest.version}")
    lake = Lake(settings.lake_root)
    profile = current_profiles(lake).get(pending.profile)
    if profile is None:
        raise DatasetError(f"this lake has no profile '{pending.profile}'")
    with registry.reading() as connection:
        champion = bundle_of_version(connection, settings.artifacts, pending.family, pending.champion)
        in_force = champion_version(connection, pending.family)
        so_far = unexplained_of(connection, profile, champion.manifest)
    if not pending.pin or pending.plan is None:
        raise DatasetError(f"run {pending.run_id} has no pinned cut or no selection of rows on record")
    selection = selection_of(profile, pending.plan.selection)
    cut = CutStore(lake).resolve(pending.pin)
    with closing(
        connect(settings.lake_root, pending.pin, verify=tables_read(profile), comments=False)
    ) as lake_connection:
        rows = training_rows(lake_connection, selection).rows
        cohorts = {r["device_id"]: r["cohort"] for r in duck.query(lake_connection, _COHORTS).to_pylist()}
        proof = read_proof(lake_connection, settings, registry, profile, champion.manifest, pending.plan, cut)
    expected = {
        "run_id": pending.run_id,
        "cut": cut.id,
        "pin": pending.pin,
        "known_at": selection.known_at,
        "champion": in_force or starting_bundle_of(pending.family).manifest.version,
    }
    return GateInputs(
        profile=profile,
        candidate=candidate,
        champion=champion,
        rows=rows,
        moved=pending.plan.moved,
        expected=expected,
        cohorts=cohorts,
        bank=_bank(settings, profile, pending.plan.bank),
        chosen_by=choosing_bank(settings.root, profile, pending.plan.bank) if pending.plan.bank else None,
        effects=bank_of(settings.root, profile, pending.plan.effects),
        first=not champion.manifest.parameters or bool(pending.plan.bank),
        imported=_imported(settings, profile, pending.plan.imported),
        proven=proof.proven,
        announced=proof.announced,
        shown=proof.shown,
        unlearnt=proof.unlearnt,
        asked_by=pending.asked_by,
        so_far=so_far,
        one_cause=pending.plan.one_cause,
    )


def _imported(settings: ModelSettings, profile: Profile, digest: str) -> ImportedModel | None:
    return stored_import(settings.root, digest, profile) if digest else None


def _bank(settings: ModelSettings, profile: Profile, chosen_by: str) -> FaultBank | None:
    """Known faults of the profile, else its generic ones; None: it has neither.

    Args:
        settings: Folder of the banks.
        profile: The candidate's.
        chosen_by: Digest of the generic bank that a first model was chosen by; empty: it is none.
    """
    shipped = shipped_bank(profile)
    if shipped is not None:
        return shipped
    digest = known_bank(settings.root, profile.name) or chosen_by or newest_bank(settings.root, profile.name)
    return stored_bank(settings.root, digest) if digest else None

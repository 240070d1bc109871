"""Hands a fitted history to the stack that is up; its first model goes the way of every candidate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from infra.fitting.fault_labels import labelled_rows, land_labels
from infra.fitting.fit_files import FittedFiles
from infra.fitting.history_landing import land_history, register_history
from infra.fitting.history_spans import HistorySpan
from infra.fitting.import_files import ImportedFile
from infra.fleet_client import FleetClient
from infra.settings import StackSettings
from infra.stack.model_settings import model_settings
from model_service import bank_store, ceremony, fault_bank, first_model, imported_model
from schemas.instants import utc_now
from schemas.profile import Profile


def submit(settings: StackSettings, found: FittedFiles, progress: Callable[[str], None]) -> dict[str, Any]:
    """Land the rows, store the fault bank, and request a training run of the profile's own family.

    Returns:
        The run's id, and how many rows landed.

    Raises:
        OperatorError: The family has no keys yet, and the offline keys that add it are not available.
        ServiceUnavailableError: The model service does not answer.
    """
    profile, fitted = found.profile, found.fitted
    reason = f"first model of {profile.name}"
    judged = None if found.from_lake else fitted.judged
    if found.from_lake:
        ProfileRegistry(Lake.open(settings.lake_root)).register(profile)
    return _hand_over(settings, profile, judged, fitted.bank, reason, progress, faults=found.faults)


def submit_import(
    settings: StackSettings, found: ImportedFile, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Land the history's rows, if there is one, store the imported file, and request a run that takes it.

    Returns:
        The run's id, and how many rows landed.

    Raises:
        OperatorError, ServiceUnavailableError: As ``submit``.
    """
    model, profile, fit = model_settings(settings), found.profile, found.fit
    windows = np.empty((0, 1, 1), dtype=np.float32) if fit is None else fit.windows
    imported_model.put_import(model.root, profile.name, found.data, found.score_output, windows)
    judged, bank = (None, None) if fit is None else (fit.judged, fit.bank)
    return _hand_over(settings, profile, judged, bank, f"import for {profile.name}", progress, "imported")


def _hand_over(  # noqa: PLR0913, PLR0917  (what is handed over)
    settings: StackSettings,
    profile: Profile,
    judged: first_model.JudgedHistory | None,
    bank: fault_bank.BankFile | None,
    reason: str,
    progress: Callable[[str], None],
    kind: str = "",
    faults: tuple[HistorySpan, ...] = (),
) -> dict[str, Any]:
    model, landed = model_settings(settings), 0
    # Step 1: keys of the family. A repetition of this and of each later step changes nothing.
    ceremony.init(model, [profile.model.family], {}, progress)
    # Step 2: profile, devices and rows, in one cut that the run can pin.
    if judged is not None:
        lake, labelled = Lake.open(settings.lake_root), None
        if faults:
            # Labels first: a faulty row whose label is not there yet would count as healthy.
            register_history(lake, profile, judged.devices)
            land_labels(settings, judged.devices, faults, progress)
            labelled = labelled_rows(judged, faults)
        landed = land_history(lake, profile, judged, utc_now(), labelled)
    # Step 3: the faults by which the trainer chooses, and the gates judge.
    if bank is not None:
        bank_store.put_bank(model.root, bank)
    # Step 4: from here on the trainer works by itself.
    with FleetClient(model, "operator") as client:
        run = client.train("", reason, kind, profile=profile.name)
    return {"run_id": run["run_id"], "rows_landed": landed}

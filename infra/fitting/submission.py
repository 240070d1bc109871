"""Hands a fitted history to the stack that is up; its first model goes the way of every candidate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from feature_store.lake import Lake
from infra.fitting.fit_files import FittedFiles
from infra.fitting.history_landing import land_history
from infra.fleet_client import FleetClient
from infra.settings import StackSettings
from infra.stack.model_settings import model_settings
from model_service import bank_store, ceremony
from schemas.instants import utc_now


def submit(settings: StackSettings, found: FittedFiles, progress: Callable[[str], None]) -> dict[str, Any]:
    """Land the rows, store the fault bank, and request a training run of the profile's own family.

    Returns:
        The run's id, and how many rows landed.

    Raises:
        OperatorError: The family has no keys yet, and the offline keys that add it are not available.
        ServiceUnavailableError: The model service does not answer.
    """
    model, profile = model_settings(settings), found.profile
    # Step 1: keys of the family. A repetition of this and of each later step changes nothing.
    ceremony.init(model, [profile.model.family], {}, progress)
    # Step 2: profile, devices and rows, in one cut that the run can pin.
    landed = land_history(Lake.open(settings.lake_root), profile, found.fitted.judged, utc_now())
    # Step 3: the faults by which the trainer chooses, and the gates judge.
    bank_store.put_bank(model.root, found.fitted.bank)
    # Step 4: from here on the trainer works by itself.
    with FleetClient(model, "operator") as client:
        run = client.train("", f"first model of {profile.name}", profile=profile.name)
    return {"run_id": run["run_id"], "rows_landed": landed}

"""Rows of the lake that a first model is fitted to, read at a pinned cut."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from feature_store import connect
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.point_in_time import RowSelection, tables_read, training_rows
from infra.fitting.fit_files import FittedFiles, FitWishes
from infra.fitting.fitted_profile import fitted_text, in_family
from model_service import bank_store, first_model, lake_fit
from schemas.errors import SourceError
from schemas.profile import Profile

SPAN = timedelta(days=3653)
"""How far back rows may reach."""


def fit_lake(
    lake_root: Path,
    banks: Path,
    profile: Profile,
    text: str,
    wishes: FitWishes,
    progress: Callable[[str], None],
) -> FittedFiles:
    """The first model of a profile's rows in the lake; labels in the lake count.

    Args:
        lake_root: Folder of the lake.
        banks: Folder of the model service: a fault bank made from files goes before one made from rows.
        profile: Whose rows.
        text: The profile's TOML; empty: no file holds it.
        wishes: What a person says; labels and spans to leave out are not taken here.
        progress: Told each step.

    Raises:
        SourceError: There is no lake, or it has no cut.
        DatasetError: It holds too few rows.
        QueryError: It has no rows of the profile.
    """
    if not lake_root.is_dir():
        raise SourceError("there is no lake here yet: give files with --from, or start with `edgeloop up`")
    cuts, pin = CutStore(Lake.open(lake_root)), f"fit-{uuid.uuid4().hex[:12]}"
    if (newest := cuts.latest()) is None:
        raise SourceError("the lake holds no row yet: give files with --from")
    cut = cuts.pin(pin, newest.id)
    try:
        with closing(connect(lake_root, pin, verify=tables_read(profile), comments=False)) as connection:
            start = cut.created - SPAN
            selection = RowSelection(profile, start, cut.created, cut.created, labelled=True)
            rows = training_rows(connection, selection).rows
    finally:
        cuts.unpin(pin)
    progress(f"{rows.num_rows} rows of cut {cut.id}")
    timed = lake_fit.timed_rows(profile, rows)
    bank = bank_store.newest_bank_file(banks, profile) or lake_fit.bank_of_rows(profile, timed, wishes.seed)
    budget = wishes.alarms_per_device_day
    fitted = first_model.fit_history(profile, timed, bank, wishes.family, budget, wishes.seed, progress)
    if not text:
        return FittedFiles(fitted, "", in_family(profile, wishes.family, budget), (), from_lake=True)
    made, after = fitted_text(text, wishes.family, fitted.choice.enter, fitted.choice.leave, budget)
    return FittedFiles(fitted, made, after, (), from_lake=True)

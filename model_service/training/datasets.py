"""The training set of a run: which rows are selected, and whether they are enough to learn from."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from feature_store import duck
from feature_store.point_in_time import HOLDOUT, TRAIN, Regime, RowSelection, TrainingSet, training_rows
from model_service.detectors.choosing import LEAST_ROWS
from model_service.models.classifier import enough_labels
from model_service.training.training_run import RunReason, TrainingRun
from schemas.manifest import Manifest
from schemas.profile import Profile
from schemas.tables import telemetry_table_name

ANOMALY: Literal["anomaly"] = "anomaly"
CLASSIFIER: Literal["classifier"] = "classifier"
FIRST_SPAN = timedelta(days=3653)
"""How far back a history may reach that a first model is fitted to."""
FEW_DEVICES = 5
"""Devices that training rows and holdout rows must each have: with fewer, the gates cannot judge."""


@dataclass(frozen=True)
class Dataset:
    """A training set, how it was selected, and what it trains.

    Attributes:
        kind: anomaly or classifier.
        first: Whether a model is chosen and fitted on it as a first one is, which one device is enough for.
    """

    selection: RowSelection
    training_set: TrainingSet
    kind: str
    first: bool = False

    def lacks(self, profile: Profile, at_least: float = 0.0) -> str:
        """What it has too little of, in words; empty: it is enough to train on.

        Args:
            profile: Gives the training policy.
            at_least: Effective rows that it must have whatever the policy allows.
        """
        holdout = self.training_set.part(HOLDOUT)
        if self.first:
            return self._first_lacks()
        have, need = self.training_set.effective_rows, max(profile.training.min_effective_rows, at_least)
        trained = len(set(self.training_set.part("train").column("device_id").to_pylist()))
        held = len(set(holdout.column("device_id").to_pylist()))
        lacks = [
            f"{math.floor(have)} of {math.ceil(need)} effective rows" if have < need else "",
            f"{trained} of {FEW_DEVICES} devices to train on" if trained < FEW_DEVICES else "",
            f"{held} of {FEW_DEVICES} devices to test on" if held < FEW_DEVICES else "",
        ]
        return ", ".join(filter(None, lacks))

    def _first_lacks(self) -> str:
        train, held = (self.training_set.part(p).num_rows for p in (TRAIN, HOLDOUT))
        lacks = [
            f"{train} of {LEAST_ROWS} rows to train on" if train < LEAST_ROWS else "",
            "rows to test on" if not held else "",
        ]
        return ", ".join(filter(None, lacks))


def first_dataset(
    connection: duck.Connection, selection: RowSelection, onset: datetime | None = None
) -> Dataset:
    """The set of a model that starts from no other: all that is known of the profile, labels too.

    Args:
        connection: To a cut.
        selection: Of the run.
        onset: Start of a new regime: rows from before show another normal, and stay away.
    """
    start = selection.event_from if onset is not None else selection.event_to - FIRST_SPAN
    whole = replace(selection, event_from=start, labelled=True)
    return Dataset(whole, training_rows(connection, whole), ANOMALY, first=True)


def dataset_of(
    connection: duck.Connection,
    run: TrainingRun,
    selection: RowSelection,
    champion: Manifest,
    fitted: Collection[str],
) -> Dataset:
    """The training set of a run that does not start over: a small fleet's, or one to adapt the champion on.

    Rows of a few devices do not show whether all machines of their kind have moved. So there a person's
    request has a model chosen and fitted anew, on the rows since the drift alone.

    Args:
        connection: To a cut of the lake.
        run: What is to be trained.
        selection: Its rows.
        champion: Manifest of the model in force.
        fitted: Families that a history was fitted to.
    """
    own = run.family in fitted and run.by_person and run.kind != CLASSIFIER
    if own and 0 < _joined_devices(connection, selection.profile) < FEW_DEVICES:
        return Dataset(selection, training_rows(connection, selection), ANOMALY, first=True)
    return read_dataset(connection, run, selection, champion.kind)


def _joined_devices(connection: duck.Connection, profile: Profile) -> int:
    """Number of the profile's active devices that have joined; a history's have no key."""
    query = f"""SELECT count(*) FROM (
        SELECT * FROM devices QUALIFY row_number() OVER (
            PARTITION BY device_id ORDER BY _offset DESC, _row DESC) = 1
        ) WHERE active AND key_id <> '' AND profile = {duck.text(profile.name)}"""  # noqa: S608  (quoted)
    [(count,)] = connection.execute(query).fetchall()
    return int(count)


def select_rows(
    profile: Profile,
    run: TrainingRun,
    known_at: datetime,
    *,
    labelled: bool = False,
    excluded_devices: Sequence[str] = (),
    regime: Regime | None = None,
    newest: datetime | None = None,
) -> RowSelection:
    """The selection of a run's training set, as known at an instant.

    After a drift the time span starts at its onset: rows from before show another normal. Without a drift it
    ends with the newest row, so that its last part, the holdout, is not empty.

    Args:
        profile: Gives the training policy.
        run: Gives the onset.
        known_at: Rows that became known later do not count.
        labelled: Whether rows get their labels.
        excluded_devices: Ids of devices whose rows are left out.
        regime: The new normal that the drift led to; None: there is none.
        newest: Event time of the newest row; None: take ``known_at``.
    """
    end = known_at if run.onset is not None or newest is None else min(known_at, newest)
    longest = end - timedelta(seconds=profile.training.window_s)
    start = longest if run.onset is None else max(run.onset, longest)
    return RowSelection(
        profile,
        event_from=min(start, end - timedelta(microseconds=1)),
        event_to=end,
        known_at=known_at,
        labelled=labelled,
        without=tuple(excluded_devices),
        regime=regime,
    )


def newest_row(connection: duck.Connection, profile: Profile) -> datetime | None:
    """Event time of the profile's newest row whose time is not suspect; None: there is none."""
    table = duck.name(telemetry_table_name(profile.name))
    query = f"SELECT max(event_time) FROM {table} WHERE NOT time_suspect"  # noqa: S608  (a quoted name)
    [(newest,)] = connection.execute(query).fetchall()
    return newest if isinstance(newest, datetime) else None


def read_dataset(
    connection: duck.Connection, run: TrainingRun, selection: RowSelection, champion_kind: str
) -> Dataset:
    """The training set, for the kind of model that the run asks for or the labels allow.

    A run that asks for no kind trains a classifier where there are enough labels; after a drift only if the
    champion is a classifier, too: a drift must not change the kind of model.
    """
    kind = run.kind or (champion_kind if run.reason is RunReason.DRIFT else "")
    if kind != ANOMALY:
        labelled = training_rows(connection, replace(selection, labelled=True))
        train = labelled.part("train")
        labels, devices = train.column("label").to_pylist(), train.column("device_id").to_pylist()
        if run.kind == CLASSIFIER or enough_labels(labels, devices):
            return Dataset(replace(selection, labelled=True), labelled, CLASSIFIER)
    return Dataset(selection, training_rows(connection, selection), ANOMALY)


def all_features(profile: Profile) -> tuple[str, ...]:
    """Every feature: a run that a person asked for without a drift may move them all."""
    return profile.feature_names

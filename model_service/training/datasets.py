"""The training set of a run: which question is asked, and whether the answer is enough to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from feature_store import duck
from feature_store.point_in_time import HOLDOUT, Regime, RowSelection, TrainingSet, training_rows
from model_service.models.classifier import enough_labels
from model_service.training.training_run import RunReason, TrainingRun
from schemas.profile import Profile
from schemas.tables import telemetry_table_name

ANOMALY: Literal["anomaly"] = "anomaly"
CLASSIFIER: Literal["classifier"] = "classifier"
FEW_DEVICES = 5
"""Devices that training and holdout must have each: with fewer the gates can show nothing."""


@dataclass(frozen=True)
class Dataset:
    """A training set with its question.

    Attributes:
        kind: anomaly or classifier.
    """

    wanted: RowSelection
    taken: TrainingSet
    kind: str

    def lacks(self, profile: Profile, more: float = 0.0) -> str:
        """What it has too little of; empty: nothing.

        Args:
            profile: Its training policy.
            more: Effective rows that it must have in any case.
        """
        holdout = self.taken.part(HOLDOUT)
        have, need = self.taken.effective_rows, max(profile.training.min_effective_rows, more)
        if have < need:
            return f"{have:.0f} of {need:.0f} effective rows"
        trained = len(set(self.taken.part("train").column("device_id").to_pylist()))
        held = len(set(holdout.column("device_id").to_pylist()))
        if min(trained, held) < FEW_DEVICES:
            return f"rows of {trained} devices to train on and {held} to test on; {FEW_DEVICES} are needed"
        return ""


def question(
    profile: Profile,
    run: TrainingRun,
    known_at: datetime,
    *,
    labelled: bool = False,
    without: Sequence[str] = (),
    regime: Regime | None = None,
    newest: datetime | None = None,
) -> RowSelection:
    """The question of a run's training set at an instant.

    After a drift the window starts at its onset: what lies before is another normal. Without one it ends
    with the newest row, so that the last part, which only gates see, is not a silence.

    Args:
        profile: Its training policy.
        run: What it is about.
        known_at: The instant.
        labelled: Whether labels are wanted.
        without: Devices to leave out.
        regime: What the drift led to.
        newest: Event time of the newest row; None: as of the instant.
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
        without=tuple(without),
        regime=regime,
    )


def newest_row(con: duck.Connection, profile: Profile) -> datetime | None:
    """Event time of the profile's newest believable row; None: there is none."""
    table = duck.name(telemetry_table_name(profile.name))
    query = f"SELECT max(event_time) FROM {table} WHERE NOT time_suspect"  # noqa: S608  (a quoted name)
    [(newest,)] = con.execute(query).fetchall()
    return newest if isinstance(newest, datetime) else None


def take(con: duck.Connection, run: TrainingRun, wanted: RowSelection, champion_kind: str) -> Dataset:
    """The answer, of the kind of model that the run asks for or the labels allow.

    A run that asks for no kind trains a classifier where there are enough labels; after a drift only if the
    model in force is one: what the drift hit is to be mended, not replaced by something else.
    """
    kind = run.kind or (champion_kind if run.reason is RunReason.DRIFT else "")
    if kind != ANOMALY:
        labelled = training_rows(con, replace(wanted, labelled=True))
        train = labelled.part("train")
        labels, devices = train.column("label").to_pylist(), train.column("device_id").to_pylist()
        if run.kind == CLASSIFIER or enough_labels(labels, devices):
            return Dataset(replace(wanted, labelled=True), labelled, CLASSIFIER)
    return Dataset(wanted, training_rows(con, wanted), ANOMALY)


def all_features(profile: Profile) -> tuple[str, ...]:
    """Every feature: what a person's run without a drift may move."""
    return profile.feature_names

"""Examines a drift in one cut of the lake: devices' shifts, known faults, and the cause that they show."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from feature_store import duck
from feature_store.point_in_time import Regime
from model_service.models.fault_bank import FaultBank, shipped_bank
from model_service.training.announced_change import AnnouncedChange
from model_service.training.cause import TOO_SHORT_AGO, Cause, judge
from model_service.training.run_states import RunState
from model_service.training.shifts import LOOKBACK_WINDOWS, ReferenceScale, read_shifts
from model_service.training.training_run import DriftFinding, TrainingRun
from schemas.drift_vocabulary import DriftKind
from schemas.manifest import Manifest
from schemas.profile import Profile

INSPECT = "Look at the machines; `edgeloop device relearn` where what they do is a new normal"
"""What there is to do about a drift that no training can follow."""


class Examination(NamedTuple):
    """What an examination of a drift found.

    Attributes:
        regime: The new normal, for the selection of the training set; None: there is none.
    """

    cause: Cause
    regime: Regime | None


def examine(  # noqa: PLR0913, PLR0917  (what a cause depends on)
    connection: duck.Connection,
    profile: Profile,
    champion: Manifest,
    onset: datetime,
    known_at: datetime,
    cohorts: Sequence[str],
    kinds: Sequence[str],
    announced: AnnouncedChange | None = None,
) -> Examination:
    """The cause of a drift, by the evidence in the cut.

    Args:
        connection: To a cut of the lake.
        profile: Of the devices.
        champion: Manifest of the model in force; gives the reference scale.
        onset: Earliest onset of the verdicts.
        known_at: Nothing that became known later counts.
        cohorts: Cohorts that the verdicts are about.
        kinds: Kind of each verdict.
        announced: A change that a person announced for these cohorts and this time; None: there is none.
    """
    scale = ReferenceScale.of(champion, profile)
    if scale is None:
        text = f"model {champion.version} gives no healthy reference to compare with: a person must decide"
        return Examination(Cause(DriftKind.UNCLASSIFIED, False, True, (), (), {}, text), None)
    shifts = read_shifts(connection, profile, scale, onset, known_at, cohorts)
    slow = sum(k == DriftKind.DEGRADATION for k in kinds) / len(kinds) if kinds else 0.0
    directions = fault_directions(shipped_bank(profile), scale)
    cause = judge(shifts, directions, profile, slow_verdicts=slow, announced=announced)
    return Examination(cause, _regime(cause, scale, profile, onset))


def _regime(cause: Cause, scale: ReferenceScale, profile: Profile, onset: datetime) -> Regime | None:
    if cause.centre is None or not np.isfinite(cause.centre).all():
        return None
    centre = scale.values(cause.centre)
    spread = scale.spreads(centre)
    at = np.flatnonzero(scale.measured).tolist()
    names = profile.feature_names
    return Regime(
        onset,
        {names[i]: float(f"{centre[i]:.6g}") for i in at},
        {names[i]: float(f"{spread[i]:.6g}") for i in at},
    )


def fault_directions(bank: FaultBank | None, scale: ReferenceScale) -> list[np.ndarray]:
    """Unit vectors in which each kind and severity of the bank moves the features; none without a bank."""
    if bank is None:
        return []
    vectors = [bank.effect(kind, s) / scale.spread for kind in bank.kinds for s in bank.severities(kind)]
    return [vector / np.linalg.norm(vector) for vector in vectors]


def state_after(found: Examination, profile: Profile) -> RunState:
    """The state that a run goes to after its drift was examined."""
    if found.cause.kind is DriftKind.UNCLASSIFIED:
        return RunState.WAITING
    if not found.cause.retrain:
        return RunState.DECLINED
    return RunState.COLLECTING if profile.training.auto else RunState.WAITING


def finding_of(found: Examination) -> DriftFinding:
    """What a run keeps of its examination."""
    cause = found.cause
    return DriftFinding(
        kind=cause.kind.value,
        retrain=cause.retrain,
        text=cause.text,
        evidence=cause.evidence,
        moved=cause.moved,
        faulty=cause.faulty,
        announced=cause.announced,
    )


def has_one_cause(finding: DriftFinding | None, profile: Profile) -> bool:
    """Whether one cause, a sensor's gain or offset, moved all that moved, and no bank of known faults ships.

    A sensor's gain on some of the devices is the one cause of all spread that grew. A model that takes the
    spread of each feature for itself hides small generic faults, by which alone such a profile's are judged.
    """
    sensor = finding is not None and finding.kind == DriftKind.SENSOR_RECALIBRATION
    return sensor and shipped_bank(profile) is None


def has_waited(run: TrainingRun, found: Examination, profile: Profile, now: datetime) -> bool:
    """Whether a run was examined for as long as it may be before a person has to decide.

    Where time is all that lacks, it is looked at as long after its onset as windows before it are compared
    with: what nobody can tell yet is no question to a person.
    """
    longest_s = profile.training.max_wait_s
    if found.cause.text == TOO_SHORT_AGO:
        longest_s = max(longest_s, LOOKBACK_WINDOWS * profile.drift.window_s)
    return now - run.updated_at >= timedelta(seconds=longest_s)


def after_examination(
    run: TrainingRun, found: Examination, profile: Profile, *, waited: bool, untaught: str, held: str
) -> TrainingRun | None:
    """The run as its examination leaves it; None: it is to be examined again when there is more.

    Args:
        run: It is being examined.
        found: What its drift was found to be.
        profile: Its training policy says whether a run goes on by itself.
        waited: It has waited as long as it may.
        untaught: Why no model of its family can be trained; empty: one can.
        held: Why a drift of the model in force waits for a person; empty: it does not.
    """
    cause = found.cause
    if not cause.enough and not waited:
        return None
    state, finding, says = state_after(found, profile), finding_of(found), cause.text
    if untaught:
        # A person could not have it trained either: the run waits for nobody, and says what can be done.
        state, says = RunState.DECLINED, f"{untaught}. {INSPECT}"
        finding = finding.model_copy(update={"text": says})
    elif held and state in (RunState.COLLECTING, RunState.WAITING):
        state, says = RunState.WAITING, held
        finding = finding.model_copy(update={"text": f"{finding.text}. {held}"})
    was_wear = run.finding is not None and run.finding.kind == DriftKind.DEGRADATION
    if state is RunState.WAITING and was_wear:
        # The last examination found wear. That this one is less clear is no reason to ask a person.
        state, finding = RunState.DECLINED, run.finding or finding
    return run.to(state, finding=finding, detail=says)


def regime_of(run: TrainingRun, found: Examination | None) -> Regime | None:
    """The new normal that a run's rows are selected by; None: no drift is behind it.

    A person who has a drift learnt that proves no new normal, or of a model that gives no healthy reference,
    has decided that what came since its onset is one: no alarm that began since then speaks against a row.
    """
    if found is None or found.regime is not None or not run.by_person or run.onset is None:
        return found.regime if found else None
    return Regime(run.onset, {}, {})


def may_build(run: TrainingRun, found: Examination | None) -> bool:
    """Whether a candidate may be made by the newest look at the drift; None: no drift is behind the run.

    A look that is less clear than the one before is no reason to give up, and none to train either.
    """
    return found is None or found.cause.retrain or run.by_person


def while_collecting(run: TrainingRun, found: Examination, profile: Profile) -> TrainingRun | None:
    """The run as a later look at its drift ends it; None: it goes on collecting."""
    if not found.cause.enough or may_build(run, found):
        return None
    finding = finding_of(found)
    return run.to(state_after(found, profile), finding=finding, detail=finding.text)

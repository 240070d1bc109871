"""When a training run starts: pure rules over verdicts, runs, labels and clocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from model_service.training.training_run import OPEN, RunReason, RunState, TrainingRun
from schemas.profile import Profile

MOST_FOLLOW_UPS = 2
"""Further runs on a change whose candidates were refused."""
MORE_ROWS = 1.5
"""Growth of the effective rows from which another run may show what the last could not."""
SAME_ONSET_WINDOWS = 3
"""Verdicts whose onsets lie no farther apart than so many drift windows speak of one change."""


@dataclass(frozen=True)
class VerdictSummary:
    """What the trainer needs of a row of ``drift``."""

    event_id: str
    cohort: str
    kind: str
    onset: datetime
    detected: datetime


@dataclass(frozen=True)
class StartRun:
    """A new run.

    Attributes:
        follows: Run whose candidate was refused on too little evidence; empty: none.
        need: Effective rows that it must have to be worth another try.
    """

    reason: RunReason
    onset: datetime | None = None
    verdicts: tuple[str, ...] = ()
    follows: str = ""
    need: float = 0.0


@dataclass(frozen=True)
class ExtendRun:
    """More verdicts on a change that a run is about already.

    Attributes:
        reopen: Look again: the run had found no reason to retrain, and there is new evidence.
    """

    run: TrainingRun
    verdicts: tuple[str, ...]
    reopen: bool


@dataclass(frozen=True)
class ClockFacts:
    """How a family stands.

    Attributes:
        runs: Its runs, oldest first.
        trained_at: When the newest candidate was made; None: never.
        since: Since when this trainer has known the family.
        new_labels: Labels in force that were not there at the last run of the kind.
    """

    runs: Sequence[TrainingRun]
    trained_at: datetime | None
    since: datetime
    new_labels: int = 0


def on_verdicts(
    profile: Profile, verdicts: Iterable[VerdictSummary], known: Sequence[TrainingRun]
) -> list[StartRun | ExtendRun]:
    """What new verdicts on one profile lead to: one run per change, however many verdicts speak of it.

    A change that led to a model is never taken up again by a verdict, nor one that a person dismissed.
    """
    reach = timedelta(seconds=SAME_ONSET_WINDOWS * profile.drift.window_s)
    found: list[StartRun | ExtendRun] = []
    for group in _by_onset(verdicts, reach):
        ids, onset = tuple(v.event_id for v in group), min(v.onset for v in group)
        same = [r for r in known if r.onset is not None and abs(r.onset - onset) <= reach]
        if not same:
            found.append(StartRun(RunReason.DRIFT, onset, ids))
            continue
        reopen = same[-1].state in (RunState.DECLINED, RunState.WAITING)
        found.append(ExtendRun(same[-1], ids, reopen=reopen))
    return found


def on_refusal(
    profile: Profile, known: Sequence[TrainingRun], refused: TrainingRun, effective_rows: float
) -> StartRun | None:
    """A second or third try on a change whose candidate the gates refused, once there is more to learn from.

    Nothing of the change has gone out, and a few dozen rows often cannot show what twice as many can.

    Args:
        profile: Whose.
        known: Runs of the family, oldest first.
        refused: The run whose candidate was refused.
        effective_rows: What that candidate was trained on.
    """
    same = [r for r in known if r.onset is not None and r.onset == refused.onset]
    last = bool(same) and same[-1].run_id == refused.run_id
    drifted = refused.reason is RunReason.DRIFT
    if not profile.training.auto or not drifted or not last or len(same) > MOST_FOLLOW_UPS:
        return None
    need = MORE_ROWS * effective_rows
    return StartRun(RunReason.DRIFT, refused.onset, refused.verdicts, refused.run_id, need)


def on_clock(profile: Profile, standing: ClockFacts, now: datetime) -> StartRun | None:
    """The run that a clock or the number of labels asks for; None: none, or one is under way."""
    policy = profile.training
    if any(r.state in OPEN for r in standing.runs) or cooling(profile, standing.runs, now):
        return None
    last = standing.trained_at or standing.since
    by_clock = (r.created_at for r in standing.runs if r.reason is not RunReason.DRIFT)
    started = max(by_clock, default=standing.since)
    if policy.label_count is not None and standing.new_labels >= policy.label_count:
        return StartRun(RunReason.LABELS)
    if policy.schedule_s is not None and now - max(started, last) >= timedelta(seconds=policy.schedule_s):
        return StartRun(RunReason.SCHEDULE)
    if policy.max_age_s is not None and now - max(started, last) >= timedelta(seconds=policy.max_age_s):
        return StartRun(RunReason.AGE)
    return None


def cooling(profile: Profile, known: Sequence[TrainingRun], now: datetime) -> bool:
    """Whether the last run that trained or failed ended too recently for another automatic one."""
    ended = [r.updated_at for r in known if r.state in (RunState.TRAINED, RunState.FAILED)]
    return bool(ended) and now - max(ended) < timedelta(seconds=profile.training.cooldown_s)


def next_open(profile: Profile, known: Sequence[TrainingRun], now: datetime) -> TrainingRun | None:
    """The run to work on: one at a time, oldest first.

    New automatic ones wait while it cools down; one that follows a refusal waits for rows instead.
    """
    still = cooling(profile, known, now)
    due = (r for r in known if r.state in OPEN)
    return next(
        (r for r in due if not still or r.by_person or r.follows or r.state is not RunState.EXAMINING), None
    )


def _by_onset(verdicts: Iterable[VerdictSummary], reach: timedelta) -> list[list[VerdictSummary]]:
    groups: list[list[VerdictSummary]] = []
    for verdict in sorted(verdicts, key=lambda v: (v.onset, v.event_id)):
        if groups and verdict.onset - groups[-1][0].onset <= reach:
            groups[-1].append(verdict)
        else:
            groups.append([verdict])
    return groups

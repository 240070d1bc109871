"""When a training run starts: pure rules over verdicts, runs, labels and time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from model_service.training.run_states import OPEN, UNFINISHED, RunState
from model_service.training.training_run import RunReason, TrainingRun
from schemas.profile import Profile

MOST_FOLLOW_UPS = 2
"""Most retries on a change whose candidates were refused."""
MORE_ROWS = 1.5
"""A retry must have this multiple of the effective rows that the refused candidate was trained on."""
SAME_ONSET_WINDOWS = 3
"""Verdicts whose onsets are at most this many drift windows apart belong to one change."""
NOT_YET = "A profile of your own gets its first model by `edgeloop model fit`"


@dataclass(frozen=True)
class VerdictSummary:
    """The columns of table ``drift`` that the trainer uses."""

    event_id: str
    cohort: str
    kind: str
    onset: datetime
    detected: datetime


@dataclass(frozen=True)
class StartRun:
    """A new run.

    Attributes:
        retry_of: Id of the run on the same change that it follows; empty: it follows none.
        need: Effective rows that it must then have.
    """

    reason: RunReason
    onset: datetime | None = None
    verdicts: tuple[str, ...] = ()
    retry_of: str = ""
    need: float = 0.0


@dataclass(frozen=True)
class ExtendRun:
    """More verdicts on a change that has a run already.

    Attributes:
        reopen: Examine it again: the run had found no reason to retrain, and this is new evidence.
    """

    run: TrainingRun
    verdicts: tuple[str, ...]
    reopen: bool


@dataclass(frozen=True)
class ClockFacts:
    """What the rules on time and labels need to know of a family.

    Attributes:
        runs: Its runs, oldest first.
        trained_at: When the newest candidate was made; None: never.
        since: When the trainer first knew the family.
        new_labels: Labels in force that were not in force at the last run that labels started.
    """

    runs: Sequence[TrainingRun]
    trained_at: datetime | None
    since: datetime
    new_labels: int = 0


def on_verdicts(
    profile: Profile, verdicts: Iterable[VerdictSummary], known: Sequence[TrainingRun]
) -> list[StartRun | ExtendRun]:
    """What new verdicts on one profile lead to: one run a change, however many verdicts there are on it.

    A verdict never reopens a run that made a model, or one that a person dismissed.
    """
    reach = timedelta(seconds=SAME_ONSET_WINDOWS * profile.drift.window_s)
    found: list[StartRun | ExtendRun] = []
    for group in _by_onset(verdicts, reach):
        ids, onset = tuple(v.event_id for v in group), min(v.onset for v in group)
        # Any earlier run on this change will do: the newest of them gets the verdicts.
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
    """A retry on a change whose candidate the gates refused; None: there is to be none.

    The devices still run the old model, and gates often pass with twice the rows what they refused with a few
    dozen.

    Args:
        profile: Gives the training policy.
        known: Runs of the family, oldest first.
        refused: The run whose candidate was refused.
        effective_rows: Number that the candidate was trained on.
    """
    same = [r for r in known if r.onset is not None and r.onset == refused.onset]
    last = bool(same) and same[-1].run_id == refused.run_id
    drifted = refused.reason is RunReason.DRIFT
    if not profile.training.auto or not drifted or not last or len(same) > MOST_FOLLOW_UPS:
        return None
    need = MORE_ROWS * effective_rows
    return StartRun(RunReason.DRIFT, refused.onset, refused.verdicts, refused.run_id, need)


def on_release(
    profile: Profile, known: Sequence[TrainingRun], made: TrainingRun, effective_rows: float, now: datetime
) -> StartRun | None:
    """Another run on a change that was learnt from little, once twice the time has passed; None: not now.

    A first model of a new normal is trained on what there is soon after the onset. What takes longer to
    settle it cannot know, and its own estimates are rough. So it is trained again on about twice the rows,
    and again after that; the gates let through what is better.

    Args:
        profile: Gives the training policy.
        known: Runs of the family, oldest first.
        made: The run that made the model in force. It is renewed for the profile that it was made for alone:
            another one of the same family may run on no device.
        effective_rows: Number that this model was trained on.
        now: The current time.
    """
    if made.profile != profile.name or not profile.training.auto:
        return None
    if made.reason is not RunReason.DRIFT or made.onset is None:
        return None
    if any(r.state in UNFINISHED for r in known) or known[-1].run_id != made.run_id:
        return None  # something else has happened since
    renewed = [r for r in known if r.onset == made.onset and r.state is RunState.TRAINED]
    if len(renewed) > profile.training.renewals or now - made.onset < 2 * (made.updated_at - made.onset):
        return None
    return StartRun(RunReason.DRIFT, made.onset, made.verdicts, made.run_id, MORE_ROWS * effective_rows)


def on_clock(profile: Profile, facts: ClockFacts, now: datetime) -> StartRun | None:
    """The run that is due by time or by the number of labels; None: none is, or one is under way."""
    policy = profile.training
    if any(r.state in OPEN for r in facts.runs) or cooling_down(profile, facts.runs, now):
        return None
    last = facts.trained_at or facts.since
    by_clock = (r.created_at for r in facts.runs if r.reason is not RunReason.DRIFT)
    started = max(by_clock, default=facts.since)
    if policy.label_count is not None and facts.new_labels >= policy.label_count:
        return StartRun(RunReason.LABELS)
    if policy.schedule_s is not None and now - max(started, last) >= timedelta(seconds=policy.schedule_s):
        return StartRun(RunReason.SCHEDULE)
    if policy.max_age_s is not None and now - max(started, last) >= timedelta(seconds=policy.max_age_s):
        return StartRun(RunReason.AGE)
    return None


def shared_family(profiles: Mapping[str, Profile], used: Collection[str], family: str) -> str:
    """Why no model of the family can be trained: several profiles run it; empty: one does, or none.

    Args:
        profiles: By name.
        used: Names of the profiles that devices run; others share nothing.
        family: Model family.
    """
    own = sorted(p.name for p in profiles.values() if p.model.family == family and p.name in used)
    if len(own) < 2:
        return ""
    return (
        f"family {family!r} is run by the profiles {', '.join(own)}: a model learnt on the data of one would "
        f"run on the devices of all. {NOT_YET}"
    )


def nothing_to_learn(family: str, learnable: Collection[str]) -> str:
    """Why no model of the family can be trained; empty: one can.

    Args:
        family: Model family.
        learnable: Families whose factory model holds parameters that were learnt.
    """
    if family in learnable:
        return ""
    why = f"there is nothing to train in model family {family!r}: its model holds no learnt parameters"
    return f"{why}. {NOT_YET}"


def cooling_down(profile: Profile, known: Sequence[TrainingRun], now: datetime) -> bool:
    """Whether the last run that made a model or failed ended too recently for another automatic run."""
    ended = [r.updated_at for r in known if r.state in (RunState.TRAINED, RunState.FAILED)]
    return bool(ended) and now - max(ended) < timedelta(seconds=profile.training.cooldown_s)


def next_open(profile: Profile, known: Sequence[TrainingRun], now: datetime) -> TrainingRun | None:
    """The run to work on: one at a time, oldest first.

    New automatic runs wait while the family cools down. Retries do not: they wait for rows.
    """
    waits = cooling_down(profile, known, now)
    opened = (r for r in known if r.state in OPEN)
    return next(
        (r for r in opened if not waits or r.by_person or r.is_retry or r.state is not RunState.EXAMINING),
        None,
    )


def _by_onset(verdicts: Iterable[VerdictSummary], reach: timedelta) -> list[list[VerdictSummary]]:
    """The verdicts in groups, one a change; a group spans at most ``reach``."""
    groups: list[list[VerdictSummary]] = []
    for verdict in sorted(verdicts, key=lambda v: (v.onset, v.event_id)):
        if groups and verdict.onset - groups[-1][0].onset <= reach:
            groups[-1].append(verdict)
        else:
            groups.append([verdict])
    return groups

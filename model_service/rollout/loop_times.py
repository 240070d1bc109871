"""When each stage of the loop was reached that led to a rollout, out of the registry."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from model_service.registry import candidates
from model_service.registry.registry_tables import (
    gate_verdicts,
    outbox,
    reports,
    rollout_events,
    rollouts,
)
from model_service.training import run_store
from model_service.training.training_run import TrainingRun
from schemas.updates import UpdateResult, UpdateState

_ON_IT = (UpdateState.COMMITTED.value, UpdateState.WATCH.value)


class LoopTimes(NamedTuple):
    """Instants, UTC seconds, in the order of the loop; None: the loop did not pass there, or not yet.

    Attributes:
        onset: Start of the drift that led to the model, by its verdict.
        verdict: End of the window that gave the first verdict on it.
        run: Start of the training run.
        trained: End of it.
        gated: Last gate.
        published: Publication of the model.
        started: Start of the rollout.
        first_device: First report of a device that runs the model for good.
        last_device: The same of the last device so far.
        ended: End of the rollout.
    """

    onset: float | None = None
    verdict: float | None = None
    run: float | None = None
    trained: float | None = None
    gated: float | None = None
    published: float | None = None
    started: float | None = None
    first_device: float | None = None
    last_device: float | None = None
    ended: float | None = None

    @property
    def began(self) -> float | None:
        """The earliest instant that is known: the onset of a drift, else the start of the run or rollout."""
        return next((at for at in self if at is not None), None)

    @property
    def loop_s(self) -> float | None:
        """Seconds from there to the last device that runs the model; None: no device does."""
        return None if self.last_device is None or self.began is None else self.last_device - self.began

    def stages(self) -> dict[str, float]:
        """Seconds from the known stage before to each later one, by name."""
        known = [(name, at) for name, at in self._asdict().items() if at is not None]
        return {name: at - before for (_, before), (name, at) in pairwise(known)}


def loop_times(connection: Connection, rollout_id: str, version: str, verdict: float | None) -> LoopTimes:
    """The stages of a rollout that has ended.

    Args:
        connection: Reads the registry.
        rollout_id: The rollout.
        version: Its model.
        verdict: End of the window of the first verdict; the lake knows it.
    """
    run = _run_behind(connection, version)
    run_id = "" if run is None else run.run_id

    def noted(event_id: str) -> float | None:
        query = select(outbox.c.event_time).where(outbox.c.event_id == event_id)
        return connection.execute(query).scalar()

    committed = (reports.c.state.in_(_ON_IT) | (reports.c.result == UpdateResult.COMMITTED.value)) & (
        reports.c.attempted == version
    )
    # A device's first such report is when it took the model; the last device's is the newest of these.
    firsts = (
        select(func.min(reports.c.received_at).label("at"))
        .where(reports.c.rollout_id == rollout_id, committed)
        .group_by(reports.c.device_id)
        .subquery()
    )
    first, last = connection.execute(select(func.min(firsts.c.at), func.max(firsts.c.at))).one()
    return LoopTimes(
        onset=None if run is None or run.onset is None else run.onset.timestamp(),
        verdict=verdict,
        run=None if run is None else run.created_at.timestamp(),
        trained=noted(f"run/{run_id}/trained"),
        gated=connection.execute(
            select(func.max(gate_verdicts.c.evaluated_at)).where(gate_verdicts.c.version == version)
        ).scalar(),
        published=noted(f"model/{version}/published"),
        started=connection.execute(
            select(func.min(rollout_events.c.at)).where(
                rollout_events.c.rollout_id == rollout_id, rollout_events.c.step == "rollout_started"
            )
        ).scalar(),
        first_device=first,
        last_device=last,
        ended=connection.execute(
            select(rollouts.c.updated_at).where(rollouts.c.rollout_id == rollout_id)
        ).scalar(),
    )


def verdicts_behind(connection: Connection, version: str) -> tuple[str, ...]:
    """Event ids of the drift verdicts that led to a model; empty: none did."""
    run = _run_behind(connection, version)
    return () if run is None else tuple(run.verdicts)


def _run_behind(connection: Connection, version: str) -> TrainingRun | None:
    made = candidates.get(connection, version)
    return None if made is None else run_store.by_id(connection, [made.run_id]).get(made.run_id)

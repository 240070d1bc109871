"""Shows the learning loop while a demo runs: reads the model registry beside its writers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from infra.printing import count
from model_service import (
    CandidateState,
    ModelSettings,
    Registry,
    TrainingRun,
    candidates,
    loop_times,
    registry_tables,
    rollout_summary,
    run_store,
)
from schemas.updates import UpdateResult, UpdateState

_NEWEST = 5
"""Rollouts that are looked at."""
_RUNNING = (UpdateState.COMMITTED.value, UpdateState.WATCH.value)


@dataclass(frozen=True)
class LoopStep:
    """One step in the life of a model, training run, rollout or device."""

    at: datetime
    subject: str
    step: str
    detail: Mapping[str, str]

    def text(self) -> str:
        """What happened, in one line without its time; the table ``lifecycle`` has the whole detail."""
        shown = ", ".join(text for name, show in _SHOWN if (text := show(self.detail.get(name, ""))))
        return f"{self.subject:<18}  {self.step.replace('_', ' '):<17}  {shown}".rstrip()


def merge_device_steps(steps: Sequence[LoopStep]) -> list[LoopStep]:
    """The steps in order of time; equal steps of many devices, such as joining, become one."""
    by_name: dict[str, list[LoopStep]] = {}
    for step in steps:
        if step.step.startswith("device_"):
            by_name.setdefault(step.step, []).append(step)
    merged = [
        LoopStep(max(s.at for s in same), count(len(same), "device"), name.removeprefix("device_"), {})
        for name, same in by_name.items()
    ]
    return sorted([*merged, *(s for s in steps if not s.step.startswith("device_"))], key=lambda s: s.at)


def _gate_count(text: str) -> str:
    return count(len(text.split(",")), "gate") if text else ""


def _labelled(label: str) -> Callable[[str], str]:
    return lambda text: f"{label} {text}" if text else ""


_SHOWN: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("cause", str),
    ("says", str),
    ("version", str),
    ("verdicts", _labelled("verdicts")),
    ("champion", _labelled("against")),
    ("effective_rows", _labelled("effective rows")),
    ("gates", _gate_count),
    ("baseline", _labelled("baseline")),
    ("ring", _labelled("ring")),
    ("seq", _labelled("seq")),
    ("committed", _labelled("committed")),
    ("failed", _labelled("failed")),
    ("guard_text", str),
    ("detail", str),
    ("why", str),
)
"""The parts of a step's detail that a line shows, in this order, and how."""


@dataclass(frozen=True)
class DemoModel:
    """One model of the report, and how it ended."""

    version: str
    status: CandidateState
    gates: Mapping[str, bool]

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return {"version": self.version, "status": self.status, "gates": dict(self.gates)}


@dataclass(frozen=True)
class DemoFleet:
    """How many devices run the newest model, and how update attempts ended.

    Attributes:
        on_latest: Devices that run the version, by their newest report.
        restored: Attempts of any device, since the demo began, that ended with the old model restored.
        refused_updates: Attempts that the device refused.
    """

    total: int
    on_latest: int
    restored: int
    refused_updates: int

    def to_json(self) -> dict[str, int]:
        """For the report."""
        return {
            "total": self.total,
            "on_latest": self.on_latest,
            "restored": self.restored,
            "refused_updates": self.refused_updates,
        }


@dataclass
class LoopReader:
    """Reads the learning loop's progress from the registry.

    Args:
        registry: Of the stack's model service.
        since: Older steps, models and runs are left out.
    """

    registry: Registry
    since: datetime
    _reported: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, settings: ModelSettings, since: datetime) -> LoopReader:
        """The reader of a running stack."""
        return cls(Registry(settings.database_url), since)

    def close(self) -> None:
        """Close the registry."""
        self.registry.close()

    def new_steps(self) -> list[LoopStep]:
        """Steps since the last call, oldest first."""
        query = (
            select(registry_tables.outbox)
            .where(registry_tables.outbox.c.event_time >= self.since.timestamp())
            .order_by(registry_tables.outbox.c.event_time)
        )
        with self.registry.reading() as connection:
            rows = connection.execute(query).mappings().all()
        fresh = [row for row in rows if row["event_id"] not in self._reported]
        self._reported.update(row["event_id"] for row in fresh)
        return [
            LoopStep(datetime.fromtimestamp(r["event_time"], UTC), r["subject"], r["step"], r["detail"])
            for r in fresh
        ]

    def models(self) -> list[DemoModel]:
        """Candidates that training runs made since the start, oldest first."""
        with self.registry.reading() as connection:
            return [
                DemoModel(made.version, made.state, _gates(connection, made.version))
                for made in sorted(candidates.every_candidate(connection), key=lambda c: c.major)
                if made.created_at >= self.since.timestamp() and made.run_id
            ]

    def runs(self, onset_from: datetime) -> list[TrainingRun]:
        """Training runs about drifts that began at or after an instant."""
        with self.registry.reading() as connection:
            known = run_store.every_run(connection)
        return [
            run
            for run in known
            if run.onset is not None and run.onset >= onset_from and run.created_at >= self.since
        ]

    def fleet(self, devices: Sequence[str], family: str, version: str) -> DemoFleet:
        """How many of these devices run a version, and how all attempts ended."""
        since = self.since.timestamp()
        with self.registry.reading() as connection:
            installed = dict(
                connection.execute(
                    select(
                        registry_tables.device_status.c.device_id, registry_tables.device_status.c.installed
                    ).where(registry_tables.device_status.c.device_id.in_(devices))
                ).all()
            )
            ends = (
                connection.execute(
                    select(registry_tables.reports.c.result).where(
                        registry_tables.reports.c.received_at >= since
                    )
                )
                .scalars()
                .all()
            )
        on_latest = sum(1 for sets in installed.values() if sets.get(family, {}).get("version") == version)
        return DemoFleet(
            total=len(devices),
            on_latest=on_latest,
            restored=sum(1 for result in ends if result == UpdateResult.RESTORED),
            refused_updates=sum(1 for result in ends if result == UpdateResult.NO_CHANGE_REFUSED),
        )

    def waiting(self) -> list[str]:
        """Rollouts that wait for a person, each with the reason; the newest first."""
        with self.registry.reading() as connection:
            known = rollout_summary.history(connection, "", _NEWEST)
        return [f"rollout {r['rollout_id']} is paused: {r['paused']['reason']}" for r in known if r["paused"]]

    def loop_s(self, version: str) -> float | None:
        """Seconds from the drift to the last device of the group that took it first; None: no device has.

        A rollout to the devices of the scenes, which take no model, comes later and says nothing of it.
        """
        rollouts = registry_tables.rollouts.c
        query = select(rollouts.rollout_id).where(rollouts.version == version).order_by(rollouts.created_at)
        with self.registry.reading() as connection:
            ids = connection.execute(query).scalars().all()
            found = (loop_times.loop_times(connection, i, version, None).loop_s for i in ids)
            return next((s for s in found if s is not None), None)

    def commits(self, devices: Iterable[str], version: str) -> dict[str, datetime]:
        """When each device first reported that it runs the version."""
        query = (
            select(registry_tables.reports.c.device_id, registry_tables.reports.c.received_at)
            .where(
                registry_tables.reports.c.device_id.in_(list(devices)),
                registry_tables.reports.c.attempted == version,
                registry_tables.reports.c.state.in_(_RUNNING)
                | (registry_tables.reports.c.result == UpdateResult.COMMITTED.value),
            )
            .order_by(registry_tables.reports.c.id.desc())
        )
        with self.registry.reading() as connection:
            found = connection.execute(query).all()
        return {device: datetime.fromtimestamp(at, UTC) for device, at in found}


def _gates(connection: Connection, version: str) -> dict[str, bool]:
    query = select(registry_tables.gate_verdicts.c.gate, registry_tables.gate_verdicts.c.passed).where(
        registry_tables.gate_verdicts.c.version == version
    )
    return {
        gate: bool(passed)
        for gate, passed in connection.execute(query.order_by(registry_tables.gate_verdicts.c.gate))
    }

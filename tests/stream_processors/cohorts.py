"""Builders for the tests of aggregates and drift: summaries, a context, and jobs that carry their state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pyarrow as pa

from schemas.errors import UnknownSchemaError
from schemas.profile import Profile
from schemas.tables import SUMMARIES
from stream_processors.job import Batch, Job, Output, RawMessage
from tests.quick_machine_profile import quick_machine_profile

T0 = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
PERIOD_S = 5.0
COHORT = "machine/hall/a/x86"


class Context:
    """One profile; every device is in one cohort, unless its id names another after an ``@``."""

    def __init__(self, profile: Profile | None = None) -> None:
        self.profile = profile or quick_machine_profile()

    def cohort_of(self, device_id: str, profile: str) -> str:
        return device_id.partition("@")[2] or COHORT

    def verify_derived(self, message: RawMessage) -> bool:
        return True

    def profile_of(self, name: str) -> Profile:
        if name != self.profile.name:
            raise UnknownSchemaError(f"no profile {name}")
        return self.profile


class Period(NamedTuple):
    """One summary row: a device's feature over period number ``at`` (of 5 s since ``T0``)."""

    device: str
    at: int
    values: Sequence[float]
    feature: str = "temperature_mean"
    model: str = "m@1"
    known_s: float | None = None


def summaries(periods: Sequence[Period], **changes: Any) -> pa.Table:
    """Rows of ``summaries``; appended a second after the period's end, unless ``known_s`` is given."""
    return pa.Table.from_pylist([_row(p) | changes for p in periods], schema=SUMMARIES.schema)


def _row(p: Period) -> dict[str, Any]:
    n = len(p.values)
    mean = sum(p.values) / n if n else None
    known_s = (p.at + 1) * PERIOD_S + 1 if p.known_s is None else p.known_s
    return {
        "profile": "machine",
        "device_id": p.device,
        "boot_id": 1,
        "model_version": p.model,
        "featureset": "rotating@1",
        "feature": p.feature,
        "period_start": T0 + timedelta(seconds=p.at * PERIOD_S),
        "period_s": PERIOD_S,
        "part": 0,
        "n": n,
        "n_missing": 5 - n,
        "mean": mean,
        "m2": sum((v - mean) ** 2 for v in p.values) if n else 0.0,
        "min": min(p.values, default=None),
        "max": max(p.values, default=None),
        "known_at": T0 + timedelta(seconds=known_s),
        "_partition": 0,
        "_offset": 0,
        "_row": 0,
    }


class JobRunner:
    """A job with its state between commits, as a task would keep it: JSON, touched keys only."""

    def __init__(self, job: Job, task: str = "task-03") -> None:
        self.job, self.task = job, task
        self.state: dict[str, Any] = {}
        self.n = 0
        self.outputs: list[Output] = []
        self.counters: dict[str, int] = {}

    def run(
        self,
        now_s: float,
        rows: Mapping[str, pa.Table] | None = None,
        messages: Sequence[RawMessage] = (),
    ) -> Output:
        before = json.dumps(self.state, sort_keys=True)
        batch = Batch(self.task, self.n, tuple(messages), rows or {})
        output = self.job.process(batch, self.state, T0 + timedelta(seconds=now_s))
        assert json.dumps(self.state, sort_keys=True) == before, "the job changed the state it was given"
        self.state |= json.loads(json.dumps(dict(output.state)))
        self.state = {k: v for k, v in self.state.items() if v is not None}
        self.n += 1
        self.outputs.append(output)
        for name, count in output.counters.items():
            self.counters[name] = self.counters.get(name, 0) + count
        return output

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Rows landed so far."""
        return [r for o in self.outputs if table in o.rows for r in o.rows[table].to_pylist()]


def logged(values: Sequence[bytes], at_s: float, first_offset: int = 0) -> list[RawMessage]:
    """Messages of ``aggregate.v1`` as the log holds them."""
    at_ms = int((T0 + timedelta(seconds=at_s)).timestamp() * 1000)
    return [
        RawMessage("aggregate.v1", 3, first_offset + i, at_ms, COHORT.encode(), [], v)
        for i, v in enumerate(values)
    ]

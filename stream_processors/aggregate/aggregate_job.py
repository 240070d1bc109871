"""Aggregate: summaries of devices become tumbling event-time windows of a cohort, as mergeable partials.

Each task keeps one watermark per cohort from its own devices' periods. A window that the watermark has
passed is closed: one partial per (cohort, model version, feature). What comes later is one more partial,
flagged late; nothing is dropped. The sum over all partials of a window is the window.

Each partial carries a ``watermark``: *with this message* the task has sent everything of the cohort before
it. Within a commit it is therefore the window's start, and only the cohort's last message carries the
commit's own watermark: a reader that has half a commit does not take a window for complete. The row of a
partial carries the same watermark as its message.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from schemas import topics
from schemas.events import Aggregate
from schemas.instants import from_us, to_us
from schemas.profile import Profile
from schemas.tables import AGGREGATES, SUMMARIES
from stream_processors.derived_provenance import derived_provenance
from stream_processors.job import Batch, Derived, Output, State
from stream_processors.job_context import JobContext
from stream_processors.windowing.moments import BoolArray, IntArray, MomentColumns
from stream_processors.windowing.watermark import (
    AppendClock,
    SourceProgress,
    advance,
    idle_bound_us,
)
from stream_processors.windowing.windows import (
    CohortScope,
    Contents,
    SummaryRows,
    TumblingWindow,
    WindowContent,
    WindowPart,
    all_parts,
    fold,
)

_SEP = "\x1f"
_CLOCK = "clock"
_YEAR_1900_US, _YEAR_2200_US = -2_208_988_800_000_000, 7_258_118_400_000_000
"""Times that windows can be computed with; the first is also sent where there is no watermark yet."""
_MAX_PERIOD_S = 366 * 86400
_NAMES = ("device_id", "model_version", "feature")


@dataclass
class CohortState:
    """What this task remembers of one scope."""

    watermark: int | None = None
    devices: dict[str, SourceProgress] = field(default_factory=dict)
    open: Contents = field(default_factory=dict)


class AggregateWindows:
    """Windows of a cohort from the summaries of this task's devices.

    State keys: ``clock``; per scope ``mark`` (the watermark); per device that may still hold the watermark
    ``device``; per open window ``open``. A closed window leaves no state: its on-time partial is number 0, a
    late one is numbered by the commit that made it, plus one.

    Counters: ``periods`` (summary rows with values), of which ``late_periods`` and ``ahead_periods`` (from
    the future: late partials at once); ``unusable_periods`` (they stay in ``summaries`` only); ``partials``.
    """

    name: ClassVar[str] = "aggregate"
    version: ClassVar[int] = 1
    state_version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = (SUMMARIES.name,)
    writes: ClassVar[tuple[str, ...]] = (AGGREGATES.name,)

    def __init__(self, context: JobContext) -> None:
        self._context = context

    def process(self, batch: Batch, state: State, now: datetime) -> Output:
        """Fold in the summaries of this commit, then close the windows that the watermark has passed."""
        call = _Call(self._context, batch, state, to_us(now))
        for scope, rows in call.scopes(batch.rows.get(SUMMARIES.name)):
            call.take(scope, rows)
        for scope in sorted(call.cohorts):
            call.close(scope)
        return call.output(now)


class _Call:
    """One call of the job: the state it was given, and what it changes."""

    def __init__(self, context: JobContext, batch: Batch, state: State, now_us: int) -> None:
        self._context = context
        self._batch = batch
        self._now_us = now_us
        self.cohorts = _read(state)
        self._clock = AppendClock(*state[_CLOCK]) if _CLOCK in state else None
        self._updates: dict[str, Any] = {}
        self._late: dict[CohortScope, Contents] = defaultdict(dict)
        self._events: list[Aggregate] = []
        self._counters: Counter[str] = Counter()

    def scopes(self, table: pa.Table | None) -> Iterator[tuple[CohortScope, SummaryRows]]:
        """Usable rows by scope, in order of scope; sets the clock by all rows."""
        if table is None or not table.num_rows:
            return
        columns = _columns(table)
        self._update_clock(int(columns["known_at"].max()))
        profiles, devices = table["profile"].to_pylist(), table["device_id"].to_pylist()
        found: dict[tuple[str, str], CohortScope] = {
            pair: CohortScope(pair[0], self._context.cohort_of(pair[1], pair[0]))
            for pair in sorted(set(zip(profiles, devices, strict=True)))
        }
        indices: dict[CohortScope, list[int]] = defaultdict(list)
        usable = _usable(columns)
        self._counters["unusable_periods"] += int((~usable).sum())
        for i in np.flatnonzero(usable).tolist():
            indices[found[profiles[i], devices[i]]].append(i)
        names = {c: table[c].to_pylist() for c in _NAMES}
        for scope in sorted(indices):
            yield scope, _pick(columns, names, np.array(indices[scope], dtype="int64"))

    def take(self, scope: CohortScope, rows: SummaryRows) -> None:
        """Fold rows into open windows, or into late partials, and record the devices' progress."""
        profile = self._context.profile_of(scope.profile)
        cohort = self.cohorts.setdefault(scope, CohortState())
        length = round(profile.drift.window_s * 1e6)
        starts = rows.start // length * length
        ahead = rows.start > rows.known + round(profile.clock.max_ahead_s * 1e6)
        late = starts + length <= cohort.watermark if cohort.watermark is not None else np.zeros_like(ahead)
        valued = rows.moments.n > 0
        self._counters["periods"] += int(valued.sum())
        self._counters["ahead_periods"] += int((ahead & valued).sum())
        self._counters["late_periods"] += int((late & ~ahead & valued).sum())
        fold(self._late[scope], rows, starts, length, valued & (late | ahead))
        on_time = valued & ~late & ~ahead
        fold(cohort.open, rows, starts, length, on_time)
        touched = {TumblingWindow(s, length) for s in np.unique(starts[on_time]).tolist()}
        for window in touched:
            self._updates[_open_key(scope, window)] = _window_state(cohort.open[window])
        self._progress(scope, profile, cohort, rows, ~ahead)

    def _progress(
        self, scope: CohortScope, profile: Profile, cohort: CohortState, rows: SummaryRows, trusted: BoolArray
    ) -> None:
        lateness = round(profile.drift.lateness_s * 1e6)
        for i in np.flatnonzero(trusted).tolist():
            device, complete, known = rows.device[i], int(rows.end[i]) - lateness, int(rows.known[i])
            source = cohort.devices.get(device, SourceProgress(complete, known)).updated(complete, known)
            cohort.devices[device] = source
            self._updates[_device_key(scope, device)] = list(source)

    def close(self, scope: CohortScope) -> None:
        """Advance the scope's watermark; emit late partials and the windows it passed."""
        cohort = self.cohorts[scope]
        policy = self._context.profile_of(scope.profile)
        before = _YEAR_1900_US if cohort.watermark is None else cohort.watermark
        self._advance(scope, policy, cohort)
        after = _YEAR_1900_US if cohort.watermark is None else cohort.watermark
        late = self._late[scope]
        self._emit(scope, all_parts(late, sorted(late), self._batch.n + 1, late=True), before, before)
        closed = sorted(w for w in cohort.open if w.end_us <= after)
        self._emit(scope, all_parts(cohort.open, closed, 0, late=False), before, after)
        self._updates |= {_open_key(scope, window): None for window in closed}

    def _advance(self, scope: CohortScope, profile: Profile, cohort: CohortState) -> None:
        if self._clock is None:
            return
        lateness = round(profile.drift.lateness_s * 1e6)
        idle_after = idle_bound_us(profile.drift.window_s, profile.drift.lateness_s)
        append_now = self._clock.at(self._now_us)
        sources = _leading(cohort.devices, round(profile.clock.max_age_s * 1e6), lateness)
        watermark = advance(cohort.watermark, sources, append_now, idle_after, lateness)
        if watermark != cohort.watermark:
            cohort.watermark = watermark
            self._updates[_SEP.join(("mark", *scope))] = watermark
        for device, source in cohort.devices.items():
            passed = watermark is not None and source.complete_us + lateness <= watermark
            if passed and append_now - source.appended_us > idle_after:
                self._updates[_device_key(scope, device)] = None

    def _emit(self, scope: CohortScope, parts: list[WindowPart], before: int, after: int) -> None:
        """Add partials, in order.

        Args:
            scope: The cohort and its profile.
            parts: By window, so that what a message promises never goes back.
            before: The watermark before them, microseconds since 1970.
            after: The watermark that the last of them carries.
        """
        for i, part in enumerate(parts):
            so_far = before if part.late else max(before, part.window.start_us)
            watermark = after if i == len(parts) - 1 else so_far
            self._events.append(
                Aggregate(
                    event_id=f"{self._batch.task}/{self._batch.n}/{len(self._events)}",
                    cohort=scope.cohort,
                    profile=scope.profile,
                    model_version=part.model,
                    feature=part.feature,
                    window_start=from_us(part.window.start_us),
                    window_s=part.window.length_us / 1e6,
                    part=part.number,
                    devices=part.devices,
                    late=part.late,
                    watermark=from_us(watermark),
                    **part.moments._asdict(),
                )
            )

    def _update_clock(self, appended_us: int) -> None:
        clock = self._clock or AppendClock(appended_us, self._now_us)
        self._clock = clock.updated(appended_us, self._now_us)
        self._updates[_CLOCK] = list(self._clock)

    def output(self, now: datetime) -> Output:
        """What changed, as the job's output."""
        self._counters["partials"] = len(self._events)
        return Output(
            rows={AGGREGATES.name: _table(self._events, self._batch, now)} if self._events else {},
            state=self._updates,
            messages=tuple(
                Derived(topics.AGGREGATE.base, e.cohort, e.model_dump_json().encode()) for e in self._events
            ),
            counters={name: count for name, count in self._counters.items() if count},
        )


def _leading(
    devices: Mapping[str, SourceProgress], max_age_us: int, lateness_us: int
) -> dict[str, SourceProgress]:
    """Devices that may lead the watermark: those with plausible clocks, or all where no clock is plausible.

    A device with a clock in 1970 would hold the whole cohort there. Where *every* device sends times of long
    ago the cohort replays recordings, and the time of the recordings is the one to follow.
    """
    fresh = {d: s for d, s in devices.items() if s.complete_us + lateness_us >= s.appended_us - max_age_us}
    return fresh or dict(devices)


def _columns(table: pa.Table) -> dict[str, Any]:
    ints = {c: table[c].cast(pa.int64()).to_numpy() for c in ("period_start", "known_at", "n")}
    floats = {c: table[c].fill_null(np.nan).to_numpy() for c in ("mean", "m2", "min", "max", "period_s")}
    return ints | floats


def _moments(columns: Mapping[str, Any]) -> MomentColumns:
    return MomentColumns(*(columns[name] for name in MomentColumns._fields))


def _usable(columns: Mapping[str, Any]) -> BoolArray:
    """Rows whose time can be computed with and whose moments, if any, can be merged."""
    start, length = columns["period_start"], columns["period_s"]
    in_time = (start >= _YEAR_1900_US) & (start < _YEAR_2200_US) & (length > 0) & (length <= _MAX_PERIOD_S)
    good: BoolArray = in_time & (_moments(columns).usable() | (columns["n"] == 0))
    return good


def _pick(columns: Mapping[str, Any], names: Mapping[str, list[str]], indices: IntArray) -> SummaryRows:
    start = columns["period_start"][indices]
    device, model, feature = ([names[c][i] for i in indices.tolist()] for c in _NAMES)
    end = start + np.round(columns["period_s"][indices] * 1e6).astype("int64")
    known = columns["known_at"][indices]
    return SummaryRows(device, model, feature, start, end, known, _moments(columns).take(indices))


def _read(state: State) -> dict[CohortScope, CohortState]:
    cohorts: dict[CohortScope, CohortState] = defaultdict(CohortState)
    for key, value in state.items():
        what, *rest = key.split(_SEP, 3)
        if what == _CLOCK:
            continue
        cohort = cohorts[CohortScope(rest[0], rest[1])]
        if what == "mark":
            cohort.watermark = value
        elif what == "device":
            cohort.devices[rest[2]] = SourceProgress(*value)
        else:
            start, length = rest[2].split(":")
            models = {m: WindowContent.from_state(c) for m, c in value.items()}
            cohort.open[TumblingWindow(int(start), int(length))] = models
    return dict(cohorts)


def _window_state(models: Mapping[str, WindowContent]) -> dict[str, Any]:
    return {model: content.to_state() for model, content in models.items()}


def _open_key(scope: CohortScope, window: TumblingWindow) -> str:
    return _SEP.join(("open", *scope, f"{window.start_us}:{window.length_us}"))


def _device_key(scope: CohortScope, device: str) -> str:
    return _SEP.join(("device", *scope, device))


def _table(events: list[Aggregate], batch: Batch, now: datetime) -> pa.Table:
    provenance = derived_provenance(batch, now)
    rows = [{**e.model_dump(), **provenance, "_row": i} for i, e in enumerate(events)]
    return pa.Table.from_pylist(rows, schema=AGGREGATES.schema)

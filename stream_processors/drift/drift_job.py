"""Drift: watches the closed windows of each cohort and gives a verdict when something moved.

One task owns a cohort (``aggregate.v1`` is keyed by it). It merges the partials of all device tasks, waits
until every task that has sent any is complete up to the window's end (or has been idle for too long), and
then judges windows in order: one river detector per feature on the level and one on the spread. What comes
for a judged window stays in ``aggregates`` and is counted, but changes no verdict. A window that only a part
of the cohort's devices has reached by then is not compared with windows of all of them (``watched_feature``).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from datetime import datetime
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from schemas import topics
from schemas.errors import MessageError, SignatureError
from schemas.events import DriftVerdict
from schemas.instants import to_us
from schemas.tables import DRIFT, QUARANTINE
from stream_processors.derived_provenance import derived_provenance
from stream_processors.drift.cohort_judge import CohortJudge
from stream_processors.drift.false_discoveries import FleetTests, VerdictCounts
from stream_processors.drift.watched_feature import STATISTICS
from stream_processors.job import Batch, Derived, Output, RawMessage, State
from stream_processors.job_context import JobContext
from stream_processors.refused_messages import LARGEST_NAME, LetterLimits, Refusals
from stream_processors.unread_range import first_offset
from stream_processors.windowing.partials import (
    CohortProgress,
    MessagePosition,
    Partial,
    PendingWindow,
    read_partial,
)
from stream_processors.windowing.watermark import (
    AppendClock,
    SourceProgress,
    advance,
    idle_bound_us,
)
from stream_processors.windowing.windows import CohortScope, TumblingWindow

_SEP = "\x1f"
_CLOCK = "clock"
_VERDICTS = "verdicts"
_MOST_AHEAD_US = 300_000_000
"""How far the clocks of two workers may differ."""


class DriftContext(JobContext, Protocol):
    """What this job looks up: also who wrote a message."""

    def verify_derived(self, message: RawMessage) -> bool:
        """True if a worker of this lake signed the message, False if it is from before any was signed.

        Raises:
            SignatureError: Neither.
        """
        ...


class DriftWatch:
    """Verdicts on cohorts whose aggregates this task reads.

    State keys: ``clock``; ``verdicts`` (how many by period, see ``false_discoveries``); per source task
    ``mark`` (position of its newest message); per cohort ``progress``; per window that is not judged yet
    ``window``; per feature and model version ``watch``, and with a season ``phase``.

    Counters: ``partials``; of these ``repeated_partials``, ``late_partials`` (their window is judged) and
    ``suspect_partials`` (from beyond the watermark of their own task: a device's clock is ahead);
    ``windows`` judged, of which ``partial_windows`` (of other devices than the baseline: a feature or more
    was not compared); ``verdicts``; ``quarantined_messages``, of which ``unsigned_messages``.
    """

    name: ClassVar[str] = "drift"
    version: ClassVar[int] = 1
    state_version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = (topics.AGGREGATE.base,)
    writes: ClassVar[tuple[str, ...]] = (DRIFT.name, QUARANTINE.name)

    def __init__(self, context: DriftContext) -> None:
        self._context = context

    def process(self, batch: Batch, state: State, now: datetime) -> Output:
        """Take the partials of this commit, and judge what is complete or has waited long enough."""
        call = _Call(self._context, batch, state, to_us(now))
        for message in batch.messages:
            call.take(message)
        for scope in sorted(call.progress):
            call.judge(scope)
        return call.output(now)


class _Call:
    """One call of the job: the state it was given, and what it changes."""

    def __init__(self, context: DriftContext, batch: Batch, state: State, now_us: int) -> None:
        self._context = context
        self._batch = batch
        self._state = state
        self._now_us = now_us
        self._clock = AppendClock(*state[_CLOCK]) if _CLOCK in state else None
        self._counts = VerdictCounts(state.get(_VERDICTS, {}))
        self._positions: dict[str, MessagePosition] = {}
        self.progress: dict[CohortScope, CohortProgress] = {}
        self._pending: dict[CohortScope, dict[TumblingWindow, PendingWindow]] = defaultdict(dict)
        self._watches: dict[CohortScope, dict[str, Any]] = defaultdict(dict)
        self._updates: dict[str, Any] = {}
        self._verdicts: list[DriftVerdict] = []
        limits = getattr(context, "letters", LetterLimits())
        self._refusals = Refusals(limits, state, now_ms=now_us // 1000)  # timestamps are the producers'
        self._counters: Counter[str] = Counter()
        self._read(state)

    def _read(self, state: State) -> None:
        for key, value in state.items():
            what, *rest = key.split(_SEP, 3)
            if what == "mark":
                self._positions[rest[0]] = MessagePosition(*value)
            elif what == "progress":
                self.progress[CohortScope(rest[0], rest[1])] = CohortProgress.from_state(value)
            elif what == "window":
                start, length = rest[2].split(":")
                window = TumblingWindow(int(start), int(length))
                self._pending[CohortScope(rest[0], rest[1])][window] = PendingWindow.from_state(value)
            elif what in ("watch", "phase"):
                self._watches[CohortScope(rest[0], rest[1])][f"{what}{_SEP}{rest[2]}"] = value

    def take(self, message: RawMessage) -> None:
        """Take one message: a partial once, anything else into quarantine."""
        # The topic has the time of whoever wrote: one message from the future would make all sources idle.
        appended_us = min(message.appended_us, self._now_us + _MOST_AHEAD_US)
        clock = self._clock or AppendClock(appended_us, self._now_us)
        self._clock = clock.updated(appended_us, self._now_us)
        self._updates[_CLOCK] = list(self._clock)
        signed = False
        try:
            signed = self._context.verify_derived(message)
            partial = read_partial(message.value)
            self._context.profile_of(partial.scope.profile)
        except MessageError as exc:
            self._refuse(message, exc, signed=signed)
            return
        self._counters["partials"] += 1
        if partial.position <= self._positions.get(partial.task, MessagePosition(-1, -1)):
            self._counters["repeated_partials"] += 1
            return
        self._positions[partial.task] = partial.position
        self._updates[_SEP.join(("mark", partial.task))] = list(partial.position)
        self._add(partial, appended_us)

    def _add(self, partial: Partial, appended_us: int) -> None:
        progress = self.progress.setdefault(partial.scope, CohortProgress(since_us=appended_us))
        source = progress.tasks.get(partial.task, SourceProgress(partial.complete_us, appended_us))
        progress.tasks[partial.task] = source.updated(partial.complete_us, appended_us)
        self._save(partial.scope)
        if progress.judged_us is not None and partial.window.end_us <= progress.judged_us:
            self._counters["late_partials"] += 1
        elif partial.ahead:
            self._counters["suspect_partials"] += 1
        else:
            pending = self._pending[partial.scope].setdefault(partial.window, PendingWindow())
            pending.add(partial)
            self._updates[_window_key(partial.scope, partial.window)] = pending.to_state()

    def judge(self, scope: CohortScope) -> None:
        """Judge the cohort's windows that are complete."""
        progress, profile = self.progress[scope], self._context.profile_of(scope.profile)
        idle_after = idle_bound_us(profile.drift.window_s, profile.drift.lateness_s)
        append_now = self._clock.at(self._now_us) if self._clock else progress.since_us
        if append_now - progress.since_us < idle_after:
            return  # tasks that have sent nothing yet may still do so
        watermark = advance(progress.judged_us, progress.tasks, append_now, idle_after)
        due = sorted(w for w in self._pending[scope] if watermark is not None and w.end_us <= watermark)
        if not due:
            return
        progress.judged_us = watermark
        self._save(scope)
        judge = CohortJudge(scope, profile, self._watches[scope])
        for window in due:
            pending = self._pending[scope].pop(window)
            missing = progress.tasks.keys() - pending.tasks()
            fleet = FleetTests(self._series(), self._counts.at(window.end_us, profile.drift))
            verdicts = judge.window(window, pending.merged(), len(missing), fleet)
            if verdicts:
                self._counts.add(window.end_us, profile.drift, len(verdicts))
                self._updates[_VERDICTS] = self._counts.to_state()
            self._updates[_window_key(scope, window)] = None
            self._counters["windows"] += 1
            self._counters["partial_windows"] += bool(judge.not_compared)
            for verdict in verdicts:
                event_id = f"{self._batch.task}/{self._batch.n}/{len(self._verdicts)}"
                self._verdicts.append(DriftVerdict(event_id=event_id, **verdict))
        for key, value in judge.changed.items():
            what, rest = key.split(_SEP, 1)
            self._updates[_SEP.join((what, *scope, rest))] = value

    def _series(self) -> int:
        """Series that the task watched before this commit, of all its cohorts."""
        watches = (key for of in self._watches.values() for key in of if key.startswith(f"watch{_SEP}"))
        return len(STATISTICS) * sum(1 for _ in watches)

    def _save(self, scope: CohortScope) -> None:
        self._updates[_SEP.join(("progress", *scope))] = self.progress[scope].to_state()

    def _refuse(self, message: RawMessage, error: MessageError, *, signed: bool) -> None:
        messages = 1 + message.offset - first_offset(message)
        self._counters["quarantined_messages"] += messages
        if isinstance(error, SignatureError):
            self._counters["unsigned_messages"] += messages
        if signed:
            key = (message.key or b"").decode("utf-8", "replace")[:LARGEST_NAME]
            self._refusals.signed(message, error, key, 1)
        else:
            self._refusals.stranger(message, error)

    def output(self, now: datetime) -> Output:
        """What changed, as the job's output."""
        self._counters["verdicts"] = len(self._verdicts)
        provenance = derived_provenance(self._batch, now)
        drift = [
            {**v.model_dump(), "evidence": json.dumps(v.evidence), **provenance, "_row": i}
            for i, v in enumerate(self._verdicts)
        ]
        tables = {
            DRIFT.name: pa.Table.from_pylist(drift, schema=DRIFT.schema),
            QUARANTINE.name: self._refusals.table(),
        }
        published = [
            Derived(topics.DRIFT.base, v.cohort, v.model_dump_json().encode()) for v in self._verdicts
        ]
        return Output(
            rows={name: rows for name, rows in tables.items() if rows.num_rows},
            state={**self._updates, **self._refusals.changes()},
            messages=(*published, *self._refusals.letters()),
            counters={name: count for name, count in self._counters.items() if count},
        )


def _window_key(scope: CohortScope, window: TumblingWindow) -> str:
    return _SEP.join(("window", *scope, f"{window.start_us}:{window.length_us}"))

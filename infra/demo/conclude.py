"""Puts the report of a demo together from what it left: spools, log, lake and model registry."""

# ruff: noqa: S608  # the names in queries are those of a story and a profile that ship

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from feature_store import connect, duck
from feature_store.result_text import as_table
from infra.audit import AuditScope, take_books
from infra.demo import outcome
from infra.demo.demo_report import DemoReport, ExampleQuery
from infra.demo.loop_report import LoopReport, WearOutcome
from infra.demo.loop_view import LoopReader
from infra.demo.plan import SOUTH, DemoPlan
from infra.demo.scenes import SceneResult
from infra.demo.stage import DemoStage
from infra.line_watch import LineWatcher, read_meters
from infra.stack.edge_processes import EdgeProcess
from model_service import CandidateState, RunState, paired_quality, release_gain
from schemas.alarm_bounds import AlarmBounds
from schemas.model_version import ModelVersion
from schemas.output_names import PRIMARY, output_columns
from schemas.profile import Profile
from schemas.row_schemas import CONTEXT

SETTLE_S = 10.0
"""Quality before the drift leaves out these first seconds, in which devices start."""


def _examples(stage: DemoStage) -> tuple[tuple[str, str], ...]:
    """Questions about the pipeline, with the SQL that answers each."""
    story = stage.plan.story
    return (
        (
            f"Which {story.noun} raised alarms?",
            "SELECT device_id, count(*) AS alarms, string_agg(DISTINCT action, ', ') AS actions, "
            "min(event_time) AS first FROM alerts GROUP BY device_id ORDER BY first LIMIT 10",
        ),
        (
            "What has drifted?",
            "SELECT kind, feature, count(*) AS verdicts, round(max(size), 1) AS largest, "
            "min(detected) AS first FROM drift GROUP BY ALL ORDER BY first LIMIT 10",
        ),
        (
            f"What was the mean {story.drift_channel}, exactly, of everything sensed?",
            "SELECT round(sum(n * mean) / sum(n), 3) AS mean, sum(n) AS windows, min(min) AS lowest, "
            f"max(max) AS highest FROM summaries WHERE feature = '{_first_feature(stage)}'",
        ),
    )


def _loop_examples(stage: DemoStage) -> tuple[tuple[str, str], ...]:
    return (
        (
            "Which models ran, and where?",
            "SELECT model_version, count(DISTINCT device_id) AS devices, min(period_start) AS first "
            f"FROM summaries WHERE feature = '{_first_feature(stage)}' GROUP BY ALL ORDER BY first",
        ),
    )


def conclude(stage: DemoStage, watcher: LineWatcher, loop: LoopReport | None) -> DemoReport:
    """The report, from what is left when every message is in the lake.

    Args:
        stage: The demo, drained.
        watcher: Knows since when each offset can be queried.
        loop: The loop's part of the report; None: the pipeline alone ran.
    """
    scope = AuditScope.of([e.spool for e in stage.edges], stage.since)
    books = take_books(scope, stage.stack.bootstrap_servers, stage.stack.namespace, stage.stack.lake_root)
    meters = [read_meters(edge) for edge in stage.edges]
    with closing(connect(stage.stack.lake_root, comments=False)) as connection:
        alarms = connection.execute(
            "SELECT device_id, event_time FROM alerts WHERE known_at >= ?", [stage.since]
        ).fetchall()
        verdicts = connection.execute(
            "SELECT feature, detected FROM drift WHERE known_at >= ?", [stage.since]
        ).fetchall()
        live, outage = _latencies(stage, watcher, connection)
        asked = _examples(stage) if loop is None else _examples(stage) + _loop_examples(stage)
        examples = [_example(connection, question, sql) for question, sql in asked]
    return DemoReport(
        books=books,
        alarms=outcome.score_alarms(alarms, stage.plan.spans),
        drift=_score_drift(stage.plan, verdicts),
        bytes_raw=sum(m.get("raw_bytes", 0) for m in meters),
        bytes_features=sum(m.get("feature_bytes", 0) for m in meters),
        bytes_sent=sum(m.get("bytes_sent", 0) for m in meters),
        decide_p99_s=_decide_p99_s(stage.edges),
        live=live,
        outage=outage,
        examples=examples,
        loop=loop,
    )


def conclude_loop(stage: DemoStage, reader: LoopReader, scenes: Sequence[SceneResult]) -> LoopReport:
    """The loop's part of the report; called while the model service still runs."""
    family, devices = stage.profile.model.name, stage.plan.devices
    models = reader.models()
    published = [m.version for m in models if m.status is CandidateState.PUBLISHED] or [""]
    new = published[0]
    commits = reader.commits(devices, new)
    onset = stage.plan.scenario.start + timedelta(seconds=stage.plan.story.drift.start_s)
    whole = len(commits) == len(devices)
    loop_s = reader.loop_s(new) if whole and commits else None
    judged_on = judged_outputs(stage.profile)
    with closing(connect(stage.stack.lake_root, comments=False)) as connection:
        periods = _periods(stage, connection, judged_on)
        wear = _wear(stage, connection, reader, onset)
    judged = paired_quality.SpanTruth(
        fault_spans(stage.plan), stage.profile.summaries.period_s, complete=True
    )
    old = min({p.model_version for p in periods}, key=lambda v: ModelVersion.parse(v).major, default="")
    settled = stage.plan.scenario.start + timedelta(seconds=SETTLE_S)
    before = [p for p in periods if p.model_version == old and settled <= p.start < onset]
    return LoopReport(
        old=old,
        new=new,
        latest=published[-1],
        models=models,
        fleet=reader.fleet(devices, family, published[-1]),
        waiting=tuple(reader.waiting()),
        before=paired_quality.quality(before, judged),
        after=paired_quality.compare(periods, old, new, judged) if new else None,
        loop_s=loop_s,
        loop_windows=None if loop_s is None else round(loop_s / stage.profile.sampling.hop_s),
        wear=wear,
        scenes=tuple(scenes),
        outputs=judged_on,
    )


def judged_outputs(profile: Profile) -> tuple[str, ...]:
    """Columns of the outputs that a demo measures quality on: those that rules read.

    Where one of them is the score, that one alone: the profile's models tell faults by it.
    """
    read = tuple(AlarmBounds.of(profile.decision).by_column)
    return (PRIMARY,) if PRIMARY in read else read


def fault_spans(plan: DemoPlan) -> list[paired_quality.LabelledSpan]:
    """The faults of a plan, each with the column of the output that is to find it."""
    columns = {kind: output_columns((output,))[0] for kind, output in plan.story.found_by.items()}
    return [
        paired_quality.LabelledSpan(s.device_id, s.start, s.end, output=columns.get(s.kind, ""))
        for s in plan.spans
        if s.is_fault
    ]


def _first_feature(stage: DemoStage) -> str:
    """Feature that shows the channel of the drift."""
    profile, channel = stage.profile, stage.plan.story.drift_channel
    return next((s.name for s in profile.feature_specs() if channel in s.sources), profile.feature_names[0])


def _periods(stage: DemoStage, connection: Any, outputs: Sequence[str]) -> list[paired_quality.ScoredPeriod]:
    """Scores of every version on the demo's devices."""
    since, fleet = stage.since.timestamp(), set(stage.plan.devices)
    found = release_gain.scored_periods(connection, stage.profile, (), since, outputs)
    return [period for period in found if period.device_id in fleet]


def _wear(stage: DemoStage, connection: Any, reader: LoopReader, onset: datetime) -> WearOutcome | None:
    """Whether the wear of many machines raised alarms, and whether a model was trained from it."""
    wear = stage.plan.story.wear
    if wear is None:
        return None
    began = stage.plan.scenario.start + timedelta(seconds=wear.start_s)
    alarmed = connection.execute(
        "SELECT count(*), count(DISTINCT device_id) FROM alerts "
        "WHERE event_time >= ? AND list_contains(?, device_id)",
        [began, list(stage.plan.worn)],
    ).fetchone()
    # An onset is the start of a drift window, so it may lie one window before the wear.
    runs = reader.runs(began - timedelta(seconds=stage.profile.drift.window_s))
    return WearOutcome(
        noun=stage.plan.story.noun,
        devices=len(stage.plan.worn),
        alarmed=int(alarmed[1]),
        alarms=int(alarmed[0]),
        answers=tuple(f"{r.finding.kind if r.finding else RunState.EXAMINING}: {r.state}" for r in runs),
        learnt=any(run.state in (RunState.TRAINED, RunState.BUILDING) for run in runs),
    )


def _score_drift(plan: DemoPlan, verdicts: Sequence[tuple[str, datetime]]) -> outcome.DriftScore:
    start = plan.scenario.start
    injected = start + timedelta(seconds=plan.story.drift.start_s)
    first = start + timedelta(seconds=min(i.start_s for i in plan.story.changes))
    return outcome.score_drift(verdicts, plan.story.drift_channel, injected, first)


def _decide_p99_s(edges: Sequence[EdgeProcess]) -> float | None:
    p99 = [edge.status().get("decide_ms", {}).get("p99") for edge in edges]
    known = [v for v in p99 if v is not None]
    return max(known) / 1e3 if known else None


def _latencies(
    stage: DemoStage, watcher: LineWatcher, connection: Any
) -> tuple[outcome.Latency, outcome.Latency]:
    rows = connection.execute(
        f"SELECT device_id, epoch(event_time) AS sensed, _partition, _offset "
        f"FROM telemetry_{stage.profile.name} WHERE known_at >= ? AND (reasons & {CONTEXT}) = 0",
        [stage.since],
    ).fetchnumpy()
    start = stage.plan.scenario.start.timestamp()
    south = set(stage.plan.sites.get(SOUTH, ()))
    sensed = np.asarray(rows["sensed"], dtype="float64")
    cut = (sensed >= start + stage.plan.cut_from_s - 1) & (sensed < start + stage.plan.cut_to_s + 1)
    offline = np.array([d in south for d in rows["device_id"]], dtype=bool) & cut & (stage.proxy is not None)
    columns = {
        "sensed": sensed,
        "partition": np.asarray(rows["_partition"]),
        "offset": np.asarray(rows["_offset"]),
    }

    def of(mask: Any) -> outcome.Latency:
        return outcome.queryable_latency({k: v[mask] for k, v in columns.items()}, watcher.frontier)

    return of(~offline), of(offline)


def _example(connection: Any, question: str, sql: str) -> ExampleQuery:
    return ExampleQuery(question, sql, as_table(duck.query(connection, sql)))

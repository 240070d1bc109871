"""Runs a demo: stack, fleet, story, network cut, drain, report."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from edge_producer.sources.scenario import truth
from feature_store import connect
from feature_store.lake import Lake
from infra.audit import Run, take_books
from infra.demo import outcome
from infra.demo.plan import SOUTH, Plan, make_plan
from infra.demo.report import Example, Report, print_report
from infra.demo.screen import Screen
from infra.demo.watch import Watcher, read_meters
from infra.fleet import EdgeProcess, EdgeSpec
from infra.kafka_admin import KafkaAdmin
from infra.network import TcpProxy
from infra.ports import LOOPBACK
from infra.running import RunningStack, running_stack
from schemas.errors import StackError
from schemas.profile import Profile
from schemas.profile_file import find_profile

if TYPE_CHECKING:
    from infra.settings import StackSettings

HEAD_START_S = 4.0
LOOK_EVERY_S = 1.0
DRAIN_S = 90.0
EXAMPLES = (
    (
        "Which machines raised alarms?",
        "SELECT device_id, action, count(*) AS alarms, min(event_time) AS first FROM alerts "
        "GROUP BY ALL ORDER BY alarms DESC LIMIT 5",
    ),
    (
        "What has drifted?",
        "SELECT feature, statistic, kind, round(size, 1) AS size, detected FROM drift ORDER BY 5 LIMIT 5",
    ),
    (
        "What was the mean temperature, exactly, of everything sensed?",
        "SELECT round(sum(n * mean) / sum(n), 3) AS mean, sum(n) AS windows, min(min) AS lowest, "
        "max(max) AS highest FROM summaries WHERE feature = 'temperature_mean'",
    ),
)


@dataclass(frozen=True)
class DemoRequest:
    """What the user asked for."""

    profile: str = "machine"
    devices: int = 20
    seconds: float = 90.0
    seed: int = 7
    json_file: Path | None = None


@dataclass
class _Stage:
    """A demo on its way."""

    request: DemoRequest
    profile: Profile
    plan: Plan
    stack: RunningStack
    lake: Lake
    screen: Screen
    since: datetime
    edges: list[EdgeProcess] = field(default_factory=list)
    proxy: TcpProxy | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds of the story so far."""
        return (datetime.now(UTC) - self.plan.scenario.start).total_seconds()


def run_demo(settings: StackSettings, request: DemoRequest, console: Console) -> bool:
    """Run it to its end.

    Returns:
        Whether the books balance.

    Raises:
        StackError: The stack cannot start, or an edge process ended early.
        ProfileError: No such profile, or one without a simulator.
    """
    profile = find_profile(request.profile)
    if profile.simulate is None:
        raise StackError(
            f"profile '{profile.name}' has no [simulate]: the demo needs one; try --profile machine"
        )
    with running_stack(settings, "demo", console.print) as stack, ExitStack() as cleanup:
        stage = _prepare(request, profile, stack, Screen(console, request.seconds))
        for edge in stage.edges:
            edge.start()
            cleanup.callback(edge.stop)
            if stack.owned is not None:
                stack.owned.adopt(edge.child)
        if stage.proxy is not None:
            cleanup.callback(stage.proxy.stop)
        watcher = Watcher(
            stage.lake, KafkaAdmin(stack.bootstrap_servers), stack.namespace, stage.edges, stage.since
        )
        with stage.screen.open():
            _play(stage, watcher)
        _drain(stage, watcher, console)
        report = _conclude(stage, watcher)
    print_report(console, report, _story(stage.plan))
    if request.json_file is not None:
        request.json_file.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    return report.books.balances


def _prepare(request: DemoRequest, profile: Profile, stack: RunningStack, screen: Screen) -> _Stage:
    since = datetime.now(UTC)
    start = since + timedelta(seconds=HEAD_START_S)
    plan = make_plan(profile.name, request.devices, request.seconds, request.seed, start)
    stage = _Stage(request, profile, plan, stack, Lake.open(stack.lake_root), screen, since)
    run = uuid.uuid4().hex[:6]
    root = stack.settings.state_dir / "edge"
    if stack.site is not None:
        stage.proxy = TcpProxy((LOOPBACK, stack.site.bind_port), stack.site.front_port).start()
    for site, devices in plan.sites.items():
        behind = stage.proxy is not None and site == SOUTH
        servers = f"{LOOPBACK}:{stack.site.front_port}" if behind and stack.site else stack.bootstrap_servers
        folder = root / f"{site}-{run}"
        folder.mkdir(parents=True)
        scenario = folder / "scenario.json"
        scenario.write_text(plan.scenario.model_dump_json(indent=2))
        options = {
            "source": "simulate",
            "scenario": str(scenario),
            "seed": str(request.seed),
            "duration_s": str(request.seconds + HEAD_START_S),
        }
        spec = EdgeSpec(
            f"{site}-{run}", request.profile, devices, servers, stack.namespace, site=site, options=options
        )
        edge = EdgeProcess(spec, root, stack.settings.logs_dir)
        edge.register(stage.lake, profile)
        stage.edges.append(edge)
    return stage


def _play(stage: _Stage, watcher: Watcher) -> None:
    """Until every edge process has sensed its last window."""
    stage.screen.say(_story(stage.plan))
    while stage.elapsed_s < stage.plan.seconds:
        started = time.monotonic()
        offline = _cut_or_restore(stage)
        _check_edges(stage)
        stage.screen.show(max(0.0, stage.elapsed_s), watcher.look(), offline)
        time.sleep(max(0.0, LOOK_EVERY_S - (time.monotonic() - started)))
    if stage.proxy is not None and stage.proxy.is_cut:
        stage.proxy.restore()


def _cut_or_restore(stage: _Stage) -> str | None:
    """Cut or restore the south's network where it is due; returns the name of who is offline."""
    if stage.proxy is None:
        return None
    due = stage.plan.cut_from_s <= stage.elapsed_s < stage.plan.cut_to_s
    if due and not stage.proxy.is_cut:
        stage.proxy.cut()
    elif not due and stage.proxy.is_cut:
        stage.proxy.restore()
    return next((e.spec.name for e in stage.edges if e.spec.site == SOUTH), None) if due else None


def _check_edges(stage: _Stage) -> None:
    for edge in stage.edges:
        if edge.child.exit_code not in (None, 0):
            tail = " | ".join(edge.child.log_tail(3))
            raise StackError(f"edge process {edge.spec.name} ended with {edge.child.exit_code}: {tail}")


def _drain(stage: _Stage, watcher: Watcher, console: Console) -> None:
    """Until the edge processes have ended and every message is in a cut."""
    console.print("draining: spools empty, log passed, lake complete")
    deadline = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline:
        _check_edges(stage)
        watcher.look()
        ended = all(e.child.exit_code == 0 for e in stage.edges)
        if ended and watcher.lag() == 0:
            return
        time.sleep(0.2)
    console.print(f"[red]not drained after {DRAIN_S:.0f} s[/]")


def _conclude(stage: _Stage, watcher: Watcher) -> Report:
    run = Run.of([e.spool for e in stage.edges], stage.since)
    books = take_books(run, stage.stack.bootstrap_servers, stage.stack.namespace, stage.stack.lake_root)
    meters = [read_meters(edge) for edge in stage.edges]
    spans = truth(stage.plan.scenario)
    with closing(connect(stage.stack.lake_root)) as con:
        alarms = con.execute(
            "SELECT device_id, event_time FROM alerts WHERE known_at >= ?", [stage.since]
        ).fetchall()
        verdicts = con.execute(
            "SELECT feature, detected FROM drift WHERE known_at >= ?", [stage.since]
        ).fetchall()
        live, outage = _latencies(stage, watcher, con)
        examples = [_example(con, question, sql) for question, sql in EXAMPLES]
    return Report(
        books=books,
        alarms=outcome.score_alarms(alarms, spans),
        drift=_score_drift(stage.plan, verdicts),
        bytes_raw=sum(m.get("raw_bytes", 0) for m in meters),
        bytes_features=sum(m.get("feature_bytes", 0) for m in meters),
        bytes_sent=sum(m.get("bytes_sent", 0) for m in meters),
        decide_p99_s=_decide_p99_s(stage.edges),
        live=live,
        outage=outage,
        examples=examples,
    )


def _score_drift(plan: Plan, verdicts: Sequence[tuple[str, datetime]]) -> outcome.DriftScore:
    start = plan.scenario.start
    injected = start + timedelta(seconds=plan.recalibration.start_s)
    first = start + timedelta(seconds=min(i.start_s for i in plan.scenario.injections))
    return outcome.score_drift(verdicts, plan.recalibration.channel, injected, first)


def _decide_p99_s(edges: Sequence[EdgeProcess]) -> float | None:
    p99 = [edge.status().get("decide_ms", {}).get("p99") for edge in edges]
    known = [v for v in p99 if v is not None]
    return max(known) / 1e3 if known else None


def _latencies(stage: _Stage, watcher: Watcher, con: Any) -> tuple[outcome.Latency, outcome.Latency]:
    rows = con.execute(
        f"SELECT device_id, epoch(event_time) AS sensed, _partition, _offset "  # noqa: S608  (profile names are checked)
        f"FROM telemetry_{stage.profile.name} WHERE known_at >= ?",
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


def _example(con: Any, question: str, sql: str) -> Example:
    result = con.execute(sql)
    return Example(question, sql, [c[0] for c in result.description], result.fetchall())


def _story(plan: Plan) -> str:
    wear, drift = plan.scenario.injections
    hit = sum(1 for d in plan.devices if drift in plan.scenario.of(d))
    cut = (
        f"{plan.cut_from_s:.0f}-{plan.cut_to_s:.0f} s {SOUTH} has no network; " if SOUTH in plan.sites else ""
    )
    return (
        f"{len(plan.devices)} machines at {len(plan.sites)} sites for {plan.seconds:.0f} s: "
        f"from {wear.start_s:.0f} s the bearing of {wear.devices[0]} wears out; {cut}"
        f"at {drift.start_s:.0f} s {drift.channel} reads {drift.offset:+.0f} degC on {hit} machines."
    )

"""What `edgeloop status` shows: processes, topics, lag, tables and the newest cut."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

import model_service
from edge_producer.status_file import read_status
from feature_store.compaction_state import read_state
from feature_store.cut import Cut, TableCut
from feature_store.cut_counts import stated_counts
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.sound_cut import SoundCut
from feature_store.stopped_tasks import StoppedTasks
from infra.job_report import collect_jobs, job_problems
from infra.kafka.client_quotas import device_quota
from infra.kafka.denied_requests import newest_denied
from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.lag import lags
from infra.printing import count
from infra.process.child import same_process
from infra.registry_reader import may_have_rollouts, may_have_runs, read_registry
from infra.settings import StackSettings
from infra.stack.model_settings import model_settings
from infra.stack.stack_file import StackFile, is_held, read_stack
from model_service import read_refusals, require_registry
from schemas.errors import PipelineError
from schemas.instants import utc_now
from schemas.tables import QUARANTINE
from schemas.topics import ALL_TOPICS
from stream_processors.engine.poison_store import PoisonStore
from stream_processors.engine.stopped import in_words, stopped_in

MOST_REFUSED = 10
_TIMEOUT_S = 5.0
_RECENT = timedelta(days=1)
_POISON = "SELECT count(*) FROM quarantine WHERE error = 'PoisonError' AND known_at > $1"
_REFUSED = """
    SELECT device_id, topic, error, sum(messages)::BIGINT, sum(single_rows)::BIGINT, max(last_at)
    FROM refusals GROUP BY ALL ORDER BY 4 DESC, 5 DESC, 6 DESC LIMIT $1
"""


def collect_status(settings: StackSettings) -> dict[str, Any]:
    """Everything, as JSON values. Parts that cannot be reached are empty; ``problems`` gives the reason."""
    problems: list[str] = []
    stack = read_stack(settings.state_dir)
    up = stack is not None and is_held(settings.state_dir)
    address = stack.bootstrap_servers if stack is not None and up else settings.broker
    of_registry = _registry_problems(settings)  # first: whoever opens the file ends the worth of its seal
    status: dict[str, Any] = {
        "state": _state(stack, up),
        "state_dir": str(settings.state_dir),
        "broker": address,
        "listen": stack.devices.broker if stack is not None and up and stack.devices is not None else None,
        "denied": newest_denied(settings.logs_dir / "kafka.log") if up else {},
        "namespace": stack.namespace if stack is not None and up else settings.namespace,
        "owner": {"command": stack.owner, "pid": stack.pid} if stack is not None and up else None,
        "processes": _processes(stack) if stack is not None and up else [],
        "devices": _edge_processes(settings.state_dir),
        "refusals": _refusals(settings) if up else None,
        "runs": _runs(settings),
        "rollouts": _rollouts(settings),
        "topics": [],
        "lag": [],
        **_lake(settings.lake_root, problems),
        "jobs": _jobs(settings.lake_root, problems, up=up),
        "problems": problems,
    }
    if status["listen"] and address:
        status["device_bytes_per_s"] = _device_rate(address, problems)
    waiting = [d for d in status["devices"] if d.get("waits_because") and d.get("phase") != "stopped"]
    problems += [f"{d['name']}: {d['waits_because']}" for d in waiting]
    problems += in_words(stopped_in(settings.lake_root))
    if kept := PoisonStore(settings.lake_root).count():
        problems.append(f"{count(kept, 'thing')} set aside: `edgeloop job set-aside list`")
    if stack is not None and stack.state == "failed" and stack.error:
        problems.append(f"the last start failed: {stack.error}")
    if stack is not None and up:
        problems += stack.warnings
    problems += [line for line in of_registry if line not in " ".join(problems)]
    if address:
        status |= _log(settings.lake_root, address, status["namespace"], problems)
    ailing = [f"{p['name']}: {p['state']}" for p in status["processes"] if p["state"] != "running"]
    if ailing and status["state"] == "ready":
        status["state"] = "degraded"
    problems += ailing
    return status


def _device_rate(address: str, problems: list[str]) -> float | None:
    """Bytes a second that the broker takes from each device; None: nothing bounds them, or it cannot say."""
    try:
        quota = device_quota(address)
    except PipelineError as exc:
        problems.append(str(exc))
        return None
    return None if quota is None else quota.bytes_per_s


def _state(stack: StackFile | None, up: bool) -> str:
    if stack is None or not up:
        return "down"
    return stack.state if stack.owner_lives else "starting"


def _processes(stack: StackFile) -> list[dict[str, Any]]:
    found = []
    for entry in stack.processes:
        process = same_process(entry.pid, entry.created)
        found.append(
            {
                "name": entry.name,
                "state": entry.trouble or "running",
                "pid": entry.pid,
                "memory_mb": _memory_mb(process),
                "restarts": entry.restarts,
                "ends": entry.ends,
                "since": entry.since.isoformat() if entry.since else None,
                "last_line": entry.last_line or entry.failed,
                "log": str(entry.log),
            }
        )
    return found


def _memory_mb(process: psutil.Process | None) -> int | None:
    try:
        return None if process is None else round(process.memory_info().rss / 1024**2)
    except psutil.Error:
        return None


def _edge_processes(state_dir: Path) -> list[dict[str, Any]]:
    """The newest status file of each edge process, running or not."""
    found = []
    for folder in sorted((state_dir / "edge").glob("*")):
        status = read_status(folder / "status.json") if folder.is_dir() else None
        if status is not None:
            found.append({**status, "name": folder.name})
    return found


def _refusals(settings: StackSettings) -> dict[str, Any] | None:
    """What the model service refused since it started; None: nothing that we know of."""
    found = read_refusals(model_settings(settings))
    return None if found is None else found.model_dump(mode="json")


def _runs(settings: StackSettings) -> list[dict[str, Any]]:
    """Training runs that are not over, oldest first, and what each waits for."""
    own = model_settings(settings)
    if not own.has_registry:
        return []
    try:
        found = read_registry(own, model_service.run_store.unfinished) if may_have_runs(own) else []
    except PipelineError:
        return []  # what is wrong with the file is among the problems
    return [
        {"run_id": r.run_id, "profile": r.profile, "family": r.family, "state": r.state, "detail": r.detail}
        for r in found
    ]


def _rollouts(settings: StackSettings) -> list[dict[str, Any]]:
    """Rollouts that have not ended, oldest first: of models and of profiles, queued ones too."""
    own = model_settings(settings)
    if not own.has_registry:
        return []
    try:
        found = read_registry(own, model_service.rollout_summary.unended) if may_have_rollouts(own) else []
    except PipelineError:
        return []  # what is wrong with the file is among the problems
    names = ("rollout_id", "group", "kind", "version", "state", "phase", "last_phase", "queued_behind")
    return [{name: one[name] for name in names} for one in found]


def _registry_problems(settings: StackSettings) -> list[str]:
    """What is wrong with the model registry's file, in one line; empty: nothing, or there is none."""
    try:
        require_registry(model_settings(settings).database_url)
    except PipelineError as exc:
        return [str(exc)]
    return []


def _log(root: Path, address: str, namespace: str, problems: list[str]) -> dict[str, Any]:
    admin = KafkaAdmin(address, timeout_s=_TIMEOUT_S)
    try:
        spans = admin.spans([t.named(namespace) for t in ALL_TOPICS])
        behind = lags(root, admin, namespace, [])  # what stops a task is a problem of the lake
    except PipelineError as exc:
        problems.append(str(exc))
        return {}
    topics = []
    for topic in ALL_TOPICS:
        own = [s for (name, _), s in spans.items() if name == topic.named(namespace)]
        ends = sum(s.end for s in own)
        kept = sum(s.end - s.low for s in own)
        topics.append({"name": topic.base, "partitions": len(own), "end_offsets": ends, "messages": kept})
        if own and len(own) != topic.partitions:
            problems.append(
                f"topic {topic.named(namespace)} has {len(own)} partitions, made with {topic.partitions}: a "
                "message that was sent before and again after the change can land twice"
            )
    return {"topics": topics, "lag": [{**lag._asdict(), "lag": lag.lag} for lag in behind]}


def _lake(root: Path, problems: list[str]) -> dict[str, Any]:
    nothing: dict[str, Any] = {"tables": [], "refused": [], "cut": None, "damaged": []}
    if not root.is_dir():
        return nothing
    problems += StoppedTasks(root).all().values()
    if (state := read_state(root)) is not None and (problem := state.problem()):
        problems.append(problem)
    try:
        cuts = CutStore(Lake(root))
        cut = cuts.latest()
        if cut is None:
            return nothing
        rows, sound = _counts(root, cut, cuts)
        poison, refused = _quarantine(root, cut) if rows.get(QUARANTINE.name) else (0, [])
    except PipelineError as exc:
        problems.append(str(exc))
        return nothing
    problems += sound.warnings()
    if poison:
        problems.append(
            f"{count(poison, 'message')} of the last day in quarantine because a job failed on them: "
            "`edgeloop dlq list --error PoisonError`"
        )
    tables = [
        {
            "name": name,
            "rows": rows.get(name, _stated(table)),
            "version": table.version,
            "files": len(table.files),
        }
        for name, table in sorted(cut.tables.items())
    ]
    return {
        "tables": tables,
        "refused": [_refused(row) for row in refused],
        "damaged": [
            {"table": d.table, "path": d.path, "rows": d.rows, "reason": d.reason} for d in sound.left_out
        ],
        "cut": {"id": cut.id, "created": cut.created.isoformat(), "marks": dict(cut.marks)},
    }


def _stated(table: TableCut) -> int:
    """Rows of a table that is not looked into, as the cut states them: of raw samples."""
    return sum(rows or 0 for rows in table.rows)


def _counts(root: Path, cut: Cut, cuts: CutStore) -> tuple[dict[str, int], SoundCut]:
    """Rows of each table, and the cut without damaged files."""
    if (stated := stated_counts(root, cut, cuts)) is not None:
        return stated
    from feature_store.sql import row_counts  # noqa: PLC0415  (loads DuckDB)

    return row_counts(root, cut)


def _quarantine(root: Path, cut: Cut) -> tuple[int, list[tuple[Any, ...]]]:
    """Messages of the last day that a job failed on, and who had most refused."""
    from feature_store.sql import open_cut  # noqa: PLC0415  (loads DuckDB)

    with open_cut(root, cut.id)[0] as connection:
        [poison] = connection.execute(_POISON, [utc_now() - _RECENT]).fetchone() or (0,)
        return poison, connection.execute(_REFUSED, [MOST_REFUSED]).fetchall()


def _refused(row: tuple[Any, ...]) -> dict[str, Any]:
    """One line of who had most refused; what nobody registered signed has no device."""
    names = ("device_id", "topic", "error", "messages", "single_rows", "last_at")
    return dict(zip(names, (*row[:-1], row[-1].isoformat()), strict=True))


def _jobs(root: Path, problems: list[str], *, up: bool) -> list[dict[str, Any]]:
    """Jobs of users; empty where there are none."""
    try:
        jobs = collect_jobs(root, up=up)
    except (PipelineError, OSError) as exc:
        problems.append(f"jobs: {exc}")
        return []
    problems += job_problems(jobs)
    return jobs

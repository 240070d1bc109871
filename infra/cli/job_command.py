"""`edgeloop job …`: the stream jobs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.app import session
from infra.cli.console import (
    NO_BROKER,
    AsJson,
    show_json,
    show_progress,
    show_table,
    show_text,
    show_warning,
)
from infra.cli.set_aside_command import family as set_aside_family
from infra.cli.table_view import moment
from infra.printing import count

if TYPE_CHECKING:
    from infra.process.child import ChildProcess


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(help="The stream jobs.", no_args_is_help=True)
    commands = (
        (list_, "list"),
        (status, "status"),
        (resume, "resume"),
        (forget, "forget"),
        (run, "run"),
        (lag, "lag"),
    )
    for command, name in commands:
        family.command(name)(command)
    family.add_typer(set_aside_family(), name="set-aside")
    app.add_typer(family, name="job")


def list_(as_json: AsJson = False) -> None:
    """List installed jobs, the built-in ones and those of other packages."""
    from stream_processors.user_jobs.job_points import built_in_points, user_points

    points = sorted([*built_in_points(), *user_points()], key=lambda p: p.name)
    found = [_described(point) for point in points]
    if as_json:
        show_json(found)
        return
    columns = ["name", "version>", "reads…", "writes…", "package"]
    rows = [
        [j["name"], j["version"], ", ".join(j["reads"]), ", ".join(j["writes"]), j["package"]] for j in found
    ]
    show_table("", columns, rows)
    for job in found:
        if job.get("error"):
            show_text(f"problem job {job['name']} of package {job['package']} {job['error']}")


def status(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Job; by default all.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Show how jobs of your own stand: what stopped one, since when, and how far it is behind."""
    from infra.job_report import collect_jobs, job_news
    from infra.stack.stack_file import is_held

    settings = session(ctx).settings()
    jobs = collect_jobs(settings.lake_root, up=is_held(settings.state_dir))
    found = [job for job in jobs if name in (None, job["job"])]
    if not found and name is not None:
        raise _unknown(name)
    if as_json:
        show_json(found)
        return
    columns = ["job", "state", "commits behind>", "tries>", "since", "next try", "error…"]
    show_table("", columns, [[*_summary(job), job["error"]] for job in found])
    for job in found:
        stopped = [task for task in job["tasks"] if task["error"]]
        if stopped:
            rows = [[t["task"], _task_state(t), t["position"], t["newest"], t["error"]] for t in stopped]
            show_table(f"\n{job['job']}", ["task", "state", "read up to>", "newest>", "error…"], rows)
            show_text(f"\n{stopped[0]['traceback'] or ''}")
    for line in job_news(found):
        show_text(line)


def resume(ctx: typer.Context, name: str, as_json: AsJson = False) -> None:
    """Let a stopped job of your own try again now, with the code that is installed by now."""
    from datetime import UTC, datetime

    from feature_store.job_status import JobStatusFiles

    statuses = JobStatusFiles(session(ctx).settings().lake_root)
    if name not in {status.job for status in statuses.all()}:
        raise _unknown(name)
    tasks = statuses.retry(name, datetime.now(UTC))
    if as_json:
        show_json({"job": name, "tasks": tasks})
    else:
        show_text(f"{name} is tried again on {count(tasks, 'task')}" if tasks else f"{name} has not stopped")


def forget(ctx: typer.Context, name: str, as_json: AsJson = False) -> None:
    """Keep no more input for a job that is gone for good; should it come back, it reads the tables."""
    from feature_store.job_status import JobStatusFiles
    from schemas.errors import StackError
    from stream_processors.user_jobs.job_points import user_points

    statuses = JobStatusFiles(session(ctx).settings().lake_root)
    own = [status for status in statuses.all() if status.job == name]
    if not own:
        raise _unknown(name)
    if {name, *(s.installed_as for s in own)} & {point.name for point in user_points()}:
        raise StackError(f"job '{name}' is installed: uninstall its package first")
    tasks = statuses.forget(name)
    if as_json:
        show_json({"job": name, "tasks": tasks})
    else:
        show_text(f"{name} is forgotten on {count(tasks, 'task')}; its tables and its own commits stay")


def run(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Run one more stream worker in the foreground, with all installed jobs, until Ctrl-C."""
    from infra.process.child import ChildProcess
    from infra.stack.running import log_only, running_stack
    from infra.stack.stack import worker_environment

    settings = session(ctx).settings()
    with running_stack(log_only(settings), "job run", show_progress) as stack:
        says = f"a worker joins the group at {stack.bootstrap_servers}; Ctrl-C ends it"
        env = worker_environment(stack.bootstrap_servers, stack.namespace, stack.lake_root)
        command = [sys.executable, "-m", "stream_processors", "worker"]
        code = _until_ended(ChildProcess("worker", command, None, env, grace_s=20.0), says)
        if as_json:
            show_json({"broker": stack.bootstrap_servers, "namespace": stack.namespace, "exit_code": code})
    raise typer.Exit(0 if code == 0 else 1)


def lag(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List how many messages of each task are in the log but not in the lake yet.

    Without a broker it says how far each task has read.
    """
    from infra.kafka.kafka_admin import KafkaAdmin
    from infra.kafka.lag import lags
    from infra.stack.running import found_stack
    from infra.without_broker import positions

    settings, damaged = session(ctx).settings(), list[str]()
    with found_stack(settings, show_progress) as stack:
        if stack is None:
            show_progress(f"{NO_BROKER}: how many messages wait in the log cannot be known")
            known = positions(settings.lake_root, damaged)
            found = [{**one._asdict(), "end": None, "lag": None} for one in known]
        else:
            lagging = lags(stack.lake_root, KafkaAdmin(stack.bootstrap_servers), stack.namespace, damaged)
            found = [{**one._asdict(), "lag": one.lag} for one in lagging]
    for line in damaged:
        show_warning(line)
    if as_json:
        show_json(found)
        return
    columns = ["task", "topic", "next>", "end>", "lag>", "commit>"]
    rows = [[o["task"], o["topic"], o["next"], o["end"], count(o["lag"]), o["commit"]] for o in found]
    show_table("", columns, [row for row in rows if row[2] or row[3]])


def _described(point: Any) -> dict[str, Any]:
    package = point.dist.name if point.dist else ""
    try:
        job = point.load()
        own = [spec.name for spec in getattr(job, "tables", ())]
        return {
            "name": job.name,
            "version": job.version,
            "state_version": job.state_version,
            "reads": list(job.reads),
            "writes": list(dict.fromkeys((*getattr(job, "writes", ()), *own))),
            "package": package,
        }
    except (Exception, SystemExit) as exc:  # noqa: BLE001  (a user's code: the others are listed all the same)
        unknown: dict[str, Any] = {"version": None, "state_version": None, "reads": [], "writes": []}
        error = f"cannot be loaded: {type(exc).__name__}: {exc}"
        return {"name": point.name, **unknown, "package": package, "error": error}


def _task_state(task: dict[str, Any]) -> str:
    return "idle, nothing to read" if task["idle"] else str(task["state"])


def _summary(job: dict[str, Any]) -> list[object]:
    since, retry_at = moment(job["since"]), moment(job["retry_at"])
    return [job["job"], job["state"], count(job["behind"]), job["tries"], since, retry_at]


def _unknown(name: str) -> Exception:
    from schemas.errors import StackError

    return StackError(f"no job of yours is called '{name}' here: `edgeloop job status` lists them")


def _until_ended(worker: ChildProcess, says: str) -> int:
    """Say what runs, and wait until the worker or the user ends it; returns its exit code."""
    try:
        show_progress(says)
        while not worker.wait(1.0):
            pass
    except KeyboardInterrupt:
        show_progress("ending the worker")
    return worker.stop(20.0)

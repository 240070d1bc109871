"""`edgeloop job …`: the stream jobs."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_progress, show_table
from infra.cli.set_aside_command import family as set_aside_family
from infra.printing import count

if TYPE_CHECKING:
    from infra.process.child import ChildProcess

JOBS = "edgeloop.jobs"
"""Entry point group of jobs."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(help="The stream jobs.", no_args_is_help=True)
    for command, name in ((list_, "list"), (run, "run"), (lag, "lag")):
        family.command(name)(command)
    family.add_typer(set_aside_family(), name="set-aside")
    app.add_typer(family, name="job")


def list_(as_json: AsJson = False) -> None:
    """List installed jobs, the built-in ones and those of other packages."""
    found = [_described(point) for point in sorted(entry_points(group=JOBS), key=lambda p: p.name)]
    if as_json:
        show_json(found)
        return
    columns = ["name", "version>", "reads", "writes", "package"]
    rows = [
        [j["name"], j["version"], ", ".join(j["reads"]), ", ".join(j["writes"]), j["package"]] for j in found
    ]
    show_table("", columns, rows)


def run(ctx: typer.Context) -> None:
    """Run one more stream worker in the foreground, with all installed jobs, until Ctrl-C."""
    from infra.process.child import ChildProcess
    from infra.stack.running import log_only, running_stack
    from infra.stack.stack import worker_environment

    settings = session(ctx).settings()
    with running_stack(log_only(settings), "job run", show_progress) as stack:
        show_progress(f"a worker joins the group at {stack.bootstrap_servers}; Ctrl-C ends it")
        env = worker_environment(stack.bootstrap_servers, stack.namespace, stack.lake_root)
        command = [sys.executable, "-m", "stream_processors", "worker"]
        code = _until_ended(ChildProcess("worker", command, None, env, grace_s=20.0))
    raise typer.Exit(0 if code == 0 else 1)


def lag(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List how many messages of each task are in the log but not in the lake yet."""
    from infra.kafka.kafka_admin import KafkaAdmin
    from infra.kafka.lag import lags
    from infra.stack.running import log_only, running_stack

    with running_stack(log_only(session(ctx).settings()), "job lag", show_progress) as stack:
        found = lags(stack.lake_root, KafkaAdmin(stack.bootstrap_servers), stack.namespace)
    if as_json:
        show_json([{**one._asdict(), "lag": one.lag} for one in found])
        return
    columns = ["task", "topic", "next>", "end>", "lag>", "commit>"]
    show_table(
        "", columns, [[o.task, o.topic, o.next, o.end, count(o.lag), o.commit] for o in found if o.end]
    )


def _described(point: Any) -> dict[str, Any]:
    from schemas.errors import OperatorError

    package = point.dist.name if point.dist else ""
    try:
        job = point.load()
    except (ImportError, AttributeError) as exc:
        raise OperatorError(f"job {point.name} of package {package} cannot be loaded: {exc}") from exc
    return {
        "name": job.name,
        "version": job.version,
        "state_version": job.state_version,
        "reads": list(job.reads),
        "writes": list(job.writes),
        "package": package,
    }


def _until_ended(worker: ChildProcess) -> int:
    """Wait until the worker or the user ends it; returns its exit code."""
    try:
        while not worker.wait(1.0):
            pass
    except KeyboardInterrupt:
        show_progress("ending the worker")
    return worker.stop(20.0)

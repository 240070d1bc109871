"""`edgeloop job set-aside …`: state and derived messages on which a job failed, and stopped jobs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_table, show_text
from infra.printing import count

Id = Annotated[str, typer.Argument(metavar="ID")]
_HELP = "State and derived messages on which a job failed, set aside so that the rest could go on."


def family() -> typer.Typer:
    """The commands, to be added to `edgeloop job`."""
    commands = typer.Typer(help=_HELP, no_args_is_help=True)
    for command, name in ((list_, "list"), (show, "show"), (restore, "restore")):
        commands.command(name)(command)
    return commands


def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List what was set aside, and which jobs are stopped; `edgeloop dlq` lists messages."""
    from stream_processors.engine.stopped import in_words, stopped_in

    found, stopped = _entries(ctx), stopped_in(session(ctx).settings().lake_root)
    if as_json:
        show_json({"set_aside": found, "stopped": stopped})
        return
    rows = [[e["id"], e["at"], e["kind"], e["job"], escaped(e["what"]), e["how"], _why(e)] for e in found]
    show_table("", ["id", "set aside", "kind", "job", "what", "how", "error…"], rows)
    for line in in_words(stopped):
        show_text(line)


def show(ctx: typer.Context, entry_id: Id, as_json: AsJson = False) -> None:
    """Show one entry, with its bytes or its state's value."""
    from schemas.errors import RejectedError

    found = next((e for e in _entries(ctx) if e["id"] == entry_id), None)
    if found is None:
        raise RejectedError(f"nothing set aside has the id {entry_id}")
    if as_json:
        show_json(found)
        return
    for name, value in {**found, **found["detail"]}.items():
        if name != "detail":
            show_text(f"{name:<10} {escaped(str(value))}")


def restore(
    ctx: typer.Context,
    entry_ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    as_json: AsJson = False,
) -> None:
    """Ask to have state keys or derived messages back; the worker of the task does so within seconds."""
    from stream_processors.engine.restores import RestoreRequests

    requests = RestoreRequests(session(ctx).settings().lake_root)
    for entry_id in entry_ids:
        requests.ask(entry_id)
    if as_json:
        show_json({"requested": entry_ids})
    else:
        show_text(f"{count(len(entry_ids), 'request')} left for the workers")


def escaped(text: str) -> str:
    """The text with control characters shown as escapes: keys of states have some, strangers send others."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _why(entry: dict[str, Any]) -> str:
    return escaped(f"{entry['error']}: {entry['reason']}")


def _entries(ctx: typer.Context) -> list[dict[str, Any]]:
    from stream_processors.engine.poison_store import PoisonStore

    return PoisonStore(session(ctx).settings().lake_root).entries()

"""`edgeloop replay`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_progress, show_table, stdout
from infra.cli.reading_arguments import (
    Decimal,
    DeviceColumn,
    Force,
    Missing,
    TimeColumn,
    TimeFormat,
    Timezone,
    options_of,
    say,
)
from infra.printing import count, seconds

if TYPE_CHECKING:
    from infra.replay import ReplayResult


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(replay)


def replay(  # noqa: PLR0913, PLR0917  (one option each)
    ctx: typer.Context,
    recordings: Annotated[list[Path], typer.Argument(help="Files of measurements, or a folder of them.")],
    profile: Annotated[str, typer.Option(help="Shipped profile, or path of a profile file.")],
    device: Annotated[
        str, typer.Option(help="Id of the device to replay it as; default: the file's name.")
    ] = "",
    speed: Annotated[
        float | None, typer.Option(min=0, help="Times real time.", show_default="flat out")
    ] = None,
    time_column: TimeColumn = None,
    time_format: TimeFormat = "",
    timezone: Timezone = "",
    decimal: Decimal = None,
    missing: Missing = None,
    device_column: DeviceColumn = "",
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Let earlier rows of this recording no longer count; they are kept."),
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Run a recording through the whole pipeline as a device would; return when every row can be queried.

    Says first how the files are read, and stops where that is doubtful, with the option that decides.
    Exit code 1 if the books do not balance.
    """
    from infra.replay import ReplayRequest
    from infra.replay import replay as run
    from infra.stack.running import line_only, running_stack

    options = options_of(time_column, time_format, timezone, decimal, missing, device_column)
    request = ReplayRequest(tuple(recordings), profile, device, speed, options, replace, force)
    wanted = request.read()
    say(wanted.read.record, as_json=as_json, force=force)
    with running_stack(line_only(session(ctx).settings()), "replay", show_progress) as stack:
        result = run(stack, request, wanted, show_progress)
    if as_json:
        show_json(result.to_json())
    else:
        _show(result)
    if not result.books.balances:
        raise typer.Exit(1)


def _show(result: ReplayResult) -> None:
    rows = result.books.rows()
    stages = [("source", name, n) for name, n in result.source.items()]
    stages += [
        ("device", n, rows[n]) for n in ("sensed", "filtered", "evicted", "refused", "pending", "acked")
    ]
    stages += [("log", "received", rows["received"])]
    stages += [("cloud", n, rows[n]) for n in ("landed", "duplicate", "quarantined", "in_flight", "lost")]
    show_table("", ("stage", "rows", "count>"), [(s, name, count(n)) for s, name, n in stages])
    console = stdout()
    console.print(f"\n{count(len(result.alarms), 'alarm')}; queryable after {seconds(result.seconds)}")
    for violation in result.books.violations():
        console.print(f"[red]does not balance[/]  {violation}")
    console.print(f"the books {'balance' if result.books.balances else 'DO NOT BALANCE'}")
    console.print(f'next: edgeloop sql "FROM {result.table} ORDER BY score DESC LIMIT 5"')

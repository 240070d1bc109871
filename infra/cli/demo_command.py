"""`edgeloop demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.cli.app import interruptible, session
from infra.cli.console import AsJson, show_json, stderr, stdout

OF_DEMO = "as the profile's demo has it"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    ctx: typer.Context,
    profile: Annotated[str, typer.Option(help="Shipped profile, or path of a profile file.")] = "machine",
    devices: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Simulated devices, at two sites.", show_default=OF_DEMO),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=20, help="Length of the simulation.", show_default=OF_DEMO)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same simulation.")] = 7,
    loop: Annotated[
        bool, typer.Option("--loop/--no-loop", help="Run the learning loop too, or the pipeline alone.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Run a fleet through a fault, a harmless drift, a network cut and wear; let the loop learn; report.

    Exit code 1 if the books do not balance, the new model is not better, or a device runs the wrong model.
    The lake stays for `edgeloop sql`. With --json the report is printed as JSON, and the rest goes to
    standard error.
    """
    from infra.demo.demo_run import DemoRequest, run_demo
    from schemas.profile_file import in_minutes

    console = stderr() if as_json else stdout()
    if (played := in_minutes(profile)) != profile:
        console.print(f"plays {played}: {profile} with timings of minutes")
    try:
        with interruptible():
            request = DemoRequest.of(played, devices, seconds, seed, loop=loop)
            found = run_demo(session(ctx).settings(), request, console)
    except KeyboardInterrupt:
        console.print("stopped; what was not sent stays spooled, the lake keeps what has landed")
        raise typer.Exit(1) from None
    if as_json:
        show_json(found.to_json())
    if not found.all_well:
        raise typer.Exit(1)

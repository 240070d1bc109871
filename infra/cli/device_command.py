"""`edgeloop device …`: what a person asks of a device itself."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_text


def register(app: typer.Typer) -> None:
    """Add the family of commands."""
    family = typer.Typer(help="Devices of this stack's edge processes.", no_args_is_help=True)
    family.callback()(lambda: None)
    family.command()(relearn)
    app.add_typer(family, name="device")


def relearn(
    ctx: typer.Context,
    device_ids: Annotated[list[str], typer.Argument(metavar="DEVICE...", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Have devices learn anew what is usual: after a repair, a move, or a warm-up during a fault."""
    from infra.stack.edge_processes import ask_to_relearn

    asked = ask_to_relearn(session(ctx).settings().state_dir, device_ids)
    if as_json:
        show_json({"asked": asked})
        return
    for device_id, process in asked.items():
        show_text(f"{device_id}: asked {process}; it warms up anew, without a score until it has")

"""`edgeloop up` and `edgeloop down`."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.cli.app import Broker, Namespace, session
from infra.cli.console import AsJson, show_json, show_progress, show_text, show_warning

Workers = Annotated[int | None, typer.Option(min=0, max=64, help="Stream workers.", show_default="1")]
Port = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Port of the broker.", show_default="a free one")
]

Listen = Annotated[
    str | None,
    typer.Option(
        metavar="ADDR",
        help="Address of this machine at which devices on others reach it, with mutual TLS.",
        show_default="loopback only",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)


def up(
    ctx: typer.Context,
    workers: Workers = None,
    port: Port = None,
    broker: Broker = None,
    namespace: Namespace = None,
    listen: Listen = None,
    as_json: AsJson = False,
) -> None:
    """Start broker, topics, lake and workers in the background; they run until `edgeloop down`."""
    from infra.stack.running import await_ready
    from infra.stack.stack_file import is_held, stack_troubles
    from infra.stack.supervisor import start_detached

    settings = session(ctx).settings(
        workers=workers, kafka_port=port, broker=broker, namespace=namespace, listen=listen
    )
    already = is_held(settings.state_dir)
    stack = await_ready(settings.state_dir) if already else start_detached(settings, show_progress)
    for line in stack_troubles(settings.state_dir):
        show_warning(line)
    if as_json:
        show_json(stack.model_dump(mode="json"))
        return
    if already:
        show_progress("the stack is up already: `edgeloop down` first to start it with other settings")
    show_text(f"broker     {stack.bootstrap_servers}")
    if stack.devices is not None:
        show_text(
            f"devices    {stack.devices.broker} (mutual TLS): `edgeloop fleet invite DEVICE` lets one in"
        )
    show_text(f"lake       {settings.lake_root}")
    show_text(f"logs       {settings.logs_dir}")
    for line in stack.warnings:
        show_warning(line)


def down(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Stop what `edgeloop up` started; the data stays."""
    from infra.stack.supervisor import stop_detached

    stopped = stop_detached(session(ctx).settings())
    if as_json:
        show_json({"stopped": stopped})
    else:
        show_text("the stack is down" if stopped else "no stack was up")

"""`edgeloop doctor`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check this machine and say what to fix; exit code 1 if anything must be."""
    from infra.doctor import examine

    checks = examine(session(ctx).settings())
    failed = any(c.verdict == "fail" for c in checks)
    if as_json:
        show_json({"fit": not failed, "checks": [asdict(c) for c in checks]})
    else:
        show_table(
            "", ["", "what", "found…", "do…"], [[c.verdict, c.name, c.found, c.advice] for c in checks]
        )
    raise typer.Exit(1 if failed else 0)

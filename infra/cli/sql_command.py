"""`edgeloop sql`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_text, show_warning

if TYPE_CHECKING:
    from feature_store.result_text import Format

Cut = Annotated[
    str | None, typer.Option(help="Cut id, pin or instant (ISO 8601).", show_default="the newest cut")
]
AsCsv = Annotated[bool, typer.Option("--csv", help="CSV with a header line.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sql)


def sql(
    statement: Annotated[str, typer.Argument(help='For example "SELECT * FROM fleet".')],
    ctx: typer.Context,
    cut: Cut = None,
    as_csv: AsCsv = False,
    as_json: AsJson = False,
    excerpts: Annotated[
        bool, typer.Option("--excerpts", help="Also show tables of raw samples; for their readers only.")
    ] = False,
) -> None:
    """Query the lake; needs no stack. Views: docs/data-dictionary.md, or "SHOW TABLES"."""
    from feature_store.sql import run

    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json exclude each other")
    fmt: Format = "csv" if as_csv else "json" if as_json else "table"
    root = session(ctx).settings().lake_root
    show_text(run(root, statement, cut, fmt, show_warning, excerpts=excerpts))

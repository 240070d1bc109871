"""`edgeloop catalog`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_text

Root = Annotated[
    Path | None,
    typer.Option("--root", help="The lake's folder as clients see it.", show_default="that of this stack"),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The new file; an earlier one is replaced.")]
Cut = Annotated[
    str | None, typer.Option(help="Cut id, pin or instant (ISO 8601).", show_default="the newest cut")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(catalog)


def catalog(
    ctx: typer.Context, output: Output, root: Root = None, cut: Cut = None, as_json: AsJson = False
) -> None:
    """Write a DuckDB file of views with absolute paths, for a lake that is mounted; needs no stack.

    `catalog.duckdb` in the lake's folder names files relative to it. Run this where the mount is: DuckDB
    looks into the files while it makes the views.
    """
    from feature_store.catalog import write_catalog
    from feature_store.lake import Lake
    from schemas.errors import QueryError

    folder = (root or session(ctx).settings().lake_root).expanduser()
    if not (folder / "_cuts").is_dir():
        raise QueryError(f"no lake at {folder}: name the folder that holds `_cuts` with --root")
    path = write_catalog(Lake(folder), output.expanduser(), cut)
    if as_json:
        show_json({"path": str(path), "root": str(folder.absolute())})
    else:
        show_text(f"wrote {path}: views on {folder.absolute()}")

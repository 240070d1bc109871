"""`edgeloop status`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_table, show_text


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)


def status(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Every process, topic, lag, table and the newest cut."""
    from infra.stack.stack_status import collect_status

    found = collect_status(session(ctx).settings())
    if as_json:
        show_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    show_text(f"stack   {found['state']}   broker {found['broker'] or '-'}   state {found['state_dir']}")
    if found["processes"]:
        rows = [
            [p["name"], p["state"], p["pid"], p["memory_mb"], p["restarts"], p["log"]]
            for p in found["processes"]
        ]
        show_table("\nprocesses", ["name", "state", "pid>", "MB>", "restarts>", "log"], rows)
    if found["devices"]:
        show_table(
            "\nedge processes",
            ["name", "phase", "pending>", "last word"],
            [
                [d["name"], d.get("phase"), d.get("books", {}).get("pending"), d.get("updated")]
                for d in found["devices"]
            ],
        )
    if found["topics"]:
        behind: Counter[str] = Counter()
        for lag in found["lag"]:
            behind[lag["topic"]] += lag["lag"]
        tasked = {lag["topic"] for lag in found["lag"]}
        rows = [
            [t["name"], t["partitions"], t["end_offsets"], behind[t["name"]] if t["name"] in tasked else ""]
            for t in found["topics"]
        ]
        show_table("\ntopics", ["name", "partitions>", "messages>", "lag>"], rows)
    if found["tables"]:
        rows = [[t["name"], t["rows"], t["version"], t["files"]] for t in found["tables"]]
        show_table("\ntables", ["name", "rows>", "version>", "files>"], rows)
    if found["cut"]:
        show_text(f"\ncut     {found['cut']['id']}   created {found['cut']['created']}")
    for problem in found["problems"]:
        show_text(f"problem {problem}")

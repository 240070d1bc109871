"""`edgeloop lake …`: cuts, pins and housekeeping."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_progress, show_table, show_text, show_warning
from infra.cli.table_view import moment
from infra.printing import count

if TYPE_CHECKING:
    from feature_store.cut_store import Cut, CutStore
    from feature_store.lake import Lake

Ref = Annotated[str | None, typer.Option("--cut", help="Cut id or instant.", show_default="the newest cut")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(help="Cuts, pins and housekeeping of the lake.", no_args_is_help=True)
    for command in (check, cuts, pin, unpin, compact, vacuum):
        family.command()(command)
    app.add_typer(family, name="lake")


def check(
    ctx: typer.Context,
    repair: Annotated[
        bool, typer.Option("--repair", help="Heal what can be healed; nothing is deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every file of the lake and name what is damaged; exit code 1 if anything is left.

    Needs no stack, and may run beside one. What cannot be healed keeps its place in the list: damaged files
    are moved to `_set_aside` in the lake's folder, and queries name the rows that they lack.
    """
    from feature_store.lake_check import check_lake
    from infra.stack.relanding_stack import relander

    root = _root(ctx)
    reland = relander(session(ctx).settings()) if repair else None
    found = list(check_lake(root, _show_step, repair=repair, reland=reland))
    left = [f for f in found if not f.healed]
    if as_json:
        show_json({"findings": [asdict(f) for f in found], "left": len(left)})
    elif found:
        columns = ["file…", "problem…", "outcome…"]
        rows = [[f.file, f.problem, f"{'healed: ' if f.healed else ''}{f.outcome}"] for f in found]
        show_table("", columns, rows)
    if not as_json:
        healed = len(found) - len(left)
        show_text(f"{count(len(found), 'finding')}, {count(healed)} healed, {count(len(left))} left")
    if left:
        raise typer.Exit(1)


def _show_step(line: str) -> None:
    show_progress(f"checking: {line}")


def cuts(
    ctx: typer.Context,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many of the newest.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest cuts, and all pins."""
    _, found = _open(ctx)
    pins = found.pins()
    damaged = found.damaged()
    newest = [found.read(i) for i in found.ids()[-last:] if i not in damaged]
    for line in (*damaged.values(), *found.damaged_pins().values()):
        show_warning(line)
    listed = [_described(cut, None) for cut in newest] + [_described(cut, name) for name, cut in pins.items()]
    if as_json:
        show_json(listed)
    else:
        columns = ["id>", "pin", "created", "tables>", "files>", "tasks>"]
        rows = [
            [c["id"], c["pin"], moment(c["created"]), *(count(c[n]) for n in ("tables", "files", "tasks"))]
            for c in listed
        ]
        show_table("", columns, rows)


def pin(ctx: typer.Context, name: str, cut: Ref = None, as_json: AsJson = False) -> None:
    """Keep a cut readable until it is unpinned, whatever housekeeping removes."""
    _, found = _open(ctx)
    _show_result(_described(found.pin(name, cut), name), "cut {id} is pinned as {pin}", as_json=as_json)


def unpin(ctx: typer.Context, name: str, as_json: AsJson = False) -> None:
    """Remove a pin."""
    _, found = _open(ctx)
    found.unpin(name)
    _show_result({"pin": name}, "{pin} is no longer pinned", as_json=as_json)


def compact(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Merge small files now; beside workers a process does it by itself."""
    from feature_store.compaction import compact as merge

    lake, found = _open(ctx)
    merged = 0
    while replaced := merge(lake, found):
        merged += replaced
    _show_result({"merged_files": merged}, "{merged_files} files merged", as_json=as_json)


def vacuum(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Delete files older than an hour that no kept cut, pin, unfinished commit or unread job needs."""
    from feature_store.maintenance import vacuum as sweep

    lake, found = _open(ctx)
    deleted = sweep(lake, found, datetime.now(UTC))
    _show_result({"deleted_files": deleted}, "{deleted_files} files deleted", as_json=as_json)


def _open(ctx: typer.Context) -> tuple[Lake, CutStore]:
    from feature_store.cut_store import CutStore
    from feature_store.lake import Lake

    lake = Lake.open(_root(ctx))
    return lake, CutStore(lake)


def _root(ctx: typer.Context) -> Path:
    from schemas.errors import NoLakeError

    root = session(ctx).settings().lake_root
    if not root.is_dir():
        raise NoLakeError(f"no lake at {root}")
    return root


def _described(cut: Cut, pinned: str | None) -> dict[str, Any]:
    return {
        "id": cut.id,
        "pin": pinned,
        "created": cut.created.isoformat(timespec="milliseconds"),
        "tables": len(cut.tables),
        "files": sum(len(t.files) for t in cut.tables.values()),
        "tasks": len(cut.marks),
    }


def _show_result(value: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    if as_json:
        show_json(value)
    else:
        show_text(sentence.format(**value))

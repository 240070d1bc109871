"""`edgeloop label …`: delayed ground truth, from people and their systems."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_progress, show_table, show_text
from infra.printing import count

if TYPE_CHECKING:
    from infra.labels.label_file import ParsedLabels, RefusedLine

Source = Annotated[str, typer.Option(help="Who observed it; the signing key's name is put before it.")]
Confidence = Annotated[float, typer.Option(min=0.0, max=1.0, help="How sure the source is.")]
Chosen = Annotated[
    float, typer.Option("--probability", min=0.0, max=1.0, help="Probability that this span was chosen.")
]
Supersedes = Annotated[str, typer.Option(help="Label that this one replaces.", show_default=False)]
LabelId = Annotated[
    str, typer.Option("--id", help="Its id; by default derived from its content.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(help="Delayed ground truth.", no_args_is_help=True)
    for command, name in ((add, "add"), (import_, "import"), (list_, "list")):
        family.command(name)(command)
    app.add_typer(family, name="label")


def add(  # noqa: PLR0913, PLR0917  (options of a command)
    ctx: typer.Context,
    device: str,
    start: Annotated[str, typer.Argument(help="ISO 8601 with a time zone.")],
    end: Annotated[str, typer.Argument(help="ISO 8601 with a time zone.")],
    label: Annotated[str, typer.Argument(help="healthy, or the fault's name.")],
    source: Source = "cli",
    confidence: Confidence = 1.0,
    probability: Chosen = 1.0,
    supersedes: Supersedes = "",
    label_id: LabelId = "",
    as_json: AsJson = False,
) -> None:
    """Label a span of one device's time; returns when the label is in the lake."""
    from infra.labels.label_file import ParsedLabels, RefusedLine, make_label
    from infra.labels.labeller import SIGNER

    row = {
        "device_id": device,
        "span_start": start,
        "span_end": end,
        "label": label,
        "source": source,
        "confidence": str(confidence),
        "label_probability": str(probability),
        "supersedes": supersedes,
        "label_id": label_id,
    }

    def parsed(now: Any, devices: dict[str, str]) -> ParsedLabels:
        try:
            made = make_label(row, now, SIGNER)
        except ValueError as exc:
            return ParsedLabels({}, [RefusedLine(1, str(exc))])
        if made.device_id not in devices:
            return ParsedLabels({}, [RefusedLine(1, f"device {made.device_id!r} is not registered")])
        return ParsedLabels({1: made}, [])

    _submit(ctx, "label add", parsed, as_json=as_json)


def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV: device_id,span_start,span_end,label,source,…")],
    as_json: AsJson = False,
) -> None:
    """Import labels; bad lines are refused one by one, good ones land. A repeat changes nothing."""
    from infra.labels.label_file import read_labels
    from infra.labels.labeller import SIGNER

    _submit(
        ctx, "label import", lambda now, devices: read_labels(file, now, SIGNER, devices), as_json=as_json
    )


def list_(
    ctx: typer.Context,
    device: Annotated[str, typer.Option(help="Only this device.", show_default=False)] = "",
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many of the newest.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the labels in force, newest first; labels that others replace are left out."""
    from datetime import UTC, datetime

    from feature_store.labels import labels_as_of
    from feature_store.sql import query

    columns = "label_id, device_id, span_start, span_end, label, source, confidence, known_at"
    now = datetime.now(UTC)
    found = query(
        session(ctx).settings().lake_root,
        f"SELECT {columns} FROM ({labels_as_of(now)}) ORDER BY known_at DESC, label_id",  # noqa: S608
    ).to_pylist()
    rows = [r for r in found if device in ("", r["device_id"])][:last]
    if as_json:
        show_json(rows)
    else:
        names = columns.split(", ")
        show_table("", names, [[r[n] for n in names] for r in rows])


def _submit(
    ctx: typer.Context, owner: str, parse: Callable[[Any, dict[str, str]], ParsedLabels], *, as_json: bool
) -> None:
    """Send the labels that parse and print those that do not; exit code 1 if any was refused."""
    from datetime import UTC, datetime

    from feature_store.lake import Lake
    from infra.labels.label_file import RefusedLine
    from infra.labels.labeller import Labeller
    from infra.stack.running import line_only, running_stack
    from infra.stack.stack_file import stack_troubles

    settings = session(ctx).settings()
    with running_stack(line_only(settings), owner, show_progress) as stack:
        troubles = partial(stack_troubles, settings.state_dir)
        labeller = Labeller(settings.state_dir / "labels", Lake.open(stack.lake_root), troubles)
        parsed = parse(datetime.now(UTC), labeller.devices())
        outcome = labeller.submit(parsed.labels.values(), stack.bootstrap_servers, stack.namespace)
    by_id = {label.label_id: line for line, label in parsed.labels.items()}
    advice = "was given before with other words: give a new id that supersedes it"
    conflicts = [RefusedLine(by_id[i], f"label {i} {advice}") for i in outcome.conflicts]
    refused = sorted([*parsed.refused, *conflicts])
    _show(outcome.new, outcome.known, refused, as_json=as_json)
    if refused:
        raise typer.Exit(1)


def _show(new: tuple[str, ...], known: tuple[str, ...], refused: list[RefusedLine], *, as_json: bool) -> None:
    if as_json:
        lines = [{"line": r.line, "reason": r.reason} for r in refused]
        show_json({"new": list(new), "known": list(known), "refused": lines})
        return
    show_text(f"{count(len(new))} new, {count(len(known))} known already, {count(len(refused))} refused")
    if refused:
        show_table("", ["line>", "reason…"], [list(r) for r in refused])

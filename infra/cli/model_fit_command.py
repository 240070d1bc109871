"""`edgeloop model fit`: the first model of a profile, from its own history."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from infra.cli.app import session, warn_of_troubles
from infra.cli.console import AsJson, show_json, show_progress, show_table, show_text, show_warning
from infra.cli.model_command import FAMILY
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
from infra.printing import count, share

History = Annotated[
    list[Path],
    typer.Option("--from", help="File or folder of measurements; may be repeated. Or: lake."),
]
LAKE = "lake"
"""Names the rows of the lake instead of files; a file of this name is `./lake`."""
Labels = Annotated[
    Path | None,
    typer.Option(help="CSV of known faults: span_start, span_end and, if need be, device_id, label."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="FROM..TO: a span of time to leave out; may be repeated.", metavar="FROM..TO"),
]
Budget = Annotated[float, typer.Option(min=1e-6, help="False alarms that are allowed, a device and day.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder to write to; default: <profile>-fit in this folder."),
]
Submit = Annotated[
    bool | None,
    typer.Option(
        "--submit/--no-submit",
        help="Hand it to the stack: its rows land, and trainer and gates make a candidate of them.",
        show_default="if a stack is up",
    ),
]


@FAMILY.command()
def fit(  # noqa: PLR0913, PLR0917  (one option each)
    ctx: typer.Context,
    profile: Annotated[str, typer.Argument(help="A profile's file, or the name of a known one.")],
    history: History,
    labels: Labels = None,
    exclude: Exclude = None,
    alarms_per_device_day: Budget = 1.0,
    output: Output = None,
    submit: Submit = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the generic faults.")] = 0,
    time_column: TimeColumn = None,
    time_format: TimeFormat = "",
    timezone: Timezone = "",
    decimal: Decimal = None,
    missing: Missing = None,
    device_column: DeviceColumn = "",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Choose and fit a first model on a history, and report what was tried and what it would alarm on.

    The last part of the history (`training.holdout_share`) is only tested on. Writes the model, a profile
    that names it, its fault bank and a one-page report. Where a stack is up, the rows land in its lake, and
    the model goes through gates and signatures as a candidate of the profile's own family.
    """
    from infra.fitting.fit_files import FitWishes, fit_files, profile_source, write_fit
    from infra.fitting.lake_rows import fit_lake
    from infra.replay import ReplayRequest
    from infra.stack.model_settings import model_settings
    from infra.stack.stack_file import is_held

    options = options_of(time_column, time_format, timezone, decimal, missing, device_column)
    settings = session(ctx).settings()
    found, text = profile_source(profile, settings.lake_root)
    zone = timezone or found.replay.timezone
    wishes = FitWishes(found.name, labels, tuple(exclude or ()), alarms_per_device_day, zone, seed)
    if history == [Path(LAKE)]:
        if labels or exclude:
            raise typer.BadParameter(
                f"with --from {LAKE} the labels in the lake count: `edgeloop label import`"
            )
        made = fit_lake(settings.lake_root, model_settings(settings).root, found, text, wishes, show_progress)
    else:
        recording = ReplayRequest(tuple(history), profile, options=options, force=force, known=found).read()
        say(recording.read.record, as_json=as_json, force=force)
        try:
            made = fit_files(recording, text, wishes, show_progress)
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from exc
    for device in made.unknown:
        show_warning(f"a label names the device {device!r}, which the history does not have")
    facts = write_fit(made, output or Path(f"{found.name}-fit"), history, alarms_per_device_day)
    if submit or (submit is None and is_held(settings.state_dir)):
        from infra.fitting.submission import submit as hand_over

        facts |= hand_over(settings, made, show_progress)
        warn_of_troubles(settings)
    if as_json:
        show_json(facts)
    else:
        _show(made, facts, alarms_per_device_day)


def _show(made: Any, facts: dict[str, Any], budget: float) -> None:
    from infra.fitting.fit_report import headline, test_sentence

    rows = [
        [
            t["detector"],
            ", ".join(f"{k} {v:g}" for k, v in t["settings"].items()),
            t["failed"] or share(t["recall"]),
        ]
        for t in facts["tried"]
    ]
    show_table("", ["detector", "settings", "faults detected>"], rows)
    show_text(headline(made.fitted, budget))
    show_text(f"On the test part: {test_sentence(made.fitted.outcome)}")
    alarms = facts["alarms"]
    said = count(len(alarms), "time")
    show_text(f"In this history it would have alarmed {said}; {facts['report']} shows when.")
    show_text(f"Model {facts['version']}: {facts['bundle']}")
    if facts["profile"]:
        show_text(f"Your profile with the model's name and threshold: {facts['profile']}")
    if "run_id" in facts:
        landed = count(facts["rows_landed"], "row")
        show_text(f"{landed} landed; run {facts['run_id']} is requested, and `edgeloop model list` shows it")
    else:
        show_text("Not handed to a stack: none is up. --submit does it, once `edgeloop up` has started one.")

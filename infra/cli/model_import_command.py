"""`edgeloop model import`: a model that somebody else made, as a candidate of a profile's family."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from infra.cli.app import session, warn_of_troubles
from infra.cli.console import AsJson, show_json, show_progress, show_text
from infra.cli.model_command import FAMILY
from infra.cli.model_fit_command import Budget, Output, Submit
from infra.cli.reading_arguments import DeviceColumn, Force, TimeColumn, TimeFormat, Timezone, options_of, say
from infra.printing import count

File = Annotated[Path, typer.Argument(metavar="FILE.onnx", help="From features or raw windows to a score.")]
History = Annotated[
    list[Path] | None,
    typer.Option("--from", help="File or folder of measurements to try it on; may be repeated."),
]
ScoreOutput = Annotated[
    str, typer.Option(help="The graph's output to take; default: the only one, or `score`.")
]


@FAMILY.command("import")
def import_model(  # noqa: PLR0913, PLR0917  (one option each)
    ctx: typer.Context,
    file: File,
    profile: Annotated[str, typer.Option(help="A profile's file, or the name of a known one.")],
    history: History = None,
    score_output: ScoreOutput = "",
    alarms_per_device_day: Budget = 1.0,
    output: Output = None,
    submit: Submit = None,
    time_column: TimeColumn = None,
    time_format: TimeFormat = "",
    timezone: Timezone = "",
    device_column: DeviceColumn = "",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Check an ONNX file for a profile, and hand it to the stack as a candidate that the gates judge.

    It takes the profile's features, shape (n, features), or raw windows, shape (n, samples, channels), and
    gives one score between 0 and 1 a window. With a history (--from) its threshold is set by the budget, and
    bundle and profile are written; without one, the rows and the fault bank in the lake judge it.
    """
    from infra.fitting.fit_files import profile_source
    from infra.fitting.import_files import import_file, write_import
    from infra.replay import ReplayRequest
    from infra.stack.stack_file import is_held

    settings = session(ctx).settings()
    found, text = profile_source(profile, settings.lake_root)
    recording = None
    if history:
        options = options_of(time_column, time_format, timezone, None, None, device_column)
        recording = ReplayRequest(tuple(history), profile, options=options, force=force, known=found).read()
        say(recording.read.record, as_json=as_json, force=force)
    made = import_file(file, found, text, recording, score_output, alarms_per_device_day)
    if made.reads == "window" and recording is None:
        raise typer.BadParameter(
            "it reads raw windows, which the lake does not hold: give a history to judge it on with --from"
        )
    facts = write_import(made, output or Path(f"{found.name}-import"))
    if submit or (submit is None and is_held(settings.state_dir)):
        from infra.fitting.submission import submit_import

        facts |= submit_import(settings, made, show_progress)
        warn_of_troubles(settings)
    facts["waits_for_a_person"] = True
    if as_json:
        show_json(facts)
    else:
        _show(facts)


def _show(facts: dict[str, Any]) -> None:
    what = "features" if facts["reads"] == "features" else "raw windows"
    show_text(f"It reads {what}; a device can run it.")
    if "version" in facts:
        alarms, windows = facts["false_alarms_on_test"], facts["test_windows"]
        show_text(
            f"A score of {facts['enter']:.4g} alarms. On the test part: {count(alarms, 'false alarm')} in "
            f"{count(windows, 'healthy window')}."
        )
        show_text(f"Model {facts['version']}: {facts['bundle']}")
    if facts.get("profile_file"):
        show_text(f"Your profile with the model's name and threshold: {facts['profile_file']}")
    show_text(
        "A drift of it waits for a person: only whoever made it can train it again, for another import."
    )
    if "run_id" in facts:
        landed = count(facts["rows_landed"], "row")
        show_text(f"{landed} landed; run {facts['run_id']} is requested, and `edgeloop model list` shows it")
    else:
        show_text("Not handed to a stack: none is up. --submit does it, once `edgeloop up` has started one.")

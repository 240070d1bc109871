"""`edgeloop profile init`: a first profile from a file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.console import AsJson, show_json, show_text
from infra.cli.profile_command import family
from infra.cli.reading_arguments import (
    Decimal,
    DeviceColumn,
    Missing,
    TimeColumn,
    TimeFormat,
    Timezone,
    options_of,
    say,
)
from infra.printing import count

if TYPE_CHECKING:
    from infra.drafting.profile_draft import Draft


def register(app: typer.Typer) -> None:
    """Add the command to the `profile` family."""
    family(app).command("init")(init)


def init(  # noqa: PLR0913, PLR0917  (one option each)
    files: Annotated[
        list[Path], typer.Argument(help="Files of measurements, or a folder of them.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; default: <name>.toml in this folder."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Profile name; default: that of -o, else of the measurements.")
    ] = None,
    time_column: TimeColumn = None,
    time_format: TimeFormat = "",
    timezone: Timezone = "",
    decimal: Decimal = None,
    missing: Missing = None,
    device_column: DeviceColumn = "",
    rate_hz: Annotated[
        float | None, typer.Option(min=1e-6, help="Samples a second of a file without times.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Column of flags, states or counts to take as a channel; may be repeated."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on in spite of what is doubtful; replace an existing file.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Draft a profile from a file's columns, ready to replay with a generic anomaly score.

    Says first how the file is read, and stops where that is doubtful, with the option that decides.
    """
    from infra.drafting.profile_draft import draft
    from infra.reading.replay_wishes import init_wishes
    from schemas.errors import RejectedError

    options = options_of(
        time_column,
        time_format,
        timezone,
        decimal,
        missing,
        device_column,
        rate_hz=rate_hz,
        keep=tuple(keep or ()),
    )
    named = name or (None if output is None else output.stem)
    made = draft(files, named, init_wishes(options))
    say(made.record, as_json=as_json, force=force)
    target = output or Path(f"{made.profile.name}.toml")
    if target.exists() and not force:
        raise RejectedError(f"{target} exists: give another name with -o, or --force to replace it")
    target.write_text(made.text, encoding="utf-8")
    if as_json:
        said = {"skipped": dict(made.skipped), "unusual": dict(made.unusual)}
        reading = made.record.to_json()
        show_json({"profile": str(target), "name": made.profile.name, **said, "reading": reading})
    else:
        show_text(_summary(files, target, made))


def _summary(files: list[Path], target: Path, made: Draft) -> str:
    names, rate_hz = ", ".join(made.profile.channel_names), made.profile.sampling.rate_hz
    skipped = [f"  left out: {name.strip() or '(no name)'}: {why}" for name, why in made.skipped.items()]
    unusual = made.unusual.items()
    shown = " ".join(shlex.quote(str(f)) for f in files)
    return "\n".join(
        [
            f"{target}: {count(len(made.profile.channels), 'channel')} ({names}), {rate_hz:.6g} Hz",
            *skipped,
            *(f"  {name}: {count(n, 'value')} far from the rest: fault or nonsense?" for name, n in unusual),
            f"Edit it, or run: edgeloop replay {shown} --profile {target}",
        ]
    )

"""`edgeloop profile init`: a first profile from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.console import AsJson, show_json, show_text
from infra.cli.profile_command import family
from infra.printing import count

if TYPE_CHECKING:
    from infra.drafting.profile_draft import Draft


def register(app: typer.Typer) -> None:
    """Add the command to the `profile` family."""
    family(app).command("init")(init)


def init(
    file: Annotated[Path, typer.Argument(help="CSV file with a header line.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; default: <name>.toml in this folder."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Profile name; default: the file's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draft a profile from a file's columns, ready to replay with a generic anomaly score."""
    from infra.drafting.profile_draft import draft
    from schemas.errors import ProfileError

    made = draft(file, name)
    target = output or Path(f"{made.profile.name}.toml")
    if target.exists() and not force:
        raise ProfileError(f"{target} exists: give another name with -o, or --force to replace it")
    target.write_text(made.text, encoding="utf-8")
    if as_json:
        said = {"skipped": dict(made.skipped), "unusual": dict(made.unusual)}
        show_json({"profile": str(target), "name": made.profile.name, **said})
    else:
        show_text(_summary(file, target, made))


def _summary(file: Path, target: Path, made: Draft) -> str:
    names, rate_hz = ", ".join(made.profile.channel_names), made.profile.sampling.rate_hz
    skipped = [f"  left out: {name.strip() or '(no name)'}: {why}" for name, why in made.skipped.items()]
    unusual = made.unusual.items()
    return "\n".join(
        [
            f"{target}: {count(len(made.profile.channels), 'channel')} ({names}), {rate_hz:.6g} Hz",
            *skipped,
            *(f"  {name}: {count(n, 'value')} far from the rest: fault or nonsense?" for name, n in unusual),
            f"Edit it, or run: edgeloop replay {file} --profile {target}",
        ]
    )

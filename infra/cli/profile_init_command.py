"""`edgeloop profile init`: a first profile from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.console import AsJson, show_json, show_text
from infra.cli.profile_command import family

if TYPE_CHECKING:
    from infra.drafting.profile_draft import Draft


def register(app: typer.Typer) -> None:
    """Join the `profile` family."""
    family(app).command("init")(init)


def init(
    file: Annotated[Path, typer.Argument(help="CSV file with a header line.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; default: <name>.toml here.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Profile name; default: the file's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
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
        show_json({"profile": str(target), "name": made.profile.name, "skipped": dict(made.skipped)})
    else:
        show_text(_summary(file, target, made))


def _summary(file: Path, target: Path, made: Draft) -> str:
    profile = made.profile
    channels = ", ".join(profile.channel_names)
    skipped = [f"  not taken: {name.strip() or '(no name)'}: {why}" for name, why in made.skipped.items()]
    return "\n".join(
        [
            f"{target}: {len(profile.channels)} channels ({channels}), {profile.sampling.rate_hz:.6g} Hz",
            *skipped,
            f"Edit it, or run: edgeloop replay {file} --profile {target}",
        ]
    )

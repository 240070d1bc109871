"""`edgeloop model train` and `edgeloop model cancel`: training runs by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.app import session, warn_of_troubles
from infra.cli.console import AsJson, show_json, show_text
from infra.cli.model_command import FAMILY


@FAMILY.command()
def train(
    ctx: typer.Context,
    family: Annotated[
        str, typer.Argument(metavar="[FAMILY]", help="Model family, such as machine; or give --profile.")
    ] = "",
    profile: Annotated[str, typer.Option(help="Train what this profile runs: a name or a TOML file.")] = "",
    kind: Annotated[
        str, typer.Option(help="anomaly or classifier; default: what the data allow.", show_default=False)
    ] = "",
    reason: Annotated[str, typer.Option(help="Kept in the lineage.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of a classifier's trees.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Request a training run on the newest data, with or without a drift; the gates still decide."""
    from infra.fleet_client import FleetClient
    from infra.stack.model_settings import model_settings
    from schemas.profile_file import find_profile

    if not family and not profile:
        raise typer.BadParameter("give a model family, or --profile")
    if Path(profile).is_file():
        profile = find_profile(profile).name
    with FleetClient(model_settings(session(ctx).settings()), "operator") as client:
        made = client.train(family, reason, kind, seed, profile)
    warn_of_troubles(session(ctx).settings())
    if as_json:
        show_json(made)
    else:
        show_text(f"run {made['run_id']} is requested; `edgeloop drift list` shows its progress")


@FAMILY.command()
def cancel(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A training run that has not ended.")],
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "",
    as_json: AsJson = False,
) -> None:
    """Cancel a training run, whatever it waits for; a model that it has made already is not touched."""
    from infra.fleet_client import FleetClient
    from infra.stack.model_settings import model_settings

    with FleetClient(model_settings(session(ctx).settings()), "operator") as client:
        done = client.cancel_run(run, reason)
    if as_json:
        show_json(done)
    else:
        show_text(f"run {done['run_id']} is {done['state']}; it was {done['was']}")

"""`edgeloop config …`: configurations that the cloud computes for groups, and what devices decide by."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from infra.cli.app import session, warn_of_troubles
from infra.cli.console import AsJson, show_json, show_table, show_text
from infra.cli.model_session import look_up, service_settings
from infra.cli.table_view import moment
from infra.printing import size

FAMILY = typer.Typer(help="Configurations: compute, list, show.", no_args_is_help=True)
"""The command family."""

_MOST_SHOWN = 40
"""Most rows of a table of parameters."""


def register(app: typer.Typer) -> None:
    """Add the family."""
    app.add_typer(FAMILY, name="config")


@FAMILY.command("list")
def list_configs(
    ctx: typer.Context,
    family: Annotated[str, typer.Argument(metavar="[FAMILY]", help="Only this family.")] = "",
    as_json: AsJson = False,
) -> None:
    """List every configuration, and what came of the last computation of each family and group."""
    from model_service import model_catalog

    found = look_up(ctx, lambda connection: model_catalog.configs(connection, family))
    attempts = look_up(ctx, model_catalog.config_attempts)
    attempts = [a for a in attempts if family in ("", a["family"])]
    if as_json:
        show_json({"configs": found, "attempts": attempts})
        return
    columns = ["version", "group", "state", "valid from", "size>", "against", "cut>", "created", "why…"]
    show_table("", columns, [_listed(facts) for facts in found])
    rows = [[a["family"], a["group"], moment(a["at"]) if a["at"] else "", a["says"]] for a in attempts]
    show_table("last computations", ["family", "group", "at", "…"], rows)


@FAMILY.command()
def show(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="As `edgeloop config list` prints it.")],
    as_json: AsJson = False,
) -> None:
    """Show one configuration: its manifest and its parameters; gates: `edgeloop model gates VERSION`."""
    from model_service import bundle_store, model_catalog

    facts = look_up(ctx, lambda connection: model_catalog.model(connection, version))
    bundle = bundle_store.config_of(service_settings(ctx).artifacts, facts["sha256"], version)
    if as_json:
        show_json({**facts, "parameters": bundle.values})
        return
    manifest = bundle.manifest
    shown = {
        "state": ": ".join(filter(None, (facts["state"], facts["detail"]))),
        "group": f"{manifest.group}, profile {manifest.profile}, by {manifest.unit}",
        "valid from": f"{manifest.valid_from:%Y-%m-%d %H:%M:%S} UTC, {manifest.lead_s:g} s after a document",
        "computed": f"{manifest.trainer}, cut {manifest.lineage.cut}, {manifest.lineage.devices} devices",
        "against": manifest.lineage.champion or "none",
        "sha256": facts["sha256"],
    }
    show_table(version, ["", "…"], [[name, value] for name, value in shown.items()])
    rows = [row for spec in manifest.parameters for row in _values(spec, bundle.values[spec.name])]
    show_table("", ["parameter", "unit", "bounds", "value…"], rows[:_MOST_SHOWN])
    if len(rows) > _MOST_SHOWN:
        show_text(f"{len(rows) - _MOST_SHOWN} more rows: --json shows them")


@FAMILY.command()
def build(
    ctx: typer.Context,
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="As the profile's `[[configs]]` names it.")],
    profile: Annotated[str, typer.Option(help="Only for devices of this profile.")] = "",
    as_json: AsJson = False,
) -> None:
    """Have a configuration computed now, due or not, for every group that runs it; the gates still decide."""
    from infra.fleet_client import FleetClient

    with FleetClient(service_settings(ctx), "operator") as client:
        made = client.train(family, kind="config", profile=profile)
    warn_of_troubles(session(ctx).settings())
    if as_json:
        show_json(made)
    else:
        show_text(f"requested for {', '.join(made['groups'])}; `edgeloop config list` shows what comes of it")


def _listed(facts: dict[str, Any]) -> list[Any]:
    return [
        facts["version"],
        facts["group"],
        facts["state"],
        moment(facts["valid_from"]),
        size(facts["bytes"]),
        facts["champion"],
        facts["cut"],
        moment(facts["created"]),
        facts["detail"],
    ]


def _values(spec: Any, value: Any) -> list[list[str]]:
    bounds = f"{spec.min:g} to {spec.max:g}"
    named = (
        {f"{spec.name} of {d}": v for d, v in value.items()} if spec.each == "device" else {spec.name: value}
    )
    return [[name, spec.unit, bounds, str(table)] for name, table in named.items()]

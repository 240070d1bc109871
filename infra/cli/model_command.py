"""`edgeloop model …`: the models, what the gates measured on them, and which data they come from."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from infra.cli.console import AsJson, show_json, show_table, show_text
from infra.cli.model_session import look_up, service_settings
from infra.cli.table_view import moment
from infra.printing import count, number, size

FAMILY = typer.Typer(help="Models: train, list, judge, trace.", no_args_is_help=True)
"""The command family; other modules add commands to it."""

Version = Annotated[str, typer.Argument(metavar="VERSION", help="As `edgeloop model list` prints it.")]
RowOption = Annotated[
    str,
    typer.Option(
        "--row",
        help="DEVICE:BOOT_ID:SEQ of a row: the models that it trained or tested.",
        show_default=False,
    ),
]
AlarmOption = Annotated[
    str,
    typer.Option(
        "--alarm",
        help="DEVICE:BOOT_ID:SEQ of an alarm: its model and training rows.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the family."""
    app.add_typer(FAMILY, name="model")


@FAMILY.command("list")
def list_models(
    ctx: typer.Context,
    family: Annotated[str, typer.Option(help="Only this model family.")] = "",
    as_json: AsJson = False,
) -> None:
    """List every version: factory models, candidates, refused ones with their reasons."""
    from model_service import model_catalog

    found = look_up(ctx, lambda connection: model_catalog.models(connection, family))
    if as_json:
        show_json(found)
        return
    columns = ["version", "state", "kind", "size>", "against", "run", "cut>", "created", "why…"]
    show_table("", columns, [_listed(facts) for facts in found])


@FAMILY.command()
def show(ctx: typer.Context, version: Version, as_json: AsJson = False) -> None:
    """Show one model: state, run, cause, training; ``--json`` adds its manifest without the long tables."""
    from model_service import model_catalog

    facts = look_up(ctx, lambda connection: model_catalog.model(connection, version))
    if as_json:
        show_json(facts)
        return
    run, training = facts["run"] or {}, facts["manifest"].get("training") or {}
    shown = {
        "state": _joined(facts["state"], facts["detail"]),
        "kind": facts["kind"],
        "against": facts["champion"],
        "run": _joined(run.get("run_id"), run.get("reason")),
        "cause": _joined(run.get("cause"), run.get("says")),
        "moved": ", ".join(run.get("moved") or ()),
        "trained on": _trained_on(training),
        "size": size(facts["bytes"]),
        "sha256": facts.get("sha256"),
        "created": moment(facts["created"]),
    }
    show_table(facts["version"], ["", "…"], [[name, value] for name, value in shown.items() if value])


@FAMILY.command()
def gates(ctx: typer.Context, version: Version, as_json: AsJson = False) -> None:
    """Show what each gate measured on a candidate, and against which bound."""
    from model_service import model_catalog

    found = look_up(ctx, lambda connection: model_catalog.verdicts(connection, version))
    if as_json:
        show_json(found)
        return
    rows = [
        [
            v["gate"],
            "passed" if v["passed"] else "REFUSED",
            v["value"],
            v["bound"],
            _interval(v),
            v["says"],
        ]
        for v in found
    ]
    show_table("", ["gate", "", "value>", "bound>", "95% interval", "in words…"], rows)


@FAMILY.command()
def lineage(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(metavar="[VERSION]", help="A model.", show_default=False)] = "",
    row: RowOption = "",
    alarm: AlarmOption = "",
    as_json: AsJson = False,
) -> None:
    """Trace a model or an alarm to its training rows, or a row to the models that it trained or tested."""
    if sum(map(bool, (version, row, alarm))) != 1:
        raise typer.BadParameter("give a VERSION, --row or --alarm: one of them")
    if row:
        _row_lineage(ctx, row, as_json=as_json)
    elif alarm:
        _alarm_lineage(ctx, alarm, as_json=as_json)
    else:
        _show_lineage(_model_lineage(ctx, version), as_json=as_json)


def _model_lineage(ctx: typer.Context, version: str) -> dict[str, Any]:
    from infra.model_lineage import rows_behind
    from model_service import model_catalog

    facts = look_up(ctx, lambda connection: model_catalog.model(connection, version))
    parts = rows_behind(service_settings(ctx).lake_root, version) if facts["run"] else []
    return {**facts, "rows": parts}


def _show_lineage(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    stated, run = found["manifest"].get("lineage"), found["run"] or {}
    if stated is None:
        show_text(
            f"{found['version']} ships with every device: built by {found['manifest']['training'] or 'hand'}"
        )
        return
    shown = {
        "run": _joined(stated["run_id"], run.get("reason")),
        "cause": _joined(run.get("cause"), run.get("says")),
        "drift verdicts": ", ".join(stated["verdicts"]),
        "cut": _joined(stated["cut"], f"pinned as {stated['pin']}"),
        "known at": moment(stated["known_at"]),
        "champion": stated["champion"],
        "code": stated["code"],
    }
    show_table(found["version"], ["", "…"], [[name, value] for name, value in shown.items() if value])
    show_text("")
    columns = ["part", "rows>", "effective>", "devices>", "labelled>", "from", "to"]
    rows = [
        [
            part["part"],
            count(part["rows"]),
            part["effective_rows"],
            count(part["devices"]),
            count(part["labelled"]),
            part["event_from"],
            part["event_to"],
        ]
        for part in found["rows"]
    ]
    show_table("", columns, rows)


def _row_lineage(ctx: typer.Context, text: str, *, as_json: bool) -> None:
    from infra.model_lineage import RowId, models_of_row

    found = models_of_row(service_settings(ctx).lake_root, RowId.parse(text))
    if as_json:
        show_json(found)
    elif not found:
        show_text(f"{text} trained or tested no model")
    else:
        columns = ["model", "run", "part", "weight>", "label", "cut>", "scored by", "score>"]
        names = ("model_version", "run_id", "part", "weight", "label", "cut", "scored_by", "score")
        show_table("", columns, [[row[name] for name in names] for row in found])


def _alarm_lineage(ctx: typer.Context, text: str, *, as_json: bool) -> None:
    from infra.model_lineage import RowId, model_of_alarm

    raised = model_of_alarm(service_settings(ctx).lake_root, RowId.parse(text))
    found = _model_lineage(ctx, raised["model_version"])
    if as_json:
        show_json({"alarm": raised, "model": found})
        return
    show_text(
        f"{text}: {raised['action']} at {moment(raised['event_time'])}, score "
        f"{number(raised['score']) or 'none'}, by {raised['model_version']}"
    )
    _show_lineage(found, as_json=False)


def _listed(facts: dict[str, Any]) -> list[object]:
    shown = {**facts, "bytes": size(facts["bytes"]), "created": moment(facts["created"])}
    names = ("version", "state", "kind", "bytes", "champion", "run_id", "cut", "created", "detail")
    return [shown[name] for name in names]


def _trained_on(training: dict[str, Any]) -> str:
    windows, devices = training.get("windows"), training.get("devices")
    return f"{count(windows, 'window')} of {count(devices, 'device')}" if windows and devices else ""


def _interval(verdict: dict[str, Any]) -> str:
    low, high = verdict["low"], verdict["high"]
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def _joined(*parts: object) -> str:
    return ": ".join(str(part) for part in parts if part not in (None, ""))

"""`edgeloop drift …`: drift verdicts, the training runs for them, and decisions on waiting runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.announce_command import announcements, expect, withdraw
from infra.cli.app import session, warn_of_troubles
from infra.cli.console import AsJson, show_json, show_table, show_text
from infra.printing import count
from infra.settings import StackSettings
from schemas.drift_vocabulary import drift_kind

if TYPE_CHECKING:
    from model_service import TrainingRun

_VERDICT = ("detected", "onset", "cohort", "feature", "statistic", "kind", "size", "event_id", "run_id")
_RUN = ("run_id", "state", "reason", "cause", "onset", "version", "says")
_CHANGE = ("change_id", "profile", "state", "start", "end", "moves", "by", "reason")
_COHORT = (
    "cohort",
    "watched",
    "warming_up",
    "baseline_devices",
    "not_compared",
    "not_compared_windows",
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(help="Drift: verdicts, causes, decisions.", no_args_is_help=True)
    family.command("list")(list_)
    family.command()(ack)
    family.command()(expect)
    family.command()(withdraw)
    app.add_typer(family, name="drift")


def list_(
    ctx: typer.Context,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many of the newest.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest drift verdicts, and the training runs that they led to."""
    from infra.drift_report import watch_report  # loads river

    settings = session(ctx).settings()
    runs = _runs(settings)
    verdicts = _verdicts(settings, last, runs)
    watch = watch_report(settings.lake_root)
    announced = announcements(settings)
    if as_json:
        show_json({"verdicts": verdicts, "runs": runs, "announced": announced, **watch._asdict()})
        return
    columns = ["detected", "onset", "cohort", "feature", "of", "kind", "size>", "event", "run"]
    show_table("verdicts", columns, [[v[name] for name in _VERDICT] for v in verdicts])
    show_text("")
    columns = ["run", "state", "reason", "cause", "onset", "version", "why…"]
    show_table("training runs", columns, [[r[name] for name in _RUN] for r in runs])
    if announced:
        show_text("")
        columns = ["announced change", "profile", "state", "from", "until", "moves", "by", "reason…"]
        show_table(
            "announced changes", columns, [[_told(c.get(name)) for name in _CHANGE] for c in announced]
        )
    show_text("")
    columns = ["cohort", "features", "warming up>", "devices>", "not compared>", "since windows>"]
    show_table("watched cohorts", columns, [[c[name] for name in _COHORT] for c in watch.cohorts])
    if partial := watch.counters.get("partial_windows", 0):
        windows = count(watch.counters["windows"], "window")
        show_text(
            f"of {windows}, {partial} had other devices than usual and were not compared in every feature"
        )


def ack(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A waiting run, or the event id of a verdict.")],
    retrain: Annotated[bool, typer.Option("--retrain", help="It is a new normal: train on it.")] = False,
    dismiss: Annotated[bool, typer.Option("--dismiss", help="It is not a new normal: do not train.")] = False,
    reason: Annotated[str, typer.Option(help="Kept in the lineage.")] = "",
    as_json: AsJson = False,
) -> None:
    """Decide on a drift whose cause the evidence leaves open. Role: approver."""
    from infra.fleet_client import FleetClient
    from infra.stack.model_settings import model_settings

    if retrain == dismiss:
        raise typer.BadParameter("give --retrain or --dismiss")
    with FleetClient(model_settings(session(ctx).settings()), "approver") as client:
        decided = client.ack_drift(run, retrain=retrain, reason=reason)
    warn_of_troubles(session(ctx).settings())
    if as_json:
        show_json(decided)
    else:
        show_text(f"run {decided['run_id']} is {decided['state']}")


def _told(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list) else value


def _verdicts(settings: StackSettings, last: int, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from feature_store.sql import query

    run_of = {event_id: run["run_id"] for run in runs for event_id in run["verdicts"]}
    columns = ", ".join(name for name in _VERDICT if name not in ("run_id", "size"))
    found = query(
        settings.lake_root,
        f"SELECT {columns}, round(size, 1) AS size, suggested_action FROM drift "  # noqa: S608  (fixed column names)
        f"ORDER BY detected DESC, event_id LIMIT {last}",
    )
    return [{**row, "run_id": run_of.get(row["event_id"])} for row in found.to_pylist()]


def _runs(settings: StackSettings) -> list[dict[str, Any]]:
    """Training runs of the registry; none if no model service ever ran here."""
    from infra.registry_reader import read_registry
    from infra.stack.model_settings import model_settings
    from model_service import run_store

    models = model_settings(settings)
    runs = read_registry(models, run_store.every_run) if models.has_registry else []
    return [{**_described(run), **_behind(run, runs)} for run in runs]


def _behind(run: TrainingRun, runs: list[TrainingRun]) -> dict[str, Any]:
    """What a run says that waits for an earlier one of its family: the trainer works on one at a time."""
    ahead = next((r for r in runs if r.family == run.family and r.is_open), run)
    if not run.is_open or ahead.run_id == run.run_id:
        return {}
    return {"says": f"waits for run {ahead.run_id}, which is {ahead.state}: `edgeloop model cancel` ends it"}


def _described(run: TrainingRun) -> dict[str, Any]:
    cause = run.cause_json() or {}
    return {
        "run_id": run.run_id,
        "family": run.family,
        "state": run.state,
        "reason": run.reason,
        "cause": drift_kind(cause["kind"]) if "kind" in cause else None,
        "says": run.detail or cause.get("says"),
        "onset": run.onset,
        "version": run.version,
        "cut": run.cut,
        "verdicts": list(run.verdicts),
        **{name: cause.get(name) for name in ("evidence", "moved", "faulty", "excluded")},
        "requested_by": run.requested_by,
        "created_at": run.created_at,
    }

"""`edgeloop rollout …`: how a model reaches a group, and how the group returns to its baseline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.app import session, warn_of_troubles
from infra.cli.console import AsJson, show_json, show_table, show_text, show_warning
from infra.cli.model_session import look_up, service_settings
from infra.cli.outcome_view import outcome_rows
from infra.cli.table_view import moment
from infra.printing import count, share
from schemas.errors import RegistryError

if TYPE_CHECKING:
    from sqlalchemy import Connection


Id = Annotated[str, typer.Argument(metavar="ID")]
Reason = Annotated[str, typer.Option(help="Kept in the history.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(help="Rollouts: start, inspect, pause, abort, take back.", no_args_is_help=True)
    for command, name in (
        (start, "start"),
        (status, "status"),
        (pause, "pause"),
        (resume, "resume"),
        (abort, "abort"),
        (back, "back"),
        (history, "history"),
    ):
        family.command(name)(command)
    app.add_typer(family, name="rollout")


def start(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A published model.")],
    group: Annotated[str, typer.Option(help="Rollout group.")] = "default",
    security: Annotated[
        bool, typer.Option("--security", help="Skip soak and quality guards, never device checks.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Roll a published model out to a group; a rollout already running there ends at its next safe point."""
    from infra.fleet_client import FleetClient

    with FleetClient(service_settings(ctx), "operator") as client:
        made = client.start_rollout(version, group, security=security)
    warn_of_troubles(session(ctx).settings())
    warnings = _warnings(ctx, group, version)
    for line in warnings:
        show_warning(line)
    made |= {"warnings": warnings}
    _show_result(made, f"{made['rollout_id']}: {version} for {group}; `edgeloop rollout status`", as_json)


def pause(ctx: typer.Context, rollout_id: Id, reason: Reason = "", as_json: AsJson = False) -> None:
    """Pause before the next phase; devices that were offered the model may still take it."""
    _control(ctx, rollout_id, "pause", reason, as_json)


def resume(ctx: typer.Context, rollout_id: Id, reason: Reason = "", as_json: AsJson = False) -> None:
    """Resume. After a pause for lack of evidence, this needs an approver."""
    _control(ctx, rollout_id, "resume", reason, as_json)


def abort(
    ctx: typer.Context,
    rollout_id: Id,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")],
    as_json: AsJson = False,
) -> None:
    """Abort: the group returns to its baseline by a signed channel, never below the policy's floor."""
    _control(ctx, rollout_id, "abort", reason, as_json)


def back(
    ctx: typer.Context,
    group: Annotated[str, typer.Option(help="Rollout group.")] = "default",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Take the group's newest completed rollout back: devices return to the set before it.

    Repeat it to go further back, to the factory's set at last. Never below the policy's floor.
    """
    from model_service import rollout_summary

    found = look_up(ctx, lambda connection: rollout_summary.history(connection, group, 1000))
    models = (r for r in found if r["kind"] == "model")  # a profile goes back by another push
    completed = [r for r in models if r["state"] in ("completed", "completed_partial")]
    if not completed:
        raise RegistryError(f"no rollout of group {group} is in force: its devices run the factory's set")
    newest = max(completed, key=lambda r: float(r["updated_at"]))
    _control(ctx, newest["rollout_id"], "back", reason, as_json)


def status(
    ctx: typer.Context,
    rollout_id: Annotated[
        str, typer.Argument(metavar="[ID]", help="Default: the newest, of the fleet and not of the probes.")
    ] = "",
    group: Annotated[str, typer.Option(help="Of this group; default: of all.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show a rollout: phase, devices, guard, what it waits for, what comes next."""
    found = _summary(ctx, rollout_id, group)
    if as_json:
        show_json(found)
        return
    show_table("", ["rollout", f"{found['rollout_id']}…"], _head_rows(found))
    numbers = found["numbers"]
    if numbers is not None:
        show_text("")
        show_table("devices", ["treated>", *(f"{k}>" for k in _COUNTS)], [_counts(numbers)])
        show_text("")
        show_table("guard", ["what", "value", "meaning…"], _guard_rows(numbers, found))
        if slices := _slice_rows(numbers):
            show_text("")
            show_table("slices", ["slice", "devices>", "worst", "p>", "what it shows…"], slices)
        if without := found.get("trials", {}).get("not_on_faults"):
            show_text("")
            show_table("committed without a trial on faults", ["device", "why…"], list(without.items()))
        if found.get("unfit"):
            show_text("")
            show_table("cannot take it, not offered", ["device", "why…"], list(found["unfit"].items()))
        if numbers["failures"]:
            show_text("")
            show_table("failed", ["device", "why…"], list(numbers["failures"].items()))
    if found["outcome"]:
        show_text("")
        show_table("outcome", ["what", "value", "meaning…"], outcome_rows(found["outcome"]))
    if found["channels"]:
        show_text("")
        columns = ["seq>", "ring", "for", "treats", "state", "detail…"]
        show_table("channels", columns, [_channel_row(c) for c in found["channels"]])


def history(
    ctx: typer.Context,
    group: Annotated[str, typer.Option(help="Of this group; default: of all.")] = "",
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many of the newest.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List rollouts, newest first, and how they ended."""
    from model_service import rollout_summary

    found = look_up(ctx, lambda connection: rollout_summary.history(connection, group, last))
    if as_json:
        show_json(found)
        return
    columns = ["rollout", "group", "version", "baseline", "state", "phase>", "by", "updated", "why…"]
    rows = [
        [
            r["rollout_id"],
            r["group"],
            r["version"],
            r["baseline"],
            _state(r),
            f"{r['phase']}/{r['last_phase']}",
            r["created_by"],
            moment(r["updated_at"]),
            (r["paused"] or {}).get("reason") or r["ended_because"],
        ]
        for r in found
    ]
    show_table("", columns, rows)


def _state(found: dict[str, Any]) -> str:
    """State of a rollout; of a draft, whether it waits for another one."""
    return f"queued behind {found['queued_behind']}" if found.get("queued_behind") else found["state"]


_COUNTS = ("committed", "trying", "failed", "silent", "deferred", "unreached")


def _head_rows(found: dict[str, Any]) -> list[list[object]]:
    paused = found["paused"]
    rows: list[list[object]] = [
        [
            found["kind"],
            f"{found['version']} for group {found['group']}; baseline {found['baseline'] or 'not fixed yet'}",
        ],
        ["state", f"{_state(found)}{' (security)' if found['security'] else ''}"],
        ["phase", f"{found['phase']} of {found['last_phase']}: {found.get('phase_name', 'not begun')}"],
    ]
    if paused is not None:
        rows.append(["waits for", f"{paused['needs']}: {paused['reason']}"])
    if found["ended_because"]:
        rows.append(["because", found["ended_because"]])
    if found["next"]:
        rows.append(["next", found["next"]])
    return rows


def _counts(numbers: dict[str, Any]) -> list[object]:
    return [count(numbers[name]) for name in ("treated", *_COUNTS)]


def _guard_rows(numbers: dict[str, Any], found: dict[str, Any]) -> list[list[object]]:
    if found["kind"] == "config":
        judge = found["judge"] or {"answer": "waits", "text": "the instant of the newest phase is not over"}
        return [["judge", judge["answer"], judge["text"]]]
    n = numbers["guard_devices"]
    if not n:
        return [["paired shadow", numbers["guard"], numbers["guard_text"]]]
    return [
        ["paired shadow", numbers["guard"], f"old and new on the same rows of {count(n, 'device')}"],
        [
            "alarm gain",
            share(numbers["gain"], signed=True),
            f"mean over devices; allowed {share(numbers['bound'], signed=True)} of windows",
        ],
        [
            "at most",
            share(numbers["high"], signed=True),
            "upper end of the interval now: the rollout goes on when it is within what is allowed",
        ],
        [
            "at least",
            share(numbers["low"], signed=True),
            "lower end of the interval over all checks: the rollout aborts when it is above what is allowed",
        ],
        [
            "unseen",
            share(numbers["unseen"]),
            "of all devices could be worse without one of these showing it (95% confidence)",
        ],
        *[[m["measure"], m["answer"], m["text"]] for m in numbers["paired"]["measures"]],
        *_holdout_rows(numbers["holdout"]),
    ]


def _holdout_rows(holdout: dict[str, Any]) -> list[list[object]]:
    """What treated devices and those held out have in common, where both can be compared."""
    what = {"silence": "send no windows any more", "ends": "had a process end without order"}
    return [
        [
            name,
            f"{n['treated_hit']} of {n['treated']}",
            f"treated devices {what[name]}; of {n['held']} held out {n['held_hit']}",
        ]
        for name, n in holdout.items()
        if n["treated"] and n["held"]
    ]


def _slice_rows(numbers: dict[str, Any]) -> list[list[object]]:
    return [
        [
            f"{s['dimension']} {s['slice'] or 'unknown'}",
            s["devices"],
            s["measure"],
            f"{s['p']:.2g}",
            s["text"],
        ]
        for s in numbers["paired"]["slices"]
    ]


def _channel_row(channel: dict[str, Any]) -> list[object]:
    purpose = "return to baseline" if channel["purpose"] == "rollback" else f"phase {channel['phase']}"
    # A canary document draws its share from the signed pool, a broad one from the whole group.
    whole = "pool" if channel["ring"] == "canary" else "group"
    treats = f"{share(channel['share'])} of the {whole}"
    return [channel["seq"], channel["ring"], purpose, treats, channel["state"], channel["detail"]]


def _control(ctx: typer.Context, rollout_id: str, action: str, reason: str, as_json: bool) -> None:
    from infra.fleet_client import FleetClient

    role = "approver" if action == "resume" and _needs_approver(ctx, rollout_id) else "operator"
    with FleetClient(service_settings(ctx), role) as client:
        done = client.control_rollout(rollout_id, action, reason)
    _show_result(done, f"{rollout_id} is {done['state']}; `edgeloop rollout status {rollout_id}`", as_json)


def _show_result(outcome: dict[str, Any], line: str, as_json: bool) -> None:
    if as_json:
        show_json(outcome)
    else:
        show_text(line)


def _needs_approver(ctx: typer.Context, rollout_id: str) -> bool:
    from model_service import rollout_store

    record = look_up(ctx, lambda connection: rollout_store.load(connection, rollout_id))
    return record.pause is not None and record.pause.needs == "approver"


def _summary(ctx: typer.Context, rollout_id: str, group: str) -> dict[str, Any]:
    """The rollout, from the registry and the signed policy as they are now.

    Raises:
        RegistryError: There is no rollout.
    """
    from feature_store.lake import Lake
    from infra.stack.model_processes import PROBES
    from model_service import KnownProfiles, ceremony, rollout_store, rollout_summary
    from schemas.errors import RegistryError

    settings = service_settings(ctx)
    profiles = KnownProfiles(Lake(settings.lake_root))

    def summarise(connection: Connection) -> dict[str, Any]:
        chosen = rollout_id or rollout_summary.newest(connection, group, PROBES)
        if chosen is None:
            raise RegistryError("there is no rollout yet: `edgeloop rollout start VERSION --group GROUP`")
        record = rollout_store.load(connection, chosen)
        policy = ceremony.open_repository(settings).policy()
        judged = rollout_summary.judged_by_lake(settings.lake_root, profiles)
        return rollout_summary.summary(connection, record, policy, profiles.family, time.time(), judged)

    found: dict[str, Any] = look_up(ctx, summarise)
    return found


def _warnings(ctx: typer.Context, group: str, version: str) -> list[str]:
    """What a person should know who starts a rollout for the group."""
    from feature_store.lake import Lake
    from model_service import KnownProfiles, ceremony, rollout_summary
    from schemas.model_version import ModelVersion

    settings = service_settings(ctx)
    profiles, family = KnownProfiles(Lake(settings.lake_root)), ModelVersion.parse(version).family
    policy = ceremony.open_repository(settings).policy()
    lacking = look_up(ctx, lambda c: rollout_summary.lacking_pool(c, group, family, policy, profiles.family))
    return [lacking] if lacking else []

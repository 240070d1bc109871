"""`edgeloop excerpt …`: ask for a span of raw samples, see what became of it, revoke, choose who may read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_progress, show_table, show_text
from infra.cli.model_session import service_settings
from infra.cli.table_view import moment
from infra.printing import cell, count

if TYPE_CHECKING:
    from infra.fleet_client import FleetClient

Reason = Annotated[str, typer.Option(help="Why, kept in the history.")]
PermitId = Annotated[str, typer.Argument(metavar="PERMIT")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(
        help="Spans of raw samples that leave a device: by a permit and the wearer's consent.",
        no_args_is_help=True,
    )
    for command, name in (
        (request, "request"),
        (list_permits, "list"),
        (show, "show"),
        (revoke, "revoke"),
        (readers, "readers"),
    ):
        family.command(name)(command)
    app.add_typer(family, name="excerpt")


def request(  # noqa: PLR0913, PLR0917  (one option each)
    ctx: typer.Context,
    device_id: Annotated[str, typer.Argument(metavar="DEVICE")],
    purpose: Annotated[str, typer.Option(help="One of the purposes of its profile.", show_default=False)],
    start: Annotated[
        datetime,
        typer.Option(
            "--from",
            help="First instant, UTC.",
            formats=["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S"],
            show_default=False,
        ),
    ],
    seconds: Annotated[float, typer.Option(min=0.001, help="Length of the span.", show_default=False)],
    channel: Annotated[
        list[str] | None, typer.Option(help="A channel; once each. None: all that may leave.")
    ] = None,
    valid_s: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds until it expires.", show_default="longest"),
    ] = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Permit one device to send one span of raw samples, once; signed with this machine's approver key.

    The device follows it only if it still holds the whole span, its wearer has consented on the device, and
    its profile's limits allow it; `edgeloop excerpt show` says what became of it.
    """
    from feature_store.lake import Lake
    from infra.excerpt_request import ExcerptWish, permit_of, profile_of_device, signed_by_approver

    settings = service_settings(ctx)
    profile = profile_of_device(Lake.open(settings.lake_root), device_id)
    wish = ExcerptWish(device_id, purpose, start, seconds, tuple(channel or ()), valid_s)
    signed = signed_by_approver(permit_of(wish, profile, datetime.now(UTC)), settings)
    with _client(ctx, "approver") as client:
        made = client.grant_permit(signed.to_bytes(), reason)
    if as_json:
        show_json(made)
        return
    show_text(f"permit {made['permit_id']} for {device_id}: it fetches it at its next check")
    if made.get("consent") and not made["consent"]["given"]:
        show_progress("its wearer has not consented, as far as is known: the device will refuse it")


def list_permits(
    ctx: typer.Context,
    device: Annotated[str, typer.Option(help="Only this device.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Newest so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List permits, newest first, and what became of each."""
    found = _permits(ctx, device, "", limit)
    if as_json:
        show_json(found)
        return
    columns = ["permit", "device", "purpose", "from", "seconds>", "approver", "state", "samples>", "why…"]
    show_table("", columns, [_row(permit) for permit in found])


def show(ctx: typer.Context, permit_id: PermitId, as_json: AsJson = False) -> None:
    """Show one permit: what it allows, its state, and why it was refused."""
    [found] = _permits(ctx, "", permit_id, 1)
    if as_json:
        show_json(found)
        return
    for name, value in found.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        show_text(f"{name:<12} {cell(shown)}")


def revoke(ctx: typer.Context, permit_id: PermitId, reason: Reason = "", as_json: AsJson = False) -> None:
    """Revoke a permit that the device has not claimed yet; later only consent, on the device, can stop it."""
    with _client(ctx, "approver") as client:
        done = client.revoke_permit(permit_id, reason)
    if as_json:
        show_json(done)
    else:
        show_text(f"permit {permit_id} is revoked: no device will be granted it")


def readers(
    ctx: typer.Context,
    group: Annotated[
        str, typer.Argument(metavar="[GROUP]", help="Group of this machine; empty: only the owner.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Let one group read the tables of raw samples, or nobody but their owner. The data group cannot."""
    from infra.excerpt_readers import set_readers

    folders = set_readers(session(ctx).settings().lake_root, group)
    if as_json:
        show_json({"group": group, "tables": [str(folder) for folder in folders]})
        return
    who = f"group {group}" if group else "only their owner"
    show_text(f"{count(len(folders), 'table')} of raw samples: {who} may read {'them' if folders else 'any'}")


def _permits(ctx: typer.Context, device: str, permit_id: str, limit: int) -> list[Any]:
    """The service's answer; where it does not run, what the registry holds."""
    from infra.registry_reader import read_registry
    from model_service import fleet_reads
    from schemas.errors import ServiceUnavailableError

    try:
        with _client(ctx, "viewer") as client:
            return client.permits(device, permit_id, limit)
    except ServiceUnavailableError:
        found = read_registry(
            service_settings(ctx), lambda c: fleet_reads.list_permits(c, device, permit_id, limit)
        )
        show_progress("the model service does not answer: this is what the registry holds")
        return found


def _row(permit: dict[str, Any]) -> list[Any]:
    start, end = (datetime.fromisoformat(permit[name]) for name in ("start", "end"))
    why = ": ".join(filter(None, (permit["refusal"], permit["detail"])))
    return [
        permit["permit_id"],
        permit["device_id"],
        permit["purpose"],
        moment(permit["start"]),
        f"{(end - start).total_seconds():g}",
        permit["approver"],
        permit["state"],
        count(permit["samples"]),
        why,
    ]


def _client(ctx: typer.Context, role: str) -> FleetClient:
    from infra.fleet_client import FleetClient

    return FleetClient(service_settings(ctx), role)

"""`edgeloop fleet …`: devices, people, invitations, revocations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_progress, show_table, show_text
from infra.cli.model_session import service_settings
from infra.cli.table_view import moment
from infra.printing import count, span

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from sqlalchemy import Connection

    from infra.fleet_client import FleetClient
    from infra.invitation_list import InvitedDevice
    from model_service import DeviceNeeds, Invitation

DeviceId = Annotated[str, typer.Argument(metavar="DEVICE")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="File for the bundle.", show_default=False)
]
Site = Annotated[str, typer.Option(help="Site of the device.")]
ValidS = Annotated[
    int, typer.Option(min=0, help="Seconds until the token expires; 0: the service's default.")
]
Group = Annotated[str, typer.Option(help="Rollout group.")]


class _Contents(NamedTuple):
    """What a bundle holds beside addresses and token; ``needs``: None for a device of release 0.2."""

    families: list[str]
    needs: DeviceNeeds | None


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(
        help="Devices and people: who they are, what runs, who may enrol.", no_args_is_help=True
    )
    for command, name in (
        (devices, "devices"),
        (invite, "invite"),
        (invite_gateway, "invite-gateway"),
        (assign, "assign"),
        (tokens, "tokens"),
        (revoke, "revoke"),
        (people, "people"),
        (revoke_person, "revoke-person"),
    ):
        family.command(name)(command)
    app.add_typer(family, name="fleet")


def devices(
    ctx: typer.Context,
    group: Annotated[str, typer.Option(help="Only this rollout group.")] = "",
    as_json: AsJson = False,
) -> None:
    """List enrolled devices: state, models, attacks that they refused, last report."""
    found = _looked_up(
        ctx,
        "viewer",
        lambda client: client.devices(group),
        lambda c, reads: reads.list_devices(c, group, 0, None, {}),
    )
    if as_json:
        show_json(found)
        return
    columns = ["device", "group", "site", "hardware", "state", "result", "runs", "profile", "seq>"]
    columns += ["reported", "note…"]
    show_table("", columns, [_row(device) for device in found])


def invite(  # noqa: PLR0913, PLR0917  (one option each)
    ctx: typer.Context,
    device_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[DEVICE]", help="Its id; with --count, what the ids begin with.", show_default=False
        ),
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Profile that the device runs: a name or a TOML file.", show_default=False)
    ] = "",
    site: Site = "local",
    group: Group = "default",
    hardware: Annotated[str, typer.Option(help="Hardware class.")] = "simulated",
    valid_s: ValidS = 0,
    gateway: Annotated[str, typer.Option(help="Gateway that sends for the device.")] = "",
    output: Output = None,
    number: Annotated[
        int | None, typer.Option("--count", min=1, help="Invite so many: DEVICE-1, DEVICE-2, ….")
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(help="Invite the devices of a file: columns device_id, profile, site, group, …."),
    ] = None,
    release: Annotated[
        str,
        typer.Option(help="0.2: the bundle is for a device of that release, which knows no broker in it."),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make join bundles. Carry each to its device; it is secret until its token is used.

    A bundle names all that `edgeloop-edge run --join` needs: the service, the broker, the profile. With
    --count or --csv the output is a folder. A profile that the lake does not know yet is registered: without
    it, all that the device sends is refused.
    """
    from infra.invitation_list import InvitedDevice, listed, numbered

    usual = InvitedDevice(device_id or "", profile, site, group, hardware, gateway)
    if (device_id is None) == (csv is None) or (csv is not None and number is not None):
        raise typer.BadParameter("give a DEVICE, with or without --count, or --csv FILE")
    several = csv is not None or number is not None
    if several and output is None:
        raise typer.BadParameter("--count and --csv write files: name their folder with -o")
    one_by_one = [usual] if number is None else numbered(usual, number)
    invited = listed(csv, usual) if csv is not None else one_by_one
    if unprofiled := [one.device_id for one in invited if not one.profile]:
        raise typer.BadParameter(f"--profile: {unprofiled[0]} has none")
    old = release == "0.2" or release.startswith("0.2.")
    for one in invited:
        file = output / f"{one.device_id}.json" if several and output is not None else output
        _invite_one(ctx, one, valid_s, file, old=old, as_json=as_json)


def _invite_one(
    ctx: typer.Context, one: InvitedDevice, valid_s: int, output: Path | None, *, old: bool, as_json: bool
) -> None:
    from feature_store.lake import Lake
    from feature_store.lake_registry import ProfileRegistry
    from infra.stack.device_needs import device_needs, named_profile
    from model_service import Invitation

    registry = ProfileRegistry(Lake.open(service_settings(ctx).lake_root))
    found = named_profile(one.profile, registry)
    invitation = Invitation(one.device_id, found.name, one.site, one.group, one.hardware, one.gateway)
    made = _token(ctx, invitation, valid_s)
    if found.name not in registry.profiles():
        registry.register(found)
    needs = None if old else device_needs(session(ctx).settings(), found)
    _hand_out(ctx, invitation, _Contents([found.model.family], needs), made, output, as_json=as_json)


def invite_gateway(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    site: Annotated[str, typer.Option(help="Site of the gateway.")] = "local",
    valid_s: ValidS = 0,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Make a join bundle for a gateway, which sends for the devices assigned to it, with a key of its own.

    Devices behind it are invited and join like others: `invite DEVICE --gateway NAME`, or `assign`.
    """
    from infra.stack.device_needs import device_needs
    from model_service import invitation_of_gateway

    invitation = invitation_of_gateway(name, site)
    made = _token(ctx, invitation, valid_s)
    needs = device_needs(session(ctx).settings(), None)
    _hand_out(ctx, invitation, _Contents([], needs), made, output, as_json=as_json)


def assign(
    ctx: typer.Context,
    device_ids: Annotated[list[str], typer.Argument(metavar="DEVICE...")],
    gateway: Annotated[
        str, typer.Option(help="Gateway that sends for them; without it each sends for itself.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Have a gateway send for devices from now on, or each for itself.

    What a device has sensed before stays its earlier producer's: it sends out its spool itself.
    """
    from feature_store.device_registry import await_assigned
    from feature_store.lake import Lake

    with _client(ctx, "operator") as client:
        done = client.assign(device_ids, gateway)
    done["in_force"] = await_assigned(Lake.open(service_settings(ctx).lake_root), device_ids, gateway or None)
    if as_json:
        show_json(done)
        return
    sender = gateway or "each itself"
    show_text(f"{', '.join(device_ids)}: sent by {sender} from now on")
    if not done["in_force"]:
        show_progress("the lake does not know it yet: what comes before it does is refused")


def _token(ctx: typer.Context, invitation: Invitation, valid_s: int) -> dict[str, Any]:
    with _client(ctx, "operator") as client:
        return client.create_token(
            invitation.device_id,
            invitation.profile,
            site=invitation.site,
            group=invitation.group,
            hardware=invitation.hardware,
            valid_s=valid_s,
            gateway=invitation.gateway,
        )


def _hand_out(
    ctx: typer.Context,
    invitation: Invitation,
    contents: _Contents,
    made: dict[str, Any],
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print or write the join bundle around a token."""
    from model_service import join_bundle
    from schemas.durable import DISK
    from schemas.errors import StackError

    bundle = join_bundle(
        service_settings(ctx), invitation, contents.families, made["token"], needs=contents.needs
    )
    text, name = bundle.model_dump_json(indent=1), invitation.device_id
    if output is None:
        show_text(text)
        return
    try:
        DISK.make_folder(output.parent, private=True)
        DISK.write(output, f"{text}\n".encode(), private=True)
    except OSError as exc:
        raise StackError(f"cannot write the secret file {output}: {exc}") from exc
    if as_json:
        show_json({"device_id": name, "file": str(output), "valid_s": made["valid_s"]})
    else:
        show_progress(f"{output}: give it to {name} within {span(made['valid_s'])}, then remove it")


def tokens(
    ctx: typer.Context,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many of the newest.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List join tokens: for which device, until when, whether used."""
    found = _looked_up(
        ctx, "operator", lambda client: client.tokens(last), lambda c, reads: reads.list_tokens(c, last)
    )
    if as_json:
        show_json(found)
        return
    names = ("device_id", "group", "site", "hardware", "profile")
    times = ("created_at", "expires_at", "used_at")
    columns = ["device", *names[1:], "created", "expires", "used"]
    rows = [[*(token[n] for n in names), *(moment(token[t]) for t in times)] for token in found]
    show_table("", columns, rows)


def revoke(ctx: typer.Context, device_id: DeviceId, as_json: AsJson = False) -> None:
    """Refuse a device for ever: its certificates, its streams, its telemetry. This cannot be undone."""
    with _client(ctx, "operator") as client:
        done = client.revoke(device_id)
    if as_json:
        show_json(done)
    else:
        show_text(f"{device_id} is revoked")


def people(
    ctx: typer.Context,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many at most.")] = 200,
    as_json: AsJson = False,
) -> None:
    """List people's certificates: roles, serial, validity, whether revoked."""
    found = _looked_up(
        ctx, "viewer", lambda client: client.people(last), lambda c, reads: reads.list_people(c, last)
    )
    if as_json:
        show_json(found)
        return
    times = ("valid_from", "valid_until", "revoked_at")
    rows = [[p["name"], ", ".join(p["roles"]), p["serial"], *(moment(p[t]) for t in times)] for p in found]
    show_table("", ["name", "roles", "serial", "valid from", "valid until", "revoked"], rows)


def revoke_person(
    ctx: typer.Context,
    certificate: Annotated[
        str, typer.Argument(metavar="CERTIFICATE", help="Serial as `people` lists it, or a PEM file.")
    ],
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "",
    as_json: AsJson = False,
) -> None:
    """Refuse a person's certificate for ever. Role: approver. This cannot be undone."""
    file = Path(certificate)
    pem, serial = (file.read_bytes(), "") if file.is_file() else (b"", certificate)
    with _client(ctx, "approver") as client:
        done = client.revoke_certificate(serial, pem, reason)
    if as_json:
        show_json(done)
    else:
        show_text(f"the certificate {done['serial']} of {done['name']} is revoked")


def _profile(device: dict[str, Any]) -> str:
    """The profile that a device runs: with its version where it reports one, else as it joined."""
    state = device.get("profile_state")
    return f"{device['profile']}@{state['number']}" if state and state["number"] else str(device["profile"])


def _profile_note(device: dict[str, Any]) -> str:
    """What became of the version that its channel wants, where that is not what it runs."""
    state = device.get("profile_state")
    if not state or state["outcome"] in ("", "applied"):
        return ""
    why = ": ".join(part for part in (state["attack"], state["detail"]) if part)
    return f"profile {state['outcome']}{f' ({why})' if why else ''}"


def _row(device: dict[str, Any]) -> list[object]:
    runs = ", ".join(release["version"] for release in (device["installed"] or {}).values())
    notes = [
        "" if device["active"] else "revoked",
        f"behind {device['gateway']}" if device["gateway"] else "",
        f"refused: {device['attack']}" if device["attack"] else "",
        f"{count(device['cloned_reports'], 'report')} of a twin" if device["cloned_reports"] else "",
        _profile_note(device),
    ]
    return [
        device["device_id"],
        device["group"],
        device["site"],
        device["hardware"],
        device["state"],
        device["result"],
        runs,
        _profile(device),
        device["channel_seq"],
        moment(device["last_seen"]),
        ", ".join(filter(None, notes)),
    ]


def _looked_up(
    ctx: typer.Context,
    role: str,
    ask: Callable[[FleetClient], list[Any]],
    read: Callable[[Connection, ModuleType], list[Any]],
) -> list[Any]:
    """The service's answer; where it does not run, what the registry holds."""
    from infra.registry_reader import read_registry
    from model_service import fleet_reads
    from schemas.errors import ServiceUnavailableError

    try:
        with _client(ctx, role) as client:
            return ask(client)
    except ServiceUnavailableError:
        found = read_registry(service_settings(ctx), lambda connection: read(connection, fleet_reads))
        show_progress("the model service does not answer: this is what the registry holds")
        return found


def _client(ctx: typer.Context, role: str) -> FleetClient:
    from infra.fleet_client import FleetClient

    return FleetClient(service_settings(ctx), role)

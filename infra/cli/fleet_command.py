"""`edgeloop fleet …`: devices, people, invitations, revocations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, say, show_json, show_table, show_text

if TYPE_CHECKING:
    from infra.fleet_client import FleetClient
    from model_service import ModelSettings

DeviceId = Annotated[str, typer.Argument(metavar="DEVICE")]
Group = Annotated[str, typer.Option(help="Rollout group.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(
        help="Devices and people: who they are, what runs, who may join.", no_args_is_help=True
    )
    for command, name in (
        (devices, "devices"),
        (invite, "invite"),
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
    """Devices that joined: state, models, attacks they refused, when they last reported."""
    with _client(ctx, "viewer") as client:
        found = client.devices(group)
    if as_json:
        show_json(found)
        return
    columns = ["device", "group", "site", "hardware", "state", "result", "runs", "seq>", "seen", "note"]
    show_table("", columns, [_row(device) for device in found])


def invite(  # noqa: PLR0913, PLR0917  (one option each)
    ctx: typer.Context,
    device_id: DeviceId,
    profile: Annotated[str, typer.Option(help="Profile that the device runs: a name or a TOML file.")],
    site: Annotated[str, typer.Option(help="Where it stands.")] = "local",
    group: Group = "default",
    hardware: Annotated[str, typer.Option(help="Hardware class.")] = "simulated",
    valid_s: Annotated[int, typer.Option(min=0, help="Life of the token; 0: the service's.")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File for the bundle.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A join bundle for one device: carry it there, it is secret until its token is used."""
    from model_service import Invitation, join_bundle
    from schemas.durable import DISK
    from schemas.errors import StackError
    from schemas.profile_file import find_profile

    found = find_profile(profile)
    settings = _settings(ctx)
    invitation = Invitation(device_id, found.name, site, group, hardware)
    with _client(ctx, "operator") as client:
        made = client.create_token(
            device_id, found.name, site=site, group=group, hardware=hardware, valid_s=valid_s
        )
    bundle = join_bundle(settings, invitation, [found.model.name], made["token"])
    text = bundle.model_dump_json(indent=1)
    if output is None:
        show_text(text)
        return
    try:
        DISK.write(output, f"{text}\n".encode(), private=True)
    except OSError as exc:
        raise StackError(f"cannot write the secret file {output}: {exc}") from exc
    if as_json:
        show_json({"device_id": device_id, "file": str(output), "valid_s": made["valid_s"]})
    else:
        say(f"{output}: give it to {device_id} within {made['valid_s']:.0f} s, then remove it")


def tokens(
    ctx: typer.Context,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many of the newest.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Join tokens: for whom, until when, whether used."""
    with _client(ctx, "operator") as client:
        found = client.tokens(last)
    if as_json:
        show_json(found)
        return
    names = ["device_id", "group", "site", "hardware", "profile", "created_at", "expires_at", "used_at"]
    show_table("", names, [[token[name] for name in names] for token in found])


def revoke(ctx: typer.Context, device_id: DeviceId, as_json: AsJson = False) -> None:
    """Never let a device in again: its certificates, its streams, its telemetry. There is no way back."""
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
    """People's certificates: roles, serial, until when, whether revoked."""
    with _client(ctx, "viewer") as client:
        found = client.people(last)
    if as_json:
        show_json(found)
        return
    names = ["name", "roles", "serial", "valid_from", "valid_until", "revoked_at"]
    rows = [{**entry, "roles": ", ".join(entry["roles"])} for entry in found]
    show_table("", names, [[row[name] for name in names] for row in rows])


def revoke_person(
    ctx: typer.Context,
    certificate: Annotated[
        str, typer.Argument(metavar="CERTIFICATE", help="Serial as `people` shows it, or a PEM file.")
    ],
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "",
    as_json: AsJson = False,
) -> None:
    """Never let a person in with that certificate again; takes an approver. There is no way back."""
    file = Path(certificate)
    pem, serial = (file.read_bytes(), "") if file.is_file() else (b"", certificate)
    with _client(ctx, "approver") as client:
        done = client.revoke_certificate(serial, pem, reason)
    if as_json:
        show_json(done)
    else:
        show_text(f"the certificate {done['serial']} of {done['name']} is revoked")


def _row(device: dict[str, Any]) -> list[object]:
    runs = ", ".join(release["version"] for release in (device["installed"] or {}).values())
    notes = [
        "" if device["active"] else "revoked",
        f"refused: {device['attack']}" if device["attack"] else "",
        f"{device['cloned_reports']} reports of a twin" if device["cloned_reports"] else "",
    ]
    return [
        device["device_id"],
        device["group"],
        device["site"],
        device["hardware"],
        device["state"],
        device["result"],
        runs,
        device["channel_seq"],
        device["last_seen"],
        ", ".join(filter(None, notes)),
    ]


def _settings(ctx: typer.Context) -> ModelSettings:
    from infra.stack.model_settings import model_settings

    return model_settings(session(ctx).settings())


def _client(ctx: typer.Context, role: str) -> FleetClient:
    from infra.fleet_client import FleetClient

    return FleetClient(_settings(ctx), role)

"""`edgeloop trust …`: the signing keys, what they signed, and when that expires."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.console import AsJson, show_json, show_progress, show_table, show_text
from infra.cli.model_session import service_settings
from infra.cli.table_view import moment
from infra.printing import share
from schemas.instants import utc_now

if TYPE_CHECKING:
    from model_service import Keyring, ModelSettings
    from schemas.channel_documents import FleetPolicy
    from schemas.cohorts import SaltedShare

OfflineKeys = Annotated[
    Path | None,
    typer.Option(help="Folder of the offline keys.", show_default="the one that init made"),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="File whose first line is their passphrase; - asks on the terminal.",
        show_default="PASSPHRASE beside them",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(help="Signing keys: who may sign what, and until when.", no_args_is_help=True)
    for command in (init, status, rotate, renew, policy):
        family.command()(command)
    family.command("catch-up")(catch_up)
    app.add_typer(family, name="trust")


def init(
    ctx: typer.Context,
    family: Annotated[list[str] | None, typer.Option(help="Model family; repeatable.")] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="Rollout group, with its canary share: NAME[=SHARE]; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the signing keys and the first metadata; a later call adds families and groups."""
    from model_service import ceremony

    settings = service_settings(ctx)
    pools = dict(map(_pool, group or []))
    hint = ceremony.init(settings, family or [], pools, show_progress)
    if as_json:
        show_json({"repository": settings.repository, "offline_keys": settings.offline_keys, "hint": hint})
    else:
        show_text(hint)


def status(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List every role: version, expiry, and who holds its keys."""
    from model_service import ceremony

    now = utc_now()
    found = [
        {
            "role": role.role,
            "version": role.version,
            "expires": role.expires.isoformat(),
            "days_left": (role.expires - now).days,
            "threshold": role.threshold,
            "targets": role.targets,
            "keys": [
                {"holder": k.holder, "key_id": k.key_id, "offline": k.offline, "here": k.here}
                for k in role.keys
            ],
        }
        for role in ceremony.status(service_settings(ctx))
    ]
    if as_json:
        show_json(found)
    else:
        _show_status(found)


def rotate(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(help="As `edgeloop trust status` names it.")],
    holder: Annotated[str, typer.Argument(help="Process or offline key to replace the key of.")],
    offline_keys: OfflineKeys = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Replace a key; devices follow by themselves. Restart the process that held it."""
    from model_service import ceremony

    settings = service_settings(ctx)
    key_id = ceremony.rotate(settings, role, holder, keyring_of(settings, offline_keys, passphrase_file))
    if as_json:
        show_json({"role": role, "holder": holder, "key_id": key_id})
    else:
        show_text(f"{holder} signs {role} with key {key_id[:16]} from now on")


def renew(
    ctx: typer.Context,
    offline_keys: OfflineKeys = None,
    passphrase_file: PassphraseFile = None,
    everything: Annotated[bool, typer.Option("--all", help="Also the roles that are not due.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sign anew what expires within 90 days, and the online roles in any case."""
    from model_service import ceremony

    settings = service_settings(ctx)
    keyring = keyring_of(settings, offline_keys, passphrase_file)
    renewed = ceremony.renew(settings, keyring, everything=everything)
    if as_json:
        show_json({"renewed": renewed})
    else:
        show_text(f"renewed: {', '.join(renewed)}")


def catch_up(
    ctx: typer.Context,
    offline_keys: OfflineKeys = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """After a restore, or with a registry of another moment: sign anew, above what devices report."""
    from model_service import trust_catch_up

    settings = service_settings(ctx)
    accepted = trust_catch_up.accept_registry(settings)
    late = trust_catch_up.lagging(settings)
    margin = trust_catch_up.MARGIN if accepted else 0
    keyring = keyring_of(settings, offline_keys, passphrase_file)
    done = trust_catch_up.catch_up(settings, margin=margin, keyring=keyring)
    found = {
        "behind": late,
        "versions": done.versions.raised,
        "seqs": done.seqs,
        "waiting": done.versions.waiting,
        "registry_accepted": accepted,
    }
    if as_json:
        show_json(found)
        return
    if accepted:
        show_text("the registry is taken as it is: unused invitations are void, what was revoked stays so")
    text = ", ".join(f"{role} {version}" for role, version in sorted(late.items()))
    show_text(
        f"devices knew more: {text}" if late else "no device reports a higher version than is published"
    )
    show_text(f"signed anew: {', '.join(sorted(done.versions.raised))}")
    for role, why in sorted(done.versions.waiting.items()):
        show_text(f"waiting: {role}: {why}")


def policy(
    ctx: typer.Context,
    floor: Annotated[list[str] | None, typer.Option(help="FAMILY=MAJOR: lowest that may run.")] = None,
    revoke: Annotated[list[str] | None, typer.Option(help="SHA-256 of an artifact.")] = None,
    canary: Annotated[list[str] | None, typer.Option(help="GROUP=SHARE, or GROUP=ID,ID,…")] = None,
    offline_keys: OfflineKeys = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the signed policy, or publish one with changes."""
    from model_service import ceremony

    settings = service_settings(ctx)
    if floor or revoke or canary:
        found = ceremony.set_policy(
            settings,
            canary=dict(map(_pool, canary or [])),
            floors=dict(map(_floor, floor or [])),
            revoke=[_digest(text) for text in revoke or []],
            keyring=keyring_of(settings, offline_keys, passphrase_file),
        )
    else:
        found = ceremony.open_repository(settings).policy()
    if as_json:
        show_json(found.model_dump(mode="json"))
    else:
        _show_policy(found)


def keyring_of(settings: ModelSettings, folder: Path | None, passphrase_file: Path | None) -> Keyring:
    """The keys of this machine, and the offline keys that somebody has brought."""
    from model_service import Keyring, read_passphrase
    from schemas.errors import OperatorError

    if folder is not None and not folder.is_dir():
        raise OperatorError(f"there is no folder {folder}: name that of the offline keys")
    if passphrase_file is None:
        return Keyring(settings, folder)
    if str(passphrase_file) == "-":
        return Keyring(settings, folder, typer.prompt("Passphrase", hide_input=True, err=True))
    return Keyring(settings, folder, read_passphrase(passphrase_file))


def _pool(text: str) -> tuple[str, SaltedShare]:
    """``NAME``, ``NAME=SHARE`` or ``NAME=ID,ID``."""
    from pydantic import ValidationError

    from schemas.cohorts import SaltedShare

    name, _, members = text.partition("=")
    try:
        part = float(members or "0")
    except ValueError:
        return name, SaltedShare(devices=tuple(m for m in members.split(",") if m))
    try:
        return name, SaltedShare(salt=name, share=part)
    except ValidationError as exc:
        raise typer.BadParameter(f"{text}: a share must lie between 0 and 1") from exc


def _floor(text: str) -> tuple[str, int]:
    family, _, major = text.partition("=")
    if not family or not major.isdecimal():
        raise typer.BadParameter(f"{text}: FAMILY=MAJOR")
    return family, int(major)


def _digest(text: str) -> str:
    if len(text) != 64 or not all(c in "0123456789abcdef" for c in text):
        raise typer.BadParameter(f"{text}: a SHA-256 has 64 hexadecimal digits")
    return text


def _show_status(found: list[dict[str, Any]]) -> None:
    rows = [
        [
            role["role"],
            role["version"],
            moment(role["expires"]),
            role["days_left"],
            f"{role['threshold']} of {len(role['keys'])}",
            ", ".join(f"{k['holder']}{'' if k['here'] else ' (away)'}" for k in role["keys"]),
            role["targets"],
        ]
        for role in found
    ]
    show_table("", ["role", "version>", "expires", "days>", "keys", "held by…", "targets>"], rows)
    if any(key["offline"] and key["here"] for role in found for key in role["keys"]):
        show_text("\noffline keys are on this machine: take them away, see `edgeloop trust init`")


def _show_policy(found: FleetPolicy) -> None:
    show_text(f"policy  {found.seq}   issued {moment(found.issued)}   expires {moment(found.expires)}")
    rows = [[name, share(pool.share), ", ".join(pool.devices)] for name, pool in found.canary.items()]
    show_table("\ncanary pools", ["group", "of the group>", "and devices…"], rows)
    show_table("\nfloors", ["family", "major>"], list(found.floors.items()))
    show_table("\nrevoked", ["artifact"], [[digest] for digest in found.revoked])

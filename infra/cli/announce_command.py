"""`edgeloop drift expect` and `withdraw`: changes that a person announces before they come."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from infra.cli.app import session, warn_of_troubles
from infra.cli.console import AsJson, show_json, show_text
from infra.settings import StackSettings
from schemas.errors import OperatorError
from schemas.offending_keys import describe

if TYPE_CHECKING:
    from sqlalchemy import Connection

DEFAULT_HOURS = 24.0


def expect(  # noqa: PLR0913, PLR0917  (the options of a command)
    ctx: typer.Context,
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="Profile of the devices.")],
    moves: Annotated[list[str], typer.Option("--moves", help="A channel that the change moves.")],
    reason: Annotated[str, typer.Option(help="What is changed; kept in the history.")],
    may_move: Annotated[
        list[str] | None, typer.Option("--may-move", help="A further channel that may move with it.")
    ] = None,
    site: Annotated[str, typer.Option(help="Only this site.")] = "",
    group: Annotated[str, typer.Option(help="Only this group.")] = "",
    start: Annotated[str, typer.Option(help="ISO 8601 with offset, such as 2026-12-01T06:00Z; now.")] = "",
    hours: Annotated[float, typer.Option(min=0.0, help="For how long it may come.")] = DEFAULT_HOURS,
    as_json: AsJson = False,
) -> None:
    """Announce a change before it comes, so that it is learnt and not held. Role: approver.

    It counts once, and only where every channel of --moves moves and no channel that is not named.
    """
    from infra.fleet_client import FleetClient
    from infra.stack.model_settings import model_settings
    from model_service import ChangeDocument, authority, sign_announcement

    settings = model_settings(session(ctx).settings())
    begins = _instant(start) if start else datetime.now(UTC)
    try:
        document = ChangeDocument(
            change_id=uuid.uuid4().hex[:12], profile=profile, site=site, group=group,
            moves=tuple(moves), may_move=tuple(may_move or ()),
            start=begins, end=begins + timedelta(hours=hours), reason=reason,
        )  # fmt: skip
    except ValidationError as exc:
        raise OperatorError(f"this cannot be announced: {describe(exc)}") from exc
    pair = authority.read_pair(*authority.person_paths(settings, "approver"))
    with FleetClient(settings, "approver") as client:
        made = client.announce_change(sign_announcement(document, *pair))
    warn_of_troubles(session(ctx).settings())
    if as_json:
        show_json(made)
    else:
        show_text(f"announced change {made['change_id']}: may come from {made['start']} to {made['end']}")


def withdraw(
    ctx: typer.Context,
    change: Annotated[str, typer.Argument(metavar="CHANGE", help="Id of an announced change.")],
    as_json: AsJson = False,
) -> None:
    """Take an announcement back: nothing is learnt under it from now on. Role: approver."""
    from infra.fleet_client import FleetClient
    from infra.stack.model_settings import model_settings

    with FleetClient(model_settings(session(ctx).settings()), "approver") as client:
        done = client.withdraw_change(change)
    if as_json:
        show_json(done)
    else:
        show_text(f"announced change {done['change_id']} is withdrawn")


def announcements(settings: StackSettings) -> list[dict[str, Any]]:
    """All announced changes, the newest first; none if no model service ever ran here."""
    from infra.registry_reader import read_registry
    from infra.stack.model_settings import model_settings
    from model_service import SignedAnnouncement, announced_changes, authority
    from schemas.errors import AccessError

    models = model_settings(settings)
    if not models.has_registry:
        return []

    def read(connection: Connection) -> list[Any]:
        return announced_changes.every_announcement(connection)

    found = []
    for row in read_registry(models, read):
        try:
            given = SignedAnnouncement(row.document, row.signature, row.certificate)
            change = given.opened(authority.read_ca(models))
        except AccessError as exc:
            found.append({"change_id": row.change_id, "profile": row.profile, "state": f"void: {exc}"})
            continue
        over = change.end < datetime.now(UTC)
        state = "withdrawn" if row.withdrawn_at is not None else "over" if over else "in force"
        found.append(
            {
                "change_id": change.change_id, "profile": change.profile, "site": change.site or None,
                "group": change.group or None, "moves": list(change.moves), "may_move": list(change.may_move),
                "start": change.start, "end": change.end, "by": change.by, "reason": change.reason,
                "state": state,
            }
        )  # fmt: skip
    return found


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise typer.BadParameter(f"--start: {text!r} is no time of ISO 8601") from exc
    if at.tzinfo is None:
        raise typer.BadParameter(f"--start: {text!r} has no offset; end it with Z for UTC")
    return at.astimezone(UTC)

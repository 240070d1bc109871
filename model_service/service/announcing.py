"""Takes announcements of changes from people, and takes them back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from model_service.registry import announced_changes
from model_service.registry.announced_changes import StoredAnnouncement
from model_service.registry.database import note
from model_service.service.refusals import BadFieldError, UnknownNameError
from model_service.training.announced_change import EARLIEST, LONGEST, AnnouncedChange
from model_service.training.signed_announcement import MOST_BYTES, SignedAnnouncement
from schemas.errors import AccessError, RegistryError
from schemas.profile import Profile

SLACK = timedelta(minutes=1)
"""How far clocks of people's machines may differ from the service's."""


def accepted(
    given: SignedAnnouncement, ca_pem: bytes, actor: str, profiles: Mapping[str, Profile], now: float
) -> AnnouncedChange:
    """The announcement, checked.

    Args:
        given: As it was sent.
        ca_pem: Certificate of the authority.
        actor: Who called.
        profiles: Of the lake, by name.
        now: UTC seconds.

    Raises:
        AccessError: Its signature does not hold, or it is another person's.
        BadFieldError: It names no such profile or channel, or a time that cannot be announced.
    """
    if len(given.document) > MOST_BYTES:
        raise BadFieldError("document", f"at most {MOST_BYTES} bytes")
    change, at = given.opened(ca_pem), datetime.fromtimestamp(now, UTC)
    if change.by != actor:
        raise AccessError(f"the announcement is signed by {change.by}, and sent by {actor}")
    profile = profiles.get(change.profile)
    if profile is None:
        known = ", ".join(sorted(profiles)) or "none yet"
        raise BadFieldError("profile", f"one of this lake's: {known}")
    if strange := sorted(change.channels - set(profile.channel_names)):
        raise BadFieldError("moves", f"channels of {profile.name}, which has no {', '.join(strange)}")
    if change.start < at - SLACK:
        raise BadFieldError(
            "start", "not in the past: a change that has come is decided by `edgeloop drift ack`"
        )
    if not timedelta(0) < change.end - change.start <= LONGEST or change.start > at + EARLIEST:
        text = f"after the start, within {LONGEST.days} days, and the start within {EARLIEST.days} days"
        raise BadFieldError("end", text)
    return change


def announce(connection: Connection, row: StoredAnnouncement, change: AnnouncedChange, now: float) -> None:
    """Store an announcement.

    Raises:
        RegistryError: There is one of this id.
    """
    try:
        with connection.begin_nested():
            announced_changes.store(connection, row)
    except IntegrityError as exc:
        raise RegistryError(f"there is an announced change {change.change_id} already") from exc
    detail = {
        "by": change.by, "profile": change.profile, "site": change.site, "group": change.group,
        "moves": ", ".join(change.moves), "may_move": ", ".join(change.may_move),
        "start": change.start.isoformat(), "end": change.end.isoformat(), "why": change.reason,
    }  # fmt: skip
    key = f"change/{change.change_id}/announced"
    note(connection, key, change.change_id, "change_announced", detail, now)


def take_back(connection: Connection, change_id: str, actor: str, now: float) -> None:
    """Withdraw an announcement.

    Raises:
        UnknownNameError: There is none of this id in force.
    """
    if not announced_changes.withdraw(connection, change_id, now):
        raise UnknownNameError(f"no announced change {change_id} in force: `edgeloop drift list`")
    note(connection, f"change/{change_id}/withdrawn", change_id, "change_withdrawn", {"by": actor}, now)

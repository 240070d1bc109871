"""Finds the announced change that a drift may be: in force, signed by an approver, and not spent."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection

from model_service.registry import announced_changes
from model_service.registry.announced_changes import StoredAnnouncement
from model_service.training import run_store
from model_service.training.announced_change import AnnouncedChange, is_spent
from model_service.training.signed_announcement import SignedAnnouncement
from model_service.training.trigger import SAME_ONSET_WINDOWS
from schemas.durable import DISK
from schemas.errors import AccessError
from schemas.profile import Profile

log = logging.getLogger(__name__)


def announced_for(
    connection: Connection,
    pki: Path,
    profile: Profile,
    cohorts: Collection[str],
    onset: datetime,
    only: str | None = None,
) -> AnnouncedChange | None:
    """The announcement that covers a drift, the newest first; None: there is none.

    Args:
        connection: Reads the registry.
        pki: Folder of the authority's certificate.
        profile: Of the devices.
        cohorts: That drifted, as ``profile/site/group/hardware``.
        onset: Of the drift.
        only: Id of the announcement to look for; None: any.
    """
    rows = announced_changes.in_force(connection, profile.name)
    rows = [row for row in rows if only in (None, row.change_id)]
    if not rows:
        return None
    window = timedelta(seconds=profile.drift.window_s)
    runs = run_store.runs_of(connection, profile.model.family)
    uses = [(r.finding.announced, r.onset) for r in runs if r.finding is not None and r.finding.announced]
    for row in rows:
        found = _opened(connection, pki, row)
        if found is None or found.change_id != row.change_id or found.profile != profile.name:
            continue
        if found.covers(cohorts, onset, window) and not is_spent(
            found.change_id, onset, uses, SAME_ONSET_WINDOWS * window
        ):
            return found
    return None


def _opened(connection: Connection, pki: Path, row: StoredAnnouncement) -> AnnouncedChange | None:
    """The announcement; None, and a line in the log: its signature does not hold."""
    given = SignedAnnouncement(row.document, row.signature, row.certificate)
    try:
        found = given.opened(DISK.read(pki / "ca.pem") or b"")
        why = "its certificate was revoked" if announced_changes.is_revoked(connection, given.serial) else ""
    except AccessError as exc:
        why = str(exc)
    if why:
        log.warning("announced change %s counts for nothing: %s", row.change_id, why)
        return None
    return found

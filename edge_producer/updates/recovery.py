"""The record that a starting process goes on from. Needs no network, and works with a full disk."""

from __future__ import annotations

import logging

from edge_producer.updates.journal import Journal
from edge_producer.updates.resource_limits import LimitCounts
from edge_producer.updates.slots import ModelSlots
from edge_producer.updates.update_states import UpdateRecord, after_restart
from schemas.errors import BundleError
from schemas.updates import UpdateState

log = logging.getLogger(__name__)

S = UpdateState


def recovered(device_id: str, journal: Journal, slots: ModelSlots, limits: LimitCounts) -> UpdateRecord:
    """The record to go on from; a commit that was decided is carried out if the disk has room.

    What cannot be persisted now holds in memory, and ``Installer.advance`` does it again.

    Args:
        device_id: Named in logs.
        journal: Holds the record.
        slots: The device's sets.
        limits: The kernel's counts now.
    """
    record = journal.load()
    if record is not None and record.attempt is not None:
        record = record if slots.family in record.attempt.wanted.releases else None
    if record is None:
        log.error("the record of updates is unreadable: restoring", extra={"device_id": device_id})
        detail = "the record of updates was unreadable"
        anew = UpdateRecord(state=S.RESTORING, seq=journal.accepted(), detail=detail)
        return journal.try_save(anew.started(limits)[0])
    pointer = slots.pointer()
    ended, (started, hit) = record.running, record.started(limits)
    proven = pointer.active if pointer.proven else None
    following = after_restart(started, proven, ended=ended, hit_limit=hit)
    attempt = following.attempt
    if following.state is S.WATCH and attempt is not None and attempt.wanted != pointer.active:
        following = following.to(S.RESTORING, detail="another set runs than the one that is watched")
    if following != started:  # that a process has started alone is persisted with its first step
        journal.try_save(following)
    if following.state is S.COMMITTED and attempt is not None:
        try:
            slots.switch(attempt.wanted)
        except BundleError as exc:
            return journal.try_save(following.to(S.RESTORING, detail=str(exc)[:500]))
        except OSError:
            log.exception("the commit waits for the disk", extra={"device_id": device_id})
    return following

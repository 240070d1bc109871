"""Seqs that a group's channel documents must exceed, although the registry does not know who used them.

After a restore, devices may have accepted documents that the registry has never heard of. A floor uses their
seqs up: it is a withdrawn document, so every later one is numbered above it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, func, insert, select

from model_service.registry.registry_tables import channel_requests
from schemas.channel_documents import CANARY, ChannelDocument
from schemas.cohorts import NOBODY

PURPOSE = "restored"
LARGEST_LEAD = 10**9
"""A seq further ahead is no honest device's, and is ignored."""


def raise_seq(connection: Connection, group: str, seq: int, now: float) -> int:
    """Use up all seqs of the group up to this one; returns the floor in force.

    Args:
        connection: A transaction.
        group: The group.
        seq: Highest seq that any device of it may have accepted.
        now: UTC seconds.
    """
    spent = _spent(connection, group)
    if spent >= seq or seq > spent + LARGEST_LEAD:
        return seq_floor(connection, group)
    issued = datetime.fromtimestamp(now, UTC)
    document = ChannelDocument(
        group=group, ring=CANARY, seq=seq, rollout_id="", target={}, baseline={}, cohort=NOBODY,
        issued=issued, expires=issued + timedelta(seconds=1),
    )  # fmt: skip
    values = {
        "rollout_id": "",
        "grp": group,
        "ring": CANARY,
        "seq": seq,
        "document": document.model_dump(mode="json"),
        "evidence": {"purpose": PURPOSE, "phase": 0},
        "state": "withdrawn",
        "detail": "seqs up to this one were used before the registry was restored",
        "created_at": now,
        "updated_at": now,
    }
    connection.execute(insert(channel_requests).values(**values))
    return seq


def seq_floor(connection: Connection, group: str) -> int:
    """Highest seq of the group that a restore used up; 0: none."""
    mine = (channel_requests.c.grp == group) & (channel_requests.c.rollout_id == "")
    return int(connection.execute(select(func.max(channel_requests.c.seq)).where(mine)).scalar() or 0)


def _spent(connection: Connection, group: str) -> int:
    mine = channel_requests.c.grp == group
    return int(connection.execute(select(func.max(channel_requests.c.seq)).where(mine)).scalar() or 0)

"""Says again what is in force before it expires: a device that comes late must still be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, select

from model_service.registry.database import Registry
from model_service.registry.registry_tables import channel_requests
from model_service.rollout import rollout_store
from model_service.rollout.rollout_record import ACTIVE
from model_service.rollout.transitions import Propose
from model_service.trust.repository import TrustRepository
from schemas.channel_documents import BROAD, CANARY, ChannelDocument
from schemas.cohorts import NOBODY
from schemas.errors import RegistryError

DUE_SHARE = 1 / 3
"""Share of its lifetime below which a document is said again."""


@dataclass(frozen=True)
class ChannelRenewal:
    """Renews the channels of groups in which nothing happens.

    Args:
        registry: Where documents wait.
        repo: What is published.
        lifetime_s: Of channel documents.
        highest: From a group to the highest seq published.
    """

    registry: Registry
    repo: TrustRepository
    lifetime_s: float
    highest: Callable[[str], int]

    def step(self, now: float) -> int:
        """Propose what is due; returns how many documents."""
        with self.registry.reading() as connection:
            groups = list(connection.execute(select(channel_requests.c.grp).distinct()).scalars())
        return sum(self._renew(group, now) for group in sorted(groups))

    def _renew(self, group: str, now: float) -> bool:
        channel = in_force(self.repo, group)
        if channel is None or channel.expires.timestamp() - now > DUE_SHARE * self.lifetime_s:
            return False
        at_least = self.highest(group)
        with self.registry.transaction() as connection:
            return self._propose(connection, channel, now, at_least)

    def _propose(self, connection: Connection, channel: ChannelDocument, now: float, at_least: int) -> bool:
        waiting = any(r.document.group == channel.group for r in rollout_store.pending(connection))
        if waiting or rollout_store.in_states(connection, ("draft", *ACTIVE), channel.group):
            return False
        try:
            record = rollout_store.load(connection, channel.rollout_id)
        except RegistryError:
            return False  # another registry's: only a new rollout may speak for it
        again = Propose(
            channel.ring,
            "renewal",
            record.phase,
            channel.target,
            channel.cohort,
            channel.holdout,
            channel.reason,
        )
        rollout_store.propose(connection, channel.baseline, record, again, now, self.lifetime_s, at_least)
        return True


def in_force(repo: TrustRepository, group: str) -> ChannelDocument | None:
    """The document that speaks for the whole group once its rollout has ended.

    The broad one where it treats everybody: said again it is the newest for the canary pool too, which then
    runs what everybody runs. Else the canary one.
    """
    out = repo.channels(group)
    broad = out.get(BROAD)
    if broad is None:
        return out.get(CANARY)
    return broad if broad.cohort.share >= 1 and broad.holdout == NOBODY else None

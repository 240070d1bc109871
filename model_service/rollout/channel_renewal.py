"""Renews the channel document in force before it expires: a device that comes late must find a valid one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, select

from model_service.registry.database import Registry
from model_service.registry.registry_tables import channel_requests
from model_service.rollout import rollout_store
from model_service.rollout.rollout_record import ACTIVE, COMPLETED, PROFILE
from model_service.rollout.seq_floor import seq_floor
from model_service.rollout.transitions import Propose
from model_service.trust.profile_channels import profile_channel
from model_service.trust.repository import TrustRepository
from schemas.channel_documents import BROAD, CANARY, ChannelDocument
from schemas.cohorts import EVERYBODY, NOBODY
from schemas.errors import RegistryError

DUE_SHARE = 1 / 3
"""A document is renewed once less than this share of its lifetime is left."""


@dataclass(frozen=True)
class ChannelRenewal:
    """Renews the channel documents of groups that have no rollout under way.

    A document is due when its life nears its end, and when a restore used up its seq.

    Args:
        registry: Takes the proposals.
        repo: Holds what is published.
        lifetime_s: Lifetime of a channel document.
        highest_seq: From a group to its highest published seq.
    """

    registry: Registry
    repo: TrustRepository
    lifetime_s: float
    highest_seq: Callable[[str], int]

    def step(self, now: float) -> int:
        """Propose a renewal for each group where it is due; returns how many were proposed."""
        with self.registry.reading() as connection:
            groups = list(connection.execute(select(channel_requests.c.grp).distinct()).scalars())
        renewed = sum(self._renew(group, now) for group in sorted(groups))
        return renewed + sum(self._renew_profiles(group, now) for group in sorted(groups))

    def _renew(self, group: str, now: float) -> bool:
        channel = in_force(self.repo, group)
        if channel is None:
            return False
        with self.registry.reading() as connection:
            unseen = channel.seq <= seq_floor(connection, group)  # devices wait for a higher one
        if not unseen and channel.expires.timestamp() - now > DUE_SHARE * self.lifetime_s:
            return False
        highest_seq = self.highest_seq(group)
        with self.registry.transaction() as connection:
            return self._propose(connection, channel, now, highest_seq)

    def _renew_profiles(self, group: str, now: float) -> bool:
        """The same of the group's document on profiles; one whose rollout has completed becomes final."""
        channel = profile_channel(self.repo, group)
        if channel is None:
            return False
        highest_seq = self.highest_seq(group)
        with self.registry.transaction() as connection:
            try:
                record = rollout_store.load(connection, channel.rollout_id)
            except RegistryError:
                return False
            settles = record.state in COMPLETED and not channel.profiles[record.family].is_settled
            near = channel.expires.timestamp() - now <= DUE_SHARE * self.lifetime_s
            unseen = channel.seq <= seq_floor(connection, group)
            if not (settles or near or unseen) or self._is_busy(connection, group, drafts=not settles):
                return False
            renewal = Propose(PROFILE, "renewal", record.phase, {}, EVERYBODY, NOBODY, "normal")
            rollout_store.propose(connection, {}, record, renewal, now, self.lifetime_s, highest_seq)
        return True

    @staticmethod
    def _is_busy(connection: Connection, group: str, *, drafts: bool = True) -> bool:
        """Whether a document or a rollout is on its way, which comes first."""
        states = ("draft", *ACTIVE) if drafts else ACTIVE
        waiting = any(r.document.group == group for r in rollout_store.pending(connection))
        return waiting or bool(rollout_store.in_states(connection, states, group))

    def _propose(
        self, connection: Connection, channel: ChannelDocument, now: float, highest_seq: int
    ) -> bool:
        if self._is_busy(connection, channel.group):
            return False
        try:
            record = rollout_store.load(connection, channel.rollout_id)
        except RegistryError:
            return False  # the document is of another registry: only a new rollout may replace it
        renewal = Propose(
            channel.ring,
            "renewal",
            record.phase,
            channel.target,
            channel.cohort,
            channel.holdout,
            channel.reason,
        )
        rollout_store.propose(
            connection, channel.baseline, record, renewal, now, self.lifetime_s, highest_seq
        )
        return True


def in_force(repo: TrustRepository, group: str) -> ChannelDocument | None:
    """The document that binds the whole group once its rollout has ended.

    That is the broad one where it treats everybody: after its renewal it is the newest for the canary pool
    too, which then runs what everybody runs. Without a broad one it is the canary one.
    """
    published = repo.channels(group)
    broad = published.get(BROAD)
    if broad is None:
        return published.get(CANARY)
    return broad if broad.cohort.share >= 1 and broad.holdout == NOBODY else None

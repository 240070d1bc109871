"""Signs and publishes the channel documents that wait in the registry. An interrupted step is repeated."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from model_service.registry.database import Registry
from model_service.rollout import rollout_store
from model_service.rollout.rollout_record import PROFILE
from model_service.rollout.rollout_store import ChannelRequest
from model_service.trust import channel_targets
from model_service.trust.metadata import CryptoSigner
from model_service.trust.online import OnlineSigner
from model_service.trust.profile_channels import profile_channel
from model_service.trust.repository import TrustRepository
from schemas.channel_documents import BROAD, CANARY, RINGS, ChannelDocument
from schemas.errors import ProfileVersionError, TrustError
from schemas.profile_channel import ProfileChannel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChannelPublisher:
    """Takes each stored channel document to publication.

    Args:
        registry: Holds the documents that wait.
        repo: Publishes them.
        canary: The engine's key of the canary ring.
        broad: The engine's key of the broad ring; a broad document needs the guard's signature as well.
        online: Makes signed roles visible.
        clock: UTC seconds.
        profiles: Makes a document on profiles visible; a repeat changes nothing.
    """

    registry: Registry
    repo: TrustRepository
    canary: CryptoSigner
    broad: CryptoSigner
    online: OnlineSigner
    clock: Callable[[], float]
    profiles: Callable[[ProfileChannel], None]

    def step(self) -> int:
        """Advance every waiting document as far as possible; returns how many were published or refused."""
        with self.registry.reading() as connection:
            waiting = rollout_store.pending(connection)
        # One role signs the broad channels of all groups: one proposal at a time.
        broad = next((r for r in waiting if r.ring == BROAD), None)
        return sum(self._forward(r) for r in waiting if r.ring != BROAD or r is broad)

    def highest_seq(self, group: str) -> int:
        """Highest published seq of the group, which devices may have obeyed; 0: nothing is published."""
        published = self.repo.channels(group)
        on_profiles = profile_channel(self.repo, group)
        seqs = [published[ring].seq for ring in RINGS if ring in published]
        return max(seqs + ([] if on_profiles is None else [on_profiles.seq]), default=0)

    def _forward(self, request: ChannelRequest) -> bool:
        # Step 1: skip what is published already: an earlier process died between steps 3 and 4.
        try:
            if self._seq(request) < request.document.seq and not self._publish(request):
                return False
        except (TrustError, ProfileVersionError) as exc:
            with self.registry.transaction() as connection:
                rollout_store.set_request_state(connection, request, "refused", self.clock(), str(exc))
            return True
        # Step 4: record the publication. After a crash before it, step 1 finds the document published.
        self._record(request)
        return True

    def _seq(self, request: ChannelRequest) -> int:
        """Published seq of the request's group and ring; 0: nothing is published."""
        group = request.document.group
        published: ChannelDocument | ProfileChannel | None
        if request.ring == PROFILE:
            published = profile_channel(self.repo, group)
        else:
            published = self.repo.channels(group).get(request.ring)
        return 0 if published is None else published.seq

    def _publish(self, request: ChannelRequest) -> bool:
        # Steps 2 and 3: sign and make visible. From here on devices obey it.
        if request.profiles is not None:
            self.profiles(request.profiles)
            return True
        document = request.models
        if request.ring == CANARY:
            channel_targets.publish_canary(self.repo, document, self.canary, self.online)
            return True
        # Step 2: sign. A repeat changes nothing, unless the role has a newer published version by now.
        channel_targets.propose_broad(self.repo, document, self.broad)
        if request.state == "proposed":
            return False
        if channel_targets.broad_state(self.repo, document) == "proposed":
            with self.registry.transaction() as connection:  # the guard signed a proposal that is stale now
                rollout_store.set_request_state(
                    connection,
                    request,
                    "proposed",
                    self.clock(),
                    "signed again: the role has a newer version",
                )
            return False
        # Step 3: make it visible.
        channel_targets.publish_broad(self.repo, document.group, self.online)
        return True

    def _record(self, request: ChannelRequest) -> None:
        now, document = self.clock(), request.document
        with self.registry.transaction() as connection:
            if not rollout_store.set_request_state(connection, request, "published", now):
                return
            detail = {
                "ring": request.ring,
                "seq": document.seq,
                "phase": request.evidence["phase"],
                "purpose": request.evidence["purpose"],
                "share": request.share,
            }
            key = f"published/{document.seq}"
            rollout_store.event(
                connection, request.rollout_id, now, "engine", "channel_published", detail, key
            )
        log.info("%s: seq %d is published in ring %s", request.rollout_id, document.seq, request.ring)

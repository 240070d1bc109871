"""Brings stored channel documents out: signs, publishes, marks. A broken step is taken again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from model_service.registry.database import Registry
from model_service.rollout import rollout_store
from model_service.rollout.rollout_store import ChannelRequest
from model_service.trust import channel_targets
from model_service.trust.metadata import CryptoSigner
from model_service.trust.online import OnlineSigner
from model_service.trust.repository import TrustRepository
from schemas.channel_documents import BROAD, CANARY, RINGS
from schemas.errors import TrustError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Announcer:
    """The engine's hand on the channels.

    Args:
        registry: Where documents wait.
        repo: Where they come out.
        canary: The engine's key of the canary ring.
        broad: The engine's key of the broad ring; it takes the guard's, too.
        online: Makes signed roles visible.
        clock: UTC seconds.
    """

    registry: Registry
    repo: TrustRepository
    canary: CryptoSigner
    broad: CryptoSigner
    online: OnlineSigner
    clock: Callable[[], float]

    def step(self) -> int:
        """Bring every waiting document as far as it goes; returns how many came out."""
        with self.registry.reading() as connection:
            waiting = rollout_store.pending(connection)
        # One role signs the broad channels of all groups: one proposal at a time.
        broad = next((r for r in waiting if r.ring == BROAD), None)
        return sum(self._forward(r) for r in waiting if r.ring == CANARY or r is broad)

    def highest(self, group: str) -> int:
        """Highest seq that devices of the group may have seen."""
        out = self.repo.channels(group)
        return max((out[ring].seq for ring in RINGS if ring in out), default=0)

    def _forward(self, request: ChannelRequest) -> bool:
        # Step 1: it may be out already: a crash between publishing and marking.
        out = self.repo.channels(request.document.group).get(request.ring)
        try:
            if (out is None or out.seq < request.document.seq) and not self._publish(request):
                return False
        except TrustError as exc:
            with self.registry.transaction() as connection:
                rollout_store.mark(connection, request, "refused", self.clock(), str(exc))
            return True
        # Step 4: mark. A crash before it ends in step 1.
        self._mark(request)
        return True

    def _publish(self, request: ChannelRequest) -> bool:
        if request.ring == CANARY:
            # Step 2 and 3: sign and make visible. From here on devices obey it.
            channel_targets.publish_canary(self.repo, request.document, self.canary, self.online)
            return True
        # Step 2: sign. A repeat changes nothing, unless the role moved on meanwhile.
        channel_targets.propose_broad(self.repo, request.document, self.broad)
        if request.state == "proposed":
            return False
        if channel_targets.broad_state(self.repo, request.document) == "proposed":
            with self.registry.transaction() as connection:  # the guard signed what became stale
                rollout_store.mark(
                    connection, request, "proposed", self.clock(), "signed anew: the role moved on"
                )
            return False
        # Step 3: make it visible.
        channel_targets.publish_broad(self.repo, request.document.group, self.online)
        return True

    def _mark(self, request: ChannelRequest) -> None:
        now, document = self.clock(), request.document
        with self.registry.transaction() as connection:
            if not rollout_store.mark(connection, request, "published", now):
                return
            detail = {
                "ring": request.ring,
                "seq": document.seq,
                "phase": request.evidence["phase"],
                "purpose": request.evidence["purpose"],
                "share": document.cohort.share,
            }
            key = f"published/{document.seq}"
            rollout_store.event(
                connection, request.rollout_id, now, "engine", "channel_published", detail, key
            )
        log.info("%s: seq %d is out in ring %s", request.rollout_id, document.seq, request.ring)

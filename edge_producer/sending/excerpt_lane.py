"""The writer's part of excerpts: seals what was permitted, and takes back what may not leave any more."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from edge_producer.excerpts.excerpt_desk import ExcerptDesk, ExcerptOffer, OfferOutcome
from edge_producer.sending.sealing import Sealer
from edge_producer.spool.spool import Spool
from edge_producer.spool.spool_messages import StoredMessage
from schemas.envelope import SealedMessage
from schemas.excerpt_event import MAX_WITHDRAWN, ExcerptWithdrawal
from schemas.excerpt_words import PermitRefusal, PermitState
from schemas.topics import Lane

log = logging.getLogger(__name__)

SEALED_META = "excerpts_sealed"
"""Key in the spool of the newest permits whose excerpts were sealed, with their instants."""
KEPT_SEALED = 64
WITHDRAWN_META = "excerpts_withdrawn"
"""Key of the numbers of withdrawn messages that the cloud is not told of yet, by number of the producer."""
SENT, WITHDRAWN = "excerpt_messages_sent", "excerpt_messages_withdrawn"
"""Counters of the spool."""


class ExcerptLane:
    """Works on one open spool, in the writer's thread.

    Args:
        desk: Knows consent, and what is to be sealed; None: the process has no excerpts.
        spool: Holds the sealed ones.
        sealer: Seals them.
        max_bytes: Size of the spool above which none is sealed.
    """

    def __init__(self, desk: ExcerptDesk | None, spool: Spool, sealer: Sealer, max_bytes: int) -> None:
        self._desk, self._spool, self._sealer, self._max_bytes = desk, spool, sealer, max_bytes
        self._told: list[tuple[str, OfferOutcome]] = []
        self._sent = 0
        self._notices: set[int] = set()
        self._withdrew = False
        if desk is not None:
            spool.messages.overwrite_deleted()

    def may_leave(self, id_: int, message: SealedMessage) -> bool:
        """Whether a sealed message of the lane may be handed to the broker's client now.

        What says that excerpts were withdrawn holds no sample, and needs no consent.
        """
        if _is_notice(message.value):
            self._notices.add(id_)
            return True
        device_id, _ = _whose(message.value)
        return self._desk is not None and self._desk.may_leave(device_id)

    def withdraw(self) -> set[int]:
        """Delete excerpts of devices without consent. Call it inside a transaction.

        Returns:
            Ids of the messages that are gone.
        """
        wanted = [] if self._desk is None else self._desk.unsettled()
        if self._desk is None or not wanted:
            return set()
        changes = {name: self._desk.consent(name).changes for name in wanted}
        of_device: dict[int, tuple[str, str]] = {
            id_: _whose(value) for id_, value in self._spool.messages.of_lane(Lane.EXCERPT)
        }
        gone = {id_: permit for id_, (device, permit) in of_device.items() if device in changes}
        if gone:
            self._spool.set_meta(WITHDRAWN_META, noted(self._untold(), self._spool.messages.withdraw(gone)))
            self._spool.count({WITHDRAWN: len(gone)})
            self._withdrew = True
            log.warning("consent is withdrawn: %d unsent messages with raw samples are deleted", len(gone))
        for permit_id, n in Counter(gone.values()).items():
            device = next(d for d, p in of_device.values() if p == permit_id)
            why = f"consent was withdrawn; {n} unsent messages were deleted"
            self._told.append((device, OfferOutcome(permit_id, PermitState.WITHDRAWN, detail=why)))
        for name, number in changes.items():
            self._desk.note_settled(name, number)
        return set(gone)

    def seal(self) -> list[StoredMessage]:
        """Seal what was permitted or withdrawn. Call it inside a transaction, and ``committed`` after it."""
        if self._desk is None:
            return []
        self._look_up()
        stored = self._withdrawals()
        for offer in self._desk.take_offers():
            stored += self._sealed(offer)
        if self._sent:
            self._spool.count({SENT: self._sent})
            self._sent = 0
        return stored

    def committed(self) -> None:
        """The transaction holds: updaters are told what it did."""
        told, self._told = self._told, []
        if self._withdrew:
            self._withdrew = False
            self._spool.messages.empty_log()
        for device_id, outcome in told:
            if self._desk is not None:
                self._desk.finish(device_id, outcome)

    def arrived(self, id_: int, lane: Lane | None) -> None:
        """The broker has acknowledged a message, of whatever lane."""
        if id_ in self._notices:
            self._notices.discard(id_)
        elif lane is Lane.EXCERPT:
            self._sent += 1

    def _sealed(self, offer: ExcerptOffer) -> list[StoredMessage]:
        permit, parts = offer.permit, list(offer.parts())
        size = sum(len(event) for event, _ in parts)
        if self._spool.bytes + size > self._max_bytes:
            why = f"{size} bytes more than the spool may hold"
            refused = OfferOutcome(
                permit.permit_id, PermitState.REFUSED, refusal=PermitRefusal.NO_ROOM.value, detail=why
            )
            self._told.append((permit.device_id, refused))
            return []
        device = self._spool.devices[permit.device_id]
        stored = [self._sealer.excerpt(device, offer.held.boot_id, event, n) for event, n in parts]
        self._spool.set_meta(SEALED_META, json.dumps(self._with(permit.permit_id, offer.samples)))
        outcome = OfferOutcome(permit.permit_id, PermitState.TAKEN, samples=offer.samples)
        self._told.append((permit.device_id, outcome))
        return stored

    def _withdrawals(self) -> list[StoredMessage]:
        """Messages that tell the cloud which numbers will never come, for whom there is a key."""
        untold, stored = self._untold(), []
        for producer in [p for p in untold if self._sealer.can_seal(int(p))]:
            told, untold[producer] = untold[producer][:MAX_WITHDRAWN], untold[producer][MAX_WITHDRAWN:]
            event = ExcerptWithdrawal(withdrawn=tuple(told))
            stored.append(self._sealer.withdrawal(int(producer), event.model_dump_json().encode()))
        if stored:
            self._spool.set_meta(WITHDRAWN_META, json.dumps({p: n for p, n in untold.items() if n}))
        return stored

    def _untold(self) -> dict[str, list[int]]:
        return dict(json.loads(self._spool.meta(WITHDRAWN_META) or "{}"))

    def _look_up(self) -> None:
        """How permits of an earlier process ended: the spool says whether they were sealed."""
        sealed = self._known()
        for device_id, permits in ({} if self._desk is None else self._desk.take_unknown()).items():
            for permit_id in sorted(permits):
                if permit_id in sealed:
                    outcome = OfferOutcome(permit_id, PermitState.TAKEN, samples=sealed[permit_id])
                else:
                    why = "the process ended before it was sealed: nothing of it left"
                    outcome = OfferOutcome(permit_id, PermitState.LOST, detail=why)
                self._told.append((device_id, outcome))

    def _known(self) -> dict[str, int]:
        return dict(json.loads(self._spool.meta(SEALED_META) or "{}"))

    def _with(self, permit_id: str, samples: int) -> dict[str, int]:
        known = {**self._known(), permit_id: samples}
        return dict(list(known.items())[-KEPT_SEALED:])


def _whose(value: bytes) -> tuple[str, str]:
    """Device and permit of a sealed excerpt."""
    try:
        raw = json.loads(value)
        return str(raw["device_id"]), str(raw["permit_id"])
    except (ValueError, KeyError, TypeError):
        return "", ""


def _is_notice(value: bytes) -> bool:
    """Whether a message of the lane says what is withdrawn, and nothing else."""
    try:
        return set(json.loads(value)) == {"withdrawn"}
    except (ValueError, TypeError):
        return False


def noted(untold: Mapping[str, Sequence[int]], gone: Mapping[int, Sequence[int]]) -> str:
    """The value of ``WITHDRAWN_META`` once these numbers are withdrawn as well, by number of the producer."""
    merged = {producer: list(numbers) for producer, numbers in untold.items()}
    for producer, numbers in gone.items():
        merged.setdefault(str(producer), []).extend(numbers)
    return json.dumps(merged)


def without(unsent: Iterable[tuple[int, int]], gone: set[int]) -> list[tuple[int, int]]:
    """Queued messages but those that are gone; still a heap, for it stays sorted."""
    return sorted(entry for entry in unsent if entry[1] not in gone)

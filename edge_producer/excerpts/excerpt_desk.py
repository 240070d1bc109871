"""Where a process's excerpts are made: the sensing loop brings samples, updaters ask, the writer seals.

Nothing passes here without consent. It is looked up in the file each time that something would be handed on;
the sensing loop, which only holds samples, looks every quarter of a second.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from edge_producer.excerpts.consent import Consent, ConsentFile
from edge_producer.excerpts.raw_ring import HeldSamples, RawRing
from edge_producer.window import Window
from schemas.durable import DISK, Disk
from schemas.excerpt_event import Excerpt, part_size, samples_text
from schemas.excerpt_permit import ExcerptPermit
from schemas.excerpt_words import PermitState
from schemas.instants import from_us
from schemas.profile import Profile

log = logging.getLogger(__name__)

LOOK_S = 0.25
"""Time between two looks of the sensing loop at the consent file."""


@dataclass(frozen=True)
class ExcerptOffer:
    """An excerpt on its way from the ring to the spool.

    Attributes:
        permit: By which it leaves: claimed, and in the ledger.
        approver: Who signed it.
        rate_hz: Samples a second.
        held: The samples.
    """

    permit: ExcerptPermit
    approver: str
    rate_hz: float
    held: HeldSamples

    @property
    def samples(self) -> int:
        """Instants in it."""
        return len(self.held.values)

    def parts(self) -> Iterator[tuple[bytes, int]]:
        """Its events as JSON, each with its number of instants."""
        channels, n = self.permit.channels, self.samples
        size = part_size(len(channels))
        starts = range(0, n, size)
        for part, first in enumerate(starts):
            values = self.held.values[first : first + size]
            at_us = self.held.start_us + round(first * 1e6 / self.rate_hz)
            event = Excerpt(
                device_id=self.permit.device_id,
                boot_id=self.held.boot_id,
                event_time=from_us(at_us),
                permit_id=self.permit.permit_id,
                purpose=self.permit.purpose,
                approver=self.approver,
                part=part,
                parts=len(starts),
                first=first,
                rate_hz=self.rate_hz,
                n=len(values),
                samples={name: samples_text(values[:, i]) for i, name in enumerate(channels)},
            )
            yield event.model_dump_json().encode(), len(values)


@dataclass(frozen=True)
class OfferOutcome:
    """How an offer ended, or what was withdrawn of it later."""

    permit_id: str
    state: PermitState
    samples: int = 0
    refusal: str = ""
    detail: str = ""


@dataclass
class _Held:
    """What the process holds of one device."""

    profile: Profile | None = None
    ring: RawRing | None = None
    looked_s: float = float("-inf")
    given: bool = False
    offers: list[ExcerptOffer] = field(default_factory=list)
    outcomes: list[OfferOutcome] = field(default_factory=list)


class ExcerptDesk:
    """One process's.

    The sensing loop calls ``add``; updaters ``consent``, ``reach``, ``take``, ``offer`` and ``outcomes``; the
    writer all below the line.

    Args:
        state_dir: The process's folder.
        devices: Its devices.
        running: Returns the profile that a device runs.
        disk: Reads and writes.
        monotonic: Seconds, any origin.

    Attributes:
        on_outcome: By device id, called when an offer has ended; must not block.
    """

    def __init__(
        self,
        state_dir: Path,
        devices: Sequence[str],
        running: Callable[[str], Profile],
        disk: Disk = DISK,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.devices = tuple(devices)
        self._files = {name: ConsentFile(state_dir, name, disk) for name in devices}
        self._running, self._monotonic = running, monotonic
        self._held: Mapping[str, _Held] = {name: _Held() for name in devices}
        self._settled: dict[str, int] = {}
        self._failed = False
        self._lock = Lock()
        self.unknown: dict[str, set[str]] = defaultdict(set)
        self.on_outcome: dict[str, Callable[[], None]] = {}
        self.counts: Counter[str] = Counter()

    def add(self, window: Window, boot_id: int) -> None:
        """Hold a window's samples where the profile has excerpts and there is consent. Never raises."""
        try:
            self._add(window, boot_id)
        except Exception:  # an excerpt is worth no decision
            if not self._failed:
                log.exception("samples are not held", extra={"device_id": window.device_id})
            self._failed = True

    def _add(self, window: Window, boot_id: int) -> None:
        held, profile = self._held[window.device_id], self._running(window.device_id)
        if profile is not held.profile:
            policy = profile.excerpts
            self._forget(held)
            held.profile, held.ring = profile, None if policy is None else RawRing(profile, policy)
        if held.ring is None:
            return
        now_s = self._monotonic()
        if now_s - held.looked_s >= LOOK_S:
            held.looked_s, held.given = now_s, self.consent(window.device_id).given
        if held.given:
            held.ring.add(window, boot_id)

    def consent(self, device_id: str) -> Consent:
        """What the device's file says now; without consent what is held of it is forgotten at once."""
        with self._lock:
            found = self._files[device_id].read()
        if not found.given:
            self._forget(self._held[device_id])
        return found

    def is_sensing(self, device_id: str) -> bool:
        """Whether the sensing loop has brought anything of the device: before, no span can be judged."""
        return self._held[device_id].profile is not None

    def reach(self, device_id: str) -> tuple[int, int] | None:
        """Instants of the oldest and newest sample held, µs since 1970; None: nothing is held."""
        ring = self._held[device_id].ring
        return None if ring is None else ring.reach()

    def take(self, permit: ExcerptPermit) -> HeldSamples | None:
        """The samples of a permit; None where not all are held."""
        ring = self._held[permit.device_id].ring
        return None if ring is None else ring.take(permit.start, permit.end, permit.channels)

    def offer(self, permit: ExcerptPermit, approver: str, held: HeldSamples) -> None:
        """Have the writer seal an excerpt. Never waits."""
        found = self._held[permit.device_id]
        rate_hz = self._running(permit.device_id).sampling.rate_hz
        with self._lock:
            found.offers.append(ExcerptOffer(permit, approver, rate_hz, held))

    def settle_unknown(self, device_id: str, permit_ids: Sequence[str]) -> None:
        """Have the writer look up in the spool how permits of an earlier process ended."""
        with self._lock:
            self.unknown[device_id] |= set(permit_ids)

    def take_unknown(self) -> dict[str, set[str]]:
        """Those permits, by device; each once."""
        with self._lock:
            found, self.unknown = dict(self.unknown), defaultdict(set)
        return found

    def outcomes(self, device_id: str) -> list[OfferOutcome]:
        """Outcomes since the last call."""
        held = self._held[device_id]
        with self._lock:
            found, held.outcomes = held.outcomes, []
        return found

    # The writer ------------------------------------------------------------------------------------------

    def may_leave(self, device_id: str) -> bool:
        """Whether excerpts of the device may be handed on now."""
        return device_id in self._files and self.consent(device_id).given

    def unsettled(self) -> list[str]:
        """Devices without consent of which the spool may still hold something."""
        found = []
        for name in self.devices:
            consent = self.consent(name)
            if consent.given:
                self._settled.pop(name, None)
            elif self._settled.get(name) != consent.changes:
                found.append(name)
        return found

    def note_settled(self, device_id: str, changes: int) -> None:
        """Nothing of the device is left in the spool since that change of its switch."""
        self._settled[device_id] = changes

    def take_offers(self) -> list[ExcerptOffer]:
        """Offers to seal now; those of devices without consent end here."""
        found = []
        for name, held in self._held.items():
            if held.offers and self.consent(name).given:
                with self._lock:
                    taken, held.offers = held.offers, []
                found += taken
        return found

    def finish(self, device_id: str, outcome: OfferOutcome) -> None:
        """Tell the device's updater how an offer ended."""
        held = self._held.get(device_id)
        if held is None:
            return
        with self._lock:
            held.outcomes.append(outcome)
        self.counts[outcome.state.value] += 1
        self.on_outcome.get(device_id, lambda: None)()

    def status(self, device_id: str) -> dict[str, Any]:
        """For the status file. From any thread."""
        consent, held = self.consent(device_id), self._held[device_id]
        changed = consent.history[-1]["at"] if consent.history else None
        return {
            "consent": consent.given,
            "changes": consent.changes,
            "changed": changed,
            "settled": consent.given or self._settled.get(device_id) == consent.changes,
            "problem": consent.problem,
            "held_s": 0.0 if held.ring is None else round(held.ring.seconds, 1),
        }

    def _forget(self, held: _Held) -> None:
        if held.ring is not None:
            held.ring.clear()
        held.given = False
        with self._lock:
            dropped, held.offers = held.offers, []
        for offer in dropped:
            why = "consent was withdrawn before it was sealed"
            self.finish(
                offer.permit.device_id,
                OfferOutcome(offer.permit.permit_id, PermitState.WITHDRAWN, detail=why),
            )

"""One device's part in excerpts: fetches permits, verifies each, claims it, and says what became of it.

A permit is followed only while this device has it from the service: it is kept nowhere between two contacts,
so one that was revoked meanwhile is not followed. The order is *verify, claim, note, take*: what is noted in
the ledger is spent, whatever happens then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from cryptography import x509

from edge_producer.excerpts.excerpt_desk import ExcerptDesk
from edge_producer.excerpts.permit_ledger import LedgerEntry, PermitLedger
from edge_producer.excerpts.raw_ring import HeldSamples
from edge_producer.trust import SERVER, TrustedTime
from edge_producer.updates.service_client import DeliveryClient
from schemas.errors import AccessError, PermitError, RejectedError
from schemas.excerpt_permit import ExcerptPermit, SignedPermit, approver_of, check_limits
from schemas.excerpt_policy import ExcerptPolicy
from schemas.excerpt_words import PermitRefusal
from schemas.instants import from_us, to_us
from schemas.profile import Profile
from schemas.proto import delivery_pb2 as pb

log = logging.getLogger(__name__)

OUTCOMES_AT_ONCE = 32
PERMITS_AT_ONCE = 16
"""Permits of one answer that are looked at; the rest comes with the next."""
WAIT_S = 5.0
"""Longest pause before a permit is looked at again whose span is not over yet."""


class PermitFollower:
    """Of one thread; ``status`` from any.

    Args:
        device_id: The device.
        desk: Holds samples, and knows consent.
        ledger: What was made of earlier permits.
        running: Returns the device's profile.
        time: Trusted time.
    """

    def __init__(
        self,
        device_id: str,
        desk: ExcerptDesk,
        ledger: PermitLedger,
        running: Callable[[], Profile],
        time: TrustedTime,
    ) -> None:
        self._device_id, self._desk, self._ledger = device_id, desk, ledger
        self._running, self._time = running, time
        self._waiting: dict[str, str] = {}
        self._last: dict[str, Any] | None = None
        self.problem = ""
        desk.settle_unknown(device_id, ledger.claimed())

    @property
    def has_outcomes(self) -> bool:
        """Whether there is something that the service should hear at the next contact."""
        return bool(self._ledger.unreported(1))

    def refresh(self) -> bool:
        """Note how offers have ended; returns whether one has.

        Raises:
            OSError: The disk does not take it.
        """
        found = self._desk.outcomes(self._device_id)
        for one in found:
            self._ledger.settle(
                one.permit_id,
                one.state,
                self._time.now(),
                samples=one.samples,
                refusal=one.refusal,
                detail=one.detail,
            )
            log.info("permit %s: %s %s", one.permit_id, one.state.value, one.detail, extra=self._extra)
        return bool(found)

    def step(self, delivery: DeliveryClient, authorities_pem: str) -> float | None:
        """Tell the service how permits ended, and follow those that it hands out.

        Args:
            delivery: Answers.
            authorities_pem: Authorities that the device knows since it joined.

        Returns:
            Seconds after which a permit should be looked at again; None: none waits.

        Raises:
            AccessError: The certificate does not allow it.
            RetryableError: No answer now.
            OSError: The disk does not take what must be noted.
        """
        self.refresh()
        policy = self._running().excerpts
        told = self._ledger.unreported(OUTCOMES_AT_ONCE)
        if policy is None and not told:
            self._waiting = {}
            return None
        handed = self._fetch(delivery, told)
        if handed is None or not self._desk.is_sensing(self._device_id):
            return None
        authorities = _authorities(authorities_pem)
        self._waiting = {}
        for one in handed[:PERMITS_AT_ONCE]:
            self._consider(one, delivery, authorities, policy)
        return WAIT_S if self._waiting else None

    def _fetch(
        self, delivery: DeliveryClient, told: dict[str, LedgerEntry]
    ) -> Sequence[pb.HandedPermit] | None:
        """Permits that the service hands out; None: it knows none, being of an earlier release."""
        consent = self._desk.consent(self._device_id)
        outcomes = [
            pb.PermitOutcome(
                permit_id=i, state=e.state.value, refusal=e.refusal, detail=e.detail, samples=e.samples
            )
            for i, e in told.items()
        ]
        try:
            permits, at = delivery.fetch_permits(outcomes, consent.changes, consent=consent.given)
        except RejectedError as exc:
            if isinstance(exc, AccessError):
                raise
            if str(exc) != self.problem:
                log.warning("%s", exc, extra=self._extra)
            self.problem = str(exc)
            return None
        self.problem = ""
        self._time.learn(at, SERVER)
        self._ledger.note_reported(told, self._time.now())
        return permits

    def _consider(
        self,
        handed: pb.HandedPermit,
        delivery: DeliveryClient,
        authorities: Sequence[x509.Certificate],
        policy: ExcerptPolicy | None,
    ) -> None:
        known, expires = self._ledger.known(handed.permit_id), self._now()
        if known is not None:
            return  # its outcome is on the way
        try:
            signed = _opened(handed)
            approver = approver_of(signed, authorities, self._now())
            expires = signed.permit.expires_at
            held = self._held(signed.permit, policy)
            if held is not None:
                self._claim(signed.permit, approver, held, delivery)
        except PermitError as exc:
            log.warning("permit %.16s refused: %s", handed.permit_id, exc, extra=self._extra)
            self._last = {"permit": handed.permit_id[:16], "refusal": str(exc.refusal), "detail": str(exc)}
            self._ledger.refuse(handed.permit_id[:64], expires, exc, self._now())

    def _held(self, permit: ExcerptPermit, policy: ExcerptPolicy | None) -> HeldSamples | None:
        """The samples of a permit that may be followed now; None: its span is not over yet.

        Raises:
            PermitError: It may not be followed.
        """
        now = self._now()
        if permit.device_id != self._device_id:
            raise PermitError(f"it is for {permit.device_id}", PermitRefusal.OTHER_DEVICE)
        if now >= permit.expires_at:
            raise PermitError(f"it expired at {permit.expires_at.isoformat()}", PermitRefusal.EXPIRED)
        profile = self._running()
        check_limits(permit, policy, profile.name)
        assert policy is not None  # noqa: S101  (else the limits would have refused it)
        self._ledger.check(permit, policy.max_seconds_per_day, now)
        if not self._desk.consent(self._device_id).given:
            raise PermitError("whoever the samples are about has not consented", PermitRefusal.NO_CONSENT)
        reach = self._desk.reach(self._device_id)
        newest_us = to_us(now) if reach is None else reach[1]
        if to_us(permit.end) > newest_us and (reach is None or to_us(permit.start) >= reach[0]):
            self._waiting[permit.permit_id] = permit.end.isoformat()
            return None
        held = self._desk.take(permit)
        if held is None:
            what = "nothing" if reach is None else f"only {_span(reach)}"
            raise PermitError(f"{what} of {_span_of(permit)} is held", PermitRefusal.NOT_HELD)
        return held

    def _claim(
        self, permit: ExcerptPermit, approver: str, held: HeldSamples, delivery: DeliveryClient
    ) -> None:
        granted, reason = delivery.claim_permit(permit.permit_id)
        if not granted:
            raise PermitError(reason or "the service does not grant it", PermitRefusal.NOT_GRANTED)
        self._ledger.claim(permit, self._now())
        self._desk.offer(permit, approver, held)
        self._last = {"permit": permit.permit_id, "purpose": permit.purpose, "approver": approver}

    def status(self) -> dict[str, Any]:
        """For the status file; empty where the device has nothing to do with excerpts."""
        counts = self._ledger.status()
        if self._running().excerpts is None and not any(counts.values()):
            return {}
        return {
            **self._desk.status(self._device_id),
            "permits": counts,
            "waiting": dict(self._waiting),
            "last": self._last,
            "error": self.problem,
        }

    def _now(self) -> datetime:
        return self._ledger.time(self._time.now())

    @property
    def _extra(self) -> dict[str, str]:
        return {"device_id": self._device_id}


def _opened(handed: pb.HandedPermit) -> SignedPermit:
    signed = SignedPermit.from_bytes(handed.signed)
    if signed.permit.permit_id != handed.permit_id:
        raise PermitError("handed out under another id", PermitRefusal.MALFORMED)
    return signed


def _authorities(pem: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError as exc:
        raise AccessError("the join bundle holds no certificate of the authority") from exc


def _span(reach: tuple[int, int]) -> str:
    return f"{from_us(reach[0]).isoformat()} to {from_us(reach[1]).isoformat()}"


def _span_of(permit: ExcerptPermit) -> str:
    return f"{permit.start.isoformat()} to {permit.end.isoformat()}"

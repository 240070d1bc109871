"""The gRPC service `Enrollment`, for devices that have no valid certificate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cryptography import x509
from sqlalchemy import Connection

from model_service.holder import DEVICE_ID
from model_service.identity import certificates as certs
from model_service.identity.authority import issued_by
from model_service.identity.certificate_requests import (
    ISSUED,
    EnrolmentRequest,
    answered_requests,
    request_enrolment,
    request_renewal,
)
from model_service.service.answer_waiting import AnswerWaiter
from model_service.service.call_budgets import CallBudgets, CallRate
from model_service.service.door import ANYBODY, AccessRule, ServiceCall
from model_service.service.refusals import BadFieldError
from model_service.service.workers import WorkerThreads
from model_service.settings import ModelSettings
from schemas.errors import AccessError, ServiceUnavailableError
from schemas.proto.delivery_pb2 import EnrollRequest, EnrollResponse, RenewRequest

_RATE = CallRate(burst=500, per_s=20.0)
"""Of one address, behind which may be a whole site that joins or comes back."""
RULES = {"Enroll": AccessRule(ANYBODY, 20.0, _RATE), "Renew": AccessRule(ANYBODY, 20.0, _RATE)}
_AT_ONCE = 8
"""How many requests may wait for the registry at a time; strangers may call."""
_RENEWAL_S = 300.0
"""How often one device may renew its certificate, over time; short-lived certificates allow more."""
_REPLY_S = 0.1
"""Time kept for the reply, so that the caller gets an answer before its deadline."""


class EnrolmentService:
    """Handlers of the service.

    Args:
        settings: Lifetime of certificates.
        ca_pem: Certificate of the authority.
        workers: Threads for the registry.
        clock: UTC seconds.
        monotonic: Seconds.
    """

    def __init__(
        self,
        settings: ModelSettings,
        ca_pem: bytes,
        workers: WorkerThreads,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fresh_s = settings.certificate_s / 2
        self._renewals = CallRate(burst=10, per_s=1 / min(_RENEWAL_S, settings.certificate_s / 10))
        self._budgets = CallBudgets(monotonic)  # for the thread that writes
        self._ca_pem, self._ca = ca_pem, x509.load_pem_x509_certificate(ca_pem)
        self._workers, self._clock = workers, clock
        self._answers = AnswerWaiter(workers, answered_requests)
        self._writing = asyncio.Semaphore(_AT_ONCE)

    async def enroll(self, request: EnrollRequest, call: ServiceCall) -> EnrollResponse:
        """Redeem a join token."""
        if not DEVICE_ID.fullmatch(request.device_id):
            raise BadFieldError("device_id", "letters, digits and _.:-, at most 64")
        wanted = EnrolmentRequest(
            request.device_id,
            request.token,
            request.csr_pem,
            request.signing_key_pem,
            request.signing_proof,
        )
        return await self._certificate(
            request.device_id, lambda c: request_enrolment(c, wanted, self._clock()), call
        )

    async def renew(self, request: RenewRequest, call: ServiceCall) -> EnrollResponse:
        """A new certificate for an old one of this authority, expired or not, whose key the caller holds."""
        certificate = certs.read_certificate(request.certificate_pem)
        if not issued_by(certificate, self._ca):
            raise AccessError("the old certificate is not one of this authority")
        certs.check_renewal_proof(certificate, request.at_ms, request.csr_pem, request.proof)
        name = certs.read_holder(request.certificate_pem).name

        def permit() -> None:
            self._budgets.spend(name, self._renewals)

        return await self._certificate(
            name,
            lambda c: request_renewal(
                c, request.certificate_pem, request.csr_pem, self._clock(), self._fresh_s, permit
            ),
            call,
        )

    async def _certificate(
        self, name: str, store: Callable[[Connection], int], call: ServiceCall
    ) -> EnrollResponse:
        async with self._writing:
            row_id = await self._workers.write(store)
        call.identify(name)  # token or proof were right
        try:
            async with asyncio.timeout(max(0.0, call.remaining_s - _REPLY_S)):
                row = await self._answers.of(row_id)
        except TimeoutError as exc:
            raise ServiceUnavailableError(
                "the issuer has not answered yet: ask again with the same request"
            ) from exc
        if row["state"] != ISSUED:
            raise AccessError(row["reason"])
        return EnrollResponse(
            certificate_pem=row["certificate_pem"],
            ca_pem=self._ca_pem,
            server_time_ms=round(self._clock() * 1e3),
        )

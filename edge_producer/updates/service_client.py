"""The room's only door to gRPC: enrolment over server TLS, delivery over mutual TLS, errors translated."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from edge_producer.trust.verifier import MAX_FILES
from schemas.errors import (
    AccessError,
    RegistryError,
    RejectedError,
    RetryableError,
    ServiceUnavailableError,
    TrustError,
)
from schemas.join import JoinBundle
from schemas.proto import delivery_pb2 as pb
from schemas.proto import delivery_pb2_grpc as rpc
from schemas.proto import rpc_status_subset_pb2 as rpc_status
from schemas.updates import Attack

log = logging.getLogger(__name__)

CALL_S, METADATA_S = 10.0, 30.0
RETRY_S, LONGEST_WAIT_S = 1.0, 600.0
"""Pause before a call is tried again where the service asks for none, and the longest that it may ask for."""
MAX_MESSAGE_BYTES = 4 * 1024**2
"""Largest message; all metadata for a device that has none take a tenth of it."""
MAX_FIELDS = 2 * MAX_FILES + 16
"""Most fields in an answer with metadata: two bytes on the wire become an object of a hundred bytes."""
_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 20_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
_DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_SERVICE = pb.DESCRIPTOR.services_by_name["ModelDelivery"]
_UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_MISSING = (grpc.StatusCode.NOT_FOUND,)
_WRONG = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.ALREADY_EXISTS,
)


@dataclass(frozen=True)
class Credentials:
    """A certificate and its key: whoever has both can act as the device."""

    certificate_pem: bytes
    key_pem: bytes


@dataclass(frozen=True)
class FetchedMetadata:
    """An answer to ``FetchMetadata``: names and bytes, none of it verified."""

    metadata: list[tuple[str, bytes]]
    documents: list[tuple[str, bytes]]
    server_time: datetime


@dataclass(frozen=True)
class IssuedCertificate:
    """A new certificate."""

    certificate_pem: bytes
    server_time: datetime


class EnrolmentClient:
    """Client of the server-TLS listener, for a device without a valid certificate."""

    def __init__(self, join: JoinBundle) -> None:
        self._join = join

    def enrol(self, csr_pem: bytes, signing_key_pem: str, signing_proof: bytes) -> IssuedCertificate:
        """Redeem the join bundle's token.

        Args:
            csr_pem: Request for a certificate.
            signing_key_pem: Public key that seals telemetry.
            signing_proof: Its signature over ``schemas.possession.enrolment_text``.

        Raises:
            AccessError: The token is used, expired or another device's.
            ServiceUnavailableError: No answer in time.
        """
        request = pb.EnrollRequest(
            device_id=self._join.device_id,
            token=self._join.token,
            csr_pem=csr_pem,
            signing_key_pem=signing_key_pem,
            signing_proof=signing_proof,
        )
        with self._stub() as stub, _translated("enrol"):
            return _issued(stub.Enroll(request, timeout=CALL_S))

    def renew(self, certificate_pem: bytes, csr_pem: bytes, at_ms: int, proof: bytes) -> IssuedCertificate:
        """A new certificate for an old one, expired or not.

        Raises:
            AccessError: Revoked, or no proof of possession.
            ServiceUnavailableError: No answer in time.
        """
        request = pb.RenewRequest(certificate_pem=certificate_pem, csr_pem=csr_pem, at_ms=at_ms, proof=proof)
        with self._stub() as stub, _translated("renew"):
            return _issued(stub.Renew(request, timeout=CALL_S))

    @contextmanager
    def _stub(self) -> Iterator[rpc.EnrollmentStub]:
        credentials = grpc.ssl_channel_credentials(self._join.ca_pem.encode())
        channel = _channel(self._join.enrollment, self._join.server_name, credentials)
        try:
            yield rpc.EnrollmentStub(channel)  # type: ignore[no-untyped-call]  # generated
        finally:
            channel.close()


class DeliveryClient:
    """Client of the mTLS listener, as one device. Safe for use by several threads."""

    def __init__(self, join: JoinBundle, credentials: Credentials) -> None:
        self._device_id = join.device_id
        secured = grpc.ssl_channel_credentials(
            join.ca_pem.encode(), credentials.key_pem, credentials.certificate_pem
        )
        self._channel = _channel(join.delivery, join.server_name, secured)
        self._stub = rpc.ModelDeliveryStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        self._fetch_metadata = self._channel.unary_unary(
            f"/{_SERVICE.full_name}/FetchMetadata",
            request_serializer=pb.FetchMetadataRequest.SerializeToString,
        )  # no deserializer: the answer stays bytes until its fields have been counted

    def fetch_metadata(self, versions: dict[str, int], documents: dict[str, str]) -> FetchedMetadata:
        """The trust metadata and signed documents that the device lacks, in one round trip.

        Args:
            versions: Version of each role's metadata that the device has.
            documents: SHA-256 of each document that the device has, by target path.

        Raises:
            AccessError: The certificate does not allow it.
            ServiceUnavailableError: No answer in time, or none that can be read.
            TrustError: The answer has more parts than any honest one.
        """
        request = pb.FetchMetadataRequest(device_id=self._device_id, versions=versions, documents=documents)
        with _translated("fetch metadata"):
            answer = _metadata(self._fetch_metadata(request, timeout=METADATA_S))
        return FetchedMetadata(
            [(f.name, f.data) for f in answer.metadata],
            [(f.name, f.data) for f in answer.documents],
            _time(answer.server_time_ms),
        )

    def fetch_artifact(
        self, sha256: str, offset: int, stall_s: float, total_s: float
    ) -> Generator[tuple[int, bytes]]:
        """Chunks of an artifact from an offset on; closing the iterator ends the call.

        Args:
            sha256: Hex.
            offset: First byte wanted.
            stall_s: Longest wait for the next chunk.
            total_s: Longest time for all of them.

        Raises:
            RegistryError: The service has no such artifact.
            ServiceUnavailableError: The stream broke.
            TrustError: Nothing came for ``stall_s``.
        """
        request = pb.FetchArtifactRequest(device_id=self._device_id, sha256=sha256, offset=offset)
        call = self._stub.FetchArtifact(request, timeout=total_s)
        watchdog = _Watchdog(call.cancel, stall_s)
        try:
            with _translated("fetch an artifact"):
                for chunk in call:
                    watchdog.reset()
                    yield chunk.offset, chunk.data
        except ServiceUnavailableError as exc:
            if watchdog.fired:
                raise TrustError(f"nothing came for {stall_s:.0f} s", Attack.SLOW_RETRIEVAL) from exc
            raise
        finally:
            watchdog.end()
            call.cancel()

    def watch(self) -> Iterator[int]:
        """Hints until the stream ends: the newest timestamp metadata's version that the service knows.

        Raises:
            AccessError: The certificate does not allow it.
            ServiceUnavailableError: The stream broke.
        """
        with _translated("watch"):
            for hint in self._stub.Watch(pb.WatchRequest(device_id=self._device_id)):
                yield int(hint.timestamp_version)

    def report(self, request: pb.ReportRequest) -> datetime:
        """Send a report; returns the service's time.

        Raises:
            RejectedError: The service refuses this report for good.
            RetryableError: The service answered, but does not take it now; its ``retry_after_s`` says when.
            ServiceUnavailableError: No answer in time.
        """
        with _translated("report"):
            return _time(self._stub.Report(request, timeout=CALL_S).server_time_ms)

    def fetch_permits(
        self, outcomes: Sequence[pb.PermitOutcome], changes: int, *, consent: bool
    ) -> tuple[Sequence[pb.HandedPermit], datetime]:
        """Permits that are not settled, unverified, and the service's time; tells what became of others.

        Raises:
            RejectedError: The service knows no permits: it is of an earlier release.
            RetryableError: No answer now.
        """
        request = pb.FetchPermitsRequest(
            device_id=self._device_id, consent=consent, consent_changes=changes, outcomes=outcomes
        )
        with _translated("fetch permits"):
            answer = self._stub.FetchPermits(request, timeout=CALL_S)
        return answer.permits, _time(answer.server_time_ms)

    def claim_permit(self, permit_id: str) -> tuple[bool, str]:
        """Whether a permit may be followed now, and why not.

        Raises:
            RetryableError: No answer now: claim it again.
        """
        request = pb.ClaimPermitRequest(device_id=self._device_id, permit_id=permit_id)
        with _translated("claim a permit"):
            answer = self._stub.ClaimPermit(request, timeout=CALL_S)
        return bool(answer.granted), str(answer.reason)

    def close(self) -> None:
        """End every call and the connection."""
        self._channel.close()


class _Watchdog:
    """Cancels a call that has stalled: a stream's own deadline cannot distinguish slow from stalled."""

    def __init__(self, cancel: Callable[[], object], after_s: float) -> None:
        self.fired = False
        self._cancel = cancel
        self._after_s = after_s
        self._due_s = time.monotonic() + after_s
        self._over = threading.Event()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def reset(self) -> None:
        self._due_s = time.monotonic() + self._after_s

    def end(self) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(max(self._due_s - time.monotonic(), 0.01)):
            if time.monotonic() >= self._due_s:
                self.fired = True
                self._cancel()
                return


def _channel(address: str, server_name: str, credentials: grpc.ChannelCredentials) -> grpc.Channel:
    named = [("grpc.ssl_target_name_override", server_name), ("grpc.default_authority", server_name)]
    return grpc.secure_channel(address, credentials, options=[*_OPTIONS, *named])


def _metadata(raw: bytes) -> pb.FetchMetadataResponse:
    """An answer's bytes, parsed if it has few enough fields.

    Raises:
        ValueError: The bytes are not such a message.
        TrustError: Too many fields.
    """
    if count_fields(raw, MAX_FIELDS) > MAX_FIELDS:
        raise TrustError(f"metadata in more than {MAX_FIELDS} parts", Attack.ENDLESS_DATA)
    try:
        return pb.FetchMetadataResponse.FromString(raw)
    except DecodeError as exc:
        raise ValueError(f"the answer cannot be read: {exc}") from exc


def count_fields(raw: bytes, limit: int) -> int:
    """Number of fields on the top level of a protobuf message; counting stops just above the limit.

    Reads the wire format alone: a tag (field number << 3 | wire type), then a payload whose length follows
    from the wire type. So a hostile answer costs no objects.

    Raises:
        ValueError: The message is cut off, or has a wire type that the service never sends.
    """
    at = fields = 0
    while at < len(raw) and fields <= limit:
        tag, at = _varint(raw, at)
        kind = tag & 7
        if kind == _LENGTH:
            size, at = _varint(raw, at)
            at += size
        elif kind == _VARINT:
            _, at = _varint(raw, at)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise ValueError(f"a field of kind {kind}")
        fields += 1
    if at > len(raw):
        raise ValueError("the answer is cut off")
    return fields


_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A base-128 number, low bits first, 0x80 set in all bytes but the last; and the offset behind it."""
    value = 0
    for shift, byte in enumerate(raw[at : at + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError("the answer is cut off")


def _issued(answer: pb.EnrollResponse) -> IssuedCertificate:
    return IssuedCertificate(bytes(answer.certificate_pem), _time(answer.server_time_ms))


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(min(max(ms, 0), 7_000_000_000_000) / 1000, UTC)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Translate gRPC's errors into the project's, by status code."""
    try:
        yield
    except grpc.RpcError as exc:
        code, detail = _status(exc)
        message = f"cannot {what}: {code.name}: {detail}"
        if code in _DENIED:
            raise AccessError(message) from exc
        if code in _MISSING:
            raise RegistryError(message) from exc
        if code in _WRONG:
            raise RejectedError(message) from exc
        kind = ServiceUnavailableError if code in _UNAVAILABLE else RetryableError
        raise kind(message, _retry_after_s(exc)) from exc
    except ValueError as exc:  # gRPC raises it when another thread has closed the channel
        raise ServiceUnavailableError(f"cannot {what}: {exc}") from exc


def _retry_after_s(error: grpc.RpcError) -> float:
    """Seconds after which the service wants to be asked again, as far as it says so and we believe it."""
    try:
        metadata = dict(error.trailing_metadata() or ()) if isinstance(error, grpc.Call) else {}
        status = rpc_status.Status.FromString(metadata.get("grpc-status-details-bin", b""))
        for detail in status.details:
            if detail.type_url.endswith("/google.rpc.RetryInfo"):
                delay = rpc_status.RetryInfo.FromString(detail.value).retry_delay
                return min(max(delay.seconds + delay.nanos / 1e9, 0.0), LONGEST_WAIT_S)
    except (DecodeError, TypeError):
        pass  # a service that we do not know, or one that lies: ask again as after any error
    return RETRY_S


def _status(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, grpc.Call):
        return error.code(), str(error.details())[:300]
    return grpc.StatusCode.UNKNOWN, str(error)[:300]

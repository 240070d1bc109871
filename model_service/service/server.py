"""The two gRPC listeners: enrolment over server TLS; delivery and administration over mutual TLS."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from model_service.identity.authority import read_ca, read_pair, server_paths
from model_service.settings import ModelSettings
from schemas.errors import DamagedFileError, OperatorError
from schemas.proto import delivery_pb2, fleet_pb2

log = logging.getLogger(__name__)

ENROLLMENT = delivery_pb2.DESCRIPTOR.services_by_name["Enrollment"]
DELIVERY = delivery_pb2.DESCRIPTOR.services_by_name["ModelDelivery"]
FLEET = fleet_pb2.DESCRIPTOR.services_by_name["FleetAdmin"]
_PING_MS = 30_000
_MIN_PING_MS = 5_000


@dataclass(frozen=True)
class ListenerLimits:
    """Bounds of one listener.

    Attributes:
        request_bytes: Larger requests are refused before they are read.
        streams: Largest number of concurrent calls of one connection.
        age_s: Longest life of a connection.
        idle_s: Longest time of a connection without a call.
    """

    request_bytes: int
    streams: int
    age_s: float
    idle_s: float


STRANGERS = ListenerLimits(request_bytes=32 * 1024, streams=8, age_s=120.0, idle_s=30.0)


def callers(settings: ModelSettings) -> ListenerLimits:
    """Bounds of the listener for holders of a certificate."""
    age_s = settings.connection_age_s  # else an open connection could outlive its certificate
    return ListenerLimits(request_bytes=256 * 1024, streams=64, age_s=age_s, idle_s=age_s)


class Listener:
    """A gRPC server on one address.

    Args:
        settings: Times.
        credentials: TLS credentials of the server.
        limits: Bounds of its connections.
        handlers: Of its services.
    """

    def __init__(
        self,
        settings: ModelSettings,
        credentials: grpc.ServerCredentials,
        limits: ListenerLimits,
        handlers: Sequence[grpc.GenericRpcHandler],
    ) -> None:
        self._credentials = credentials
        self._server = grpc.aio.server(options=_options(settings, limits))
        self._server.add_generic_rpc_handlers(tuple(handlers))

    async def start(self, address: str) -> int:
        """Listen, once: gRPC cannot use the credentials a second time.

        Args:
            address: ``unix:PATH``, or host:port, where port 0 means any.

        Returns:
            The port; 1 for a Unix socket.

        Raises:
            OperatorError: It cannot listen there.
        """
        try:
            port = int(self._server.add_secure_port(address, self._credentials))
        except RuntimeError as exc:
            raise OperatorError(f"the model service cannot listen on {address}: {exc}") from exc
        await self._server.start()
        return port

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls; cancel those that still run after the grace period."""
        await self._server.stop(grace_s)


def credentials(settings: ModelSettings, *, mutual: bool) -> grpc.ServerCredentials:
    """TLS credentials of a listener; a renewed certificate is used from the next handshake on.

    Raises:
        OperatorError: Key or certificates are missing.
        DamagedFileError: They are damaged, or do not belong together.
    """
    files = _TlsFiles(settings, mutual=mutual)
    try:
        first = files.read()
    except FileNotFoundError as exc:
        raise OperatorError(f"the model service has no certificate yet: {exc}") from exc
    return grpc.dynamic_ssl_server_credentials(first, files.renewed, mutual)


class _TlsFiles:
    """The server's key and certificate on disk, which the issuer renews."""

    def __init__(self, settings: ModelSettings, *, mutual: bool) -> None:
        self._key, self._certificate = server_paths(settings)
        self._settings = settings if mutual else None
        self._read_ns = 0

    def read(self) -> Any:
        """Certificate configuration for gRPC."""
        self._read_ns = self._certificate.stat().st_mtime_ns
        pair = read_pair(self._key, self._certificate)
        ca = None if self._settings is None else read_ca(self._settings)
        return grpc.ssl_server_certificate_configuration([pair], ca)

    def renewed(self) -> Any:
        """New certificate configuration; None: unchanged. gRPC's own threads call it at each handshake."""
        try:
            changed = self._certificate.stat().st_mtime_ns != self._read_ns
            return self.read() if changed else None
        except (OSError, DamagedFileError) as exc:
            log.warning("the server's certificate cannot be read again: %s", exc)
            return None


def _options(settings: ModelSettings, limits: ListenerLimits) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # a second process must get an error, not share the port
        ("grpc.max_receive_message_length", limits.request_bytes),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.max_concurrent_streams", limits.streams),
        ("grpc.server_handshake_timeout_ms", _ms(settings.stranger_s)),
        ("grpc.max_connection_age_ms", _ms(limits.age_s)),
        ("grpc.max_connection_age_grace_ms", _ms(settings.drain_s)),
        ("grpc.max_connection_idle_ms", _ms(limits.idle_s)),
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_MS),
    ]


def _ms(seconds: float) -> int:
    return round(seconds * 1e3)

"""The two gRPC listeners: enrolment over server TLS; delivery and administration over mutual TLS."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from model_service.identity.authority import ca_path, server_paths
from model_service.settings import ModelSettings
from schemas.errors import OperatorError
from schemas.proto import delivery_pb2, fleet_pb2

log = logging.getLogger(__name__)

ENROLLMENT = delivery_pb2.DESCRIPTOR.services_by_name["Enrollment"]
DELIVERY = delivery_pb2.DESCRIPTOR.services_by_name["ModelDelivery"]
FLEET = fleet_pb2.DESCRIPTOR.services_by_name["FleetAdmin"]
MAX_REQUEST_BYTES = 256 * 1024
MAX_STRANGER_BYTES = 32 * 1024
_STREAMS = 64
"""Largest number of concurrent calls of one connection."""
_SERVICES = (ENROLLMENT, DELIVERY, FLEET)
_PING_MS = 30_000
_MIN_PING_MS = 5_000


class Listener:
    """A gRPC server on one port.

    Args:
        settings: Host, longest life of a connection.
        credentials: TLS credentials of the server.
        max_request_bytes: Larger requests are refused before they are read.
        handlers: By service name.
        health_servicer: Shared by both listeners.
    """

    def __init__(
        self,
        settings: ModelSettings,
        credentials: grpc.ServerCredentials,
        max_request_bytes: int,
        handlers: Mapping[str, grpc.GenericRpcHandler],
        health_servicer: Any,
    ) -> None:
        self._host, self._credentials = settings.host, credentials
        self._server = grpc.aio.server(options=_options(settings, max_request_bytes))
        self._server.add_generic_rpc_handlers(tuple(handlers.values()))
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, self._server)
        names = (*handlers, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self, wanted: int, earlier: int | None) -> int:
        """Listen.

        Args:
            wanted: Port; 0: the earlier one if it is free, else any.
            earlier: Port of the previous process; None: not known.

        Returns:
            The port.

        Raises:
            OperatorError: The wanted port is taken.
        """
        port = self._bind([wanted] if wanted else [earlier or 0, 0])
        await self._server.start()
        return port

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls; cancel those that still run after the grace period."""
        await self._server.stop(grace_s)

    def _bind(self, ports: Sequence[int]) -> int:
        for port in ports:
            try:
                return int(self._server.add_secure_port(f"{self._host}:{port}", self._credentials))
            except RuntimeError:
                log.info("port %d is taken", port)
        raise OperatorError(f"the model service cannot listen on {self._host}:{ports[0]}: the port is taken")


def credentials(settings: ModelSettings, *, mutual: bool) -> grpc.ServerCredentials:
    """TLS credentials of a listener; a renewed certificate is used from the next handshake on.

    Raises:
        OperatorError: Key or certificates are missing.
    """
    files = _TlsFiles(settings, mutual=mutual)
    try:
        first = files.read()
    except OSError as exc:
        raise OperatorError(f"the model service has no certificate yet: {exc}") from exc
    return grpc.dynamic_ssl_server_credentials(first, files.renewed, mutual)


class _TlsFiles:
    """The server's key and certificate on disk, which the issuer renews."""

    def __init__(self, settings: ModelSettings, *, mutual: bool) -> None:
        self._key, self._certificate = server_paths(settings)
        self._ca = ca_path(settings) if mutual else None
        self._read_ns = 0

    def read(self) -> Any:
        """Certificate configuration for gRPC."""
        self._read_ns = self._certificate.stat().st_mtime_ns
        pair = (self._key.read_bytes(), self._certificate.read_bytes())
        ca = None if self._ca is None else self._ca.read_bytes()
        return grpc.ssl_server_certificate_configuration([pair], ca)

    def renewed(self) -> Any:
        """New certificate configuration; None: unchanged. gRPC's own threads call it at each handshake."""
        try:
            changed = self._certificate.stat().st_mtime_ns != self._read_ns
            return self.read() if changed else None
        except OSError as exc:
            log.warning("the server's certificate cannot be read again: %s", exc)
            return None


def new_health() -> Any:
    """A health servicer that knows no service yet."""
    return health.aio.HealthServicer()


async def set_serving(servicer: Any) -> None:
    """Set every service to SERVING."""
    for name in ("", *(s.full_name for s in _SERVICES)):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)


async def set_draining(servicer: Any) -> None:
    """Set every service to NOT_SERVING for good, so that balancers use other servers."""
    await servicer.enter_graceful_shutdown()


def _options(settings: ModelSettings, max_request_bytes: int) -> list[tuple[str, int]]:
    age_ms = round(settings.connection_age_s * 1e3)
    return [
        ("grpc.so_reuseport", 0),  # a second process must get an error, not share the port
        ("grpc.max_receive_message_length", max_request_bytes),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.max_concurrent_streams", _STREAMS),
        ("grpc.max_connection_age_ms", age_ms),  # else an open connection could outlive its certificate
        ("grpc.max_connection_age_grace_ms", round(settings.drain_s * 1e3)),
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_MS),
    ]

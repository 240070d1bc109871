"""gRPC's own services, health and reflection, behind the same door as ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from model_service.service.call_budgets import CallRate
from model_service.service.door import ANYBODY, AccessRule, ServiceCall
from model_service.service.refusals import UnknownNameError
from schemas.updates import Role

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_LEAVE_S = 0.05
"""How long before its time is over a stream returns, so that it ends normally."""
_HOLDERS = frozenset(Role)
_RATE = CallRate(burst=120, per_s=10.0)


def health_rules(watch_s: float, *, strangers: bool) -> dict[str, AccessRule]:
    """Access rules: any holder of a certificate, or anybody on the listener for strangers.

    Args:
        watch_s: Longest life of a stream.
        strangers: Whether callers have no certificate.
    """
    roles = ANYBODY if strangers else _HOLDERS
    rules = {name: AccessRule(roles, 5.0, _RATE) for name in ("Check", "List")}
    return {**rules, "Watch": AccessRule(roles, watch_s, _RATE)}


def reflection_rules(*, strangers: bool) -> dict[str, AccessRule]:
    """Access rules: as for health."""
    roles = ANYBODY if strangers else _HOLDERS
    return {"ServerReflectionInfo": AccessRule(roles, 20.0, _RATE)}


class HealthService:
    """Handlers of ``grpc.health.v1.Health``; every service has the same state.

    Args:
        names: Full names of the services.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names) | {""}
        self._status = _NOT_SERVING
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """Set the state, and tell it to who watches."""
        self._status = _SERVING if serving else _NOT_SERVING
        self._changed.set()
        self._changed = asyncio.Event()

    async def check(
        self, request: health_pb2.HealthCheckRequest, _call: ServiceCall
    ) -> health_pb2.HealthCheckResponse:
        """The state of a service."""
        if request.service not in self._names:
            raise UnknownNameError(f"no service {request.service[:64]!r}")
        return health_pb2.HealthCheckResponse(status=self._status)

    async def list(
        self, _request: health_pb2.HealthListRequest, _call: ServiceCall
    ) -> health_pb2.HealthListResponse:
        """The state of every service."""
        state = health_pb2.HealthCheckResponse(status=self._status)
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self._names, state))

    async def watch(
        self, request: health_pb2.HealthCheckRequest, call: ServiceCall
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        """The state of a service at once, then each change."""
        told = None
        try:
            while True:
                call.check()
                changed = self._changed
                status = self._status if request.service in self._names else _UNKNOWN
                if status != told:
                    told = status
                    yield health_pb2.HealthCheckResponse(status=status)
                async with asyncio.timeout_at(call.until - _LEAVE_S):
                    await changed.wait()
        except TimeoutError:
            return


class ReflectionService:
    """Handlers of ``grpc.reflection.v1alpha.ServerReflection``.

    Args:
        names: Full names of the services of this listener.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._servicer = reflection.aio.ReflectionServicer((*names, REFLECTION.full_name))

    async def server_reflection_info(
        self, requests: AsyncIterator[Any], _call: ServiceCall
    ) -> AsyncGenerator[reflection_pb2.ServerReflectionResponse, None]:
        """An answer to each question about names and types."""
        async for answer in self._servicer.ServerReflectionInfo(requests, None):
            yield answer

"""The public process: runs the listeners, polls for changes ten times a second, ends gracefully."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from model_service.address import Address, reachable_host, read_address, write_address
from model_service.identity.authority import ca_path
from model_service.processes.process_loop import ProcessJob, ProcessLoop
from model_service.registry.database import Registry
from model_service.service import delivery, enrolment_service, fleet_admin, server
from model_service.service.access import AccessList
from model_service.service.connections.connection_bounds import ConnectionBounds, ConnectionLimits
from model_service.service.connections.connection_relay import ConnectionRelay
from model_service.service.connections.descriptors import raise_descriptor_limit
from model_service.service.connections.private_sockets import private_sockets
from model_service.service.door import AccessRule, CallDoor
from model_service.service.standard_services import (
    HEALTH,
    REFLECTION,
    HealthService,
    ReflectionService,
    health_rules,
    reflection_rules,
)
from model_service.service.stream_wakeup import StreamWakeup, TimestampFile
from model_service.service.workers import WorkerThreads
from model_service.settings import ModelSettings

log = logging.getLogger(__name__)

POLL_S = 0.1
"""Pause between two reads of the repository's timestamp: limits how late a hint may be."""
REVOKED_S = 0.3
"""Pause between two copies of the revocations."""
REFUSALS_S = 5.0
"""Pause between two looks at how many refusals there were."""
PULSE_S = 15.0
"""Pause after which every stream checks again whether its certificate has expired."""


def run(settings: ModelSettings, stop: threading.Event) -> None:
    """Serve until ``stop`` is set.

    Raises:
        OperatorError: There are no certificates yet, or a port is taken.
        RetryableError: The registry is out of reach at the start.
    """
    registry = Registry.open(settings.database_url, settings.root)
    try:
        asyncio.run(_serve(settings, registry, stop))
    finally:
        registry.close()


@dataclass
class _Parts:
    """Objects that the handlers of one run of the server share."""

    workers: WorkerThreads
    access: AccessList
    wakeup: StreamWakeup
    timestamp: TimestampFile
    relay: ConnectionRelay
    door: CallDoor
    health: HealthService


async def _serve(settings: ModelSettings, registry: Registry, stop: threading.Event) -> None:
    descriptors = raise_descriptor_limit()
    with private_sockets(settings.root) as folder:
        parts = _parts(settings, registry, descriptors, folder)
        try:
            await _run(settings, parts, folder, stop)
        finally:
            parts.relay.stop()
            parts.workers.close()


async def _run(settings: ModelSettings, parts: _Parts, folder: Path, stop: threading.Event) -> None:
    await parts.workers.read(parts.access.refresh)
    parts.wakeup.set_version(parts.timestamp.version())
    listeners = _listeners(settings, parts)
    await _start(settings, parts, listeners, folder)
    parts.health.set_serving(True)
    await ProcessLoop(_jobs(settings, parts), POLL_S).run_async(stop)
    log.info("draining")
    parts.relay.drain()
    parts.health.set_serving(False)
    parts.wakeup.drain()
    await asyncio.gather(*(one.stop(settings.drain_s) for one in listeners))


def _parts(settings: ModelSettings, registry: Registry, descriptors: int, folder: Path) -> _Parts:
    limits = ConnectionLimits.within(descriptors, settings.stranger_s)
    log.info(
        "connections: at most %d, of strangers %d, of strangers of one address %d",
        limits.silent + limits.whole,
        limits.silent + limits.greeted,
        limits.silent_each + limits.greeted_each,
    )
    access, relay = AccessList(), ConnectionRelay(ConnectionBounds(limits), folder)
    timestamp = TimestampFile(Path(settings.repository) / "metadata" / "timestamp.json")
    names = [s.full_name for s in (server.ENROLLMENT, server.DELIVERY, server.FLEET)]
    door, health = CallDoor(access, relay), HealthService(names)
    return _Parts(WorkerThreads(registry), access, StreamWakeup(), timestamp, relay, door, health)


def _listeners(settings: ModelSettings, parts: _Parts) -> tuple[server.Listener, server.Listener]:
    """The listener for enrolment, and the one for delivery and administration."""
    open_tls, mutual = (server.credentials(settings, mutual=m) for m in (False, True))
    enroll = enrolment_service.EnrolmentService(settings, ca_path(settings).read_bytes(), parts.workers)
    deliver = delivery.ModelDelivery(settings, parts.workers, parts.wakeup)
    admin = fleet_admin.FleetAdmin(settings, parts.workers, parts.access, parts.wakeup, deliver.watching)
    services = _handlers(settings, parts, [(server.ENROLLMENT, enroll, enrolment_service.RULES)], strangers=True)
    own = [
        (server.DELIVERY, deliver, delivery.rules(settings)),
        (server.FLEET, admin, fleet_admin.RULES),
    ]
    return (
        server.Listener(settings, open_tls, server.STRANGERS, services),
        server.Listener(
            settings, mutual, server.callers(settings), _handlers(settings, parts, own, strangers=False)
        ),
    )


def _handlers(
    settings: ModelSettings,
    parts: _Parts,
    own: Sequence[tuple[ServiceDescriptor, object, Mapping[str, AccessRule]]],
    *,
    strangers: bool,
) -> list[Any]:
    """Guarded handlers of a listener's own services, and of gRPC's."""
    names = [descriptor.full_name for descriptor, _, _ in own]
    standard = (
        (HEALTH, parts.health, health_rules(settings.connection_age_s, strangers=strangers)),
        (
            REFLECTION,
            ReflectionService((*names, HEALTH.full_name)),
            reflection_rules(strangers=strangers),
        ),
    )
    return [parts.door.guard(*service) for service in (*own, *standard)]


async def _start(
    settings: ModelSettings,
    parts: _Parts,
    listeners: tuple[server.Listener, server.Listener],
    folder: Path,
) -> None:
    earlier = read_address(settings)
    before = (0, 0) if earlier is None else (earlier.enrollment_port, earlier.delivery_port)
    wanted = (settings.enrollment_port, settings.delivery_port)
    ports = []
    for listener, name, given, last in zip(listeners, ("enrolment", "delivery"), wanted, before, strict=True):
        socket = folder / name
        await listener.start(f"unix:{socket}")
        ports.append(parts.relay.listen(settings.host, (given,) if given else (last, 0), socket))
    parts.relay.start()
    address = Address(
        host=reachable_host(settings), enrollment_port=ports[0], delivery_port=ports[1], pid=os.getpid()
    )
    write_address(settings, address)
    log.info("serving: enrolment on %d, delivery on %d", *ports)
    if earlier is not None and before != tuple(ports):
        log.warning(
            "the ports were %d and %d: devices look there until they get a join bundle with the new ones", *before
        )


def _jobs(settings: ModelSettings, parts: _Parts) -> tuple[ProcessJob, ...]:
    """What is repeated: wake the streams after a publication and a revocation, watch the relay, sum up refusals."""
    def read_publication() -> None:
        parts.wakeup.set_version(parts.timestamp.version())

    async def copy_revocations() -> None:
        # While this fails, the copy ages; once it is too old, nobody is let in (service/access.py).
        if await parts.workers.read(parts.access.refresh):
            parts.wakeup.wake()

    return (
        ProcessJob("connections", parts.relay.check),
        ProcessJob("publications", read_publication),
        ProcessJob("revocations", copy_revocations, REVOKED_S),
        ProcessJob("expiring certificates", parts.wakeup.wake, PULSE_S),
        ProcessJob("refusals", parts.door.log_sums, REFUSALS_S),
    )

"""The public process: runs the listeners, polls for changes ten times a second, ends gracefully."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from model_service.fleet.revocation_copies import RevocationCopies
from model_service.identity.authority import read_ca
from model_service.processes.process_loop import ProcessJob, ProcessLoop
from model_service.processes.serve_ports import ServePorts
from model_service.refusal_counts import RefusalCounts, write_refusals
from model_service.registry.database import Registry
from model_service.service import delivery, enrolment_service, fleet_admin, server
from model_service.service import standard_services as standard
from model_service.service.access import AccessList
from model_service.service.connections.connection_bounds import ConnectionBounds, ConnectionLimits
from model_service.service.connections.connection_relay import ConnectionRelay
from model_service.service.connections.descriptors import raise_descriptor_limit
from model_service.service.connections.private_sockets import private_sockets
from model_service.service.door import AccessRule, CallDoor
from model_service.service.stream_wakeup import StreamWakeup, TimestampFile
from model_service.service.workers import WorkerThreads
from model_service.settings import ModelSettings
from schemas.kept_memory import keep_memory

log = logging.getLogger(__name__)

POLL_S = 0.1
"""Pause between two reads of the repository's timestamp: limits how late a hint may be."""
REVOKED_S = 0.3
"""Pause between two copies of the revocations."""
PULSE_S = 15.0
"""Pause after which every stream checks again whether its certificate has expired."""
PORTS_S = 5.0
"""Pause between two tries of a port from before that another program has."""
MAPPED_BYTES, KEPT_BYTES = 8 * 1024**2, 32 * 1024**2
"""What glibc keeps for the chunks of artifacts."""
REFUSALS_S, TWINS_S = 5.0, 30.0
"""Pause between two looks at what was refused, and at what twins reported."""
_WORST = 5
"""Network addresses named in the file of refusals."""

GuardedService = tuple[ServiceDescriptor, object, Mapping[str, AccessRule]]


def run(settings: ModelSettings, stop: threading.Event) -> None:
    """Serve until ``stop`` is set.

    Raises:
        OperatorError: There are no certificates yet, or a port is taken.
        RetryableError: The registry is out of reach at the start.
    """
    keep_memory(MAPPED_BYTES, KEPT_BYTES)
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
    health: standard.HealthService
    deliver: delivery.ModelDelivery


async def _serve(settings: ModelSettings, registry: Registry, stop: threading.Event) -> None:
    limits = ConnectionLimits.within(raise_descriptor_limit(), settings.stranger_s)
    log.info("connections: %s", limits.summary)
    with private_sockets(settings.root) as folder:
        parts = _parts(settings, registry, ConnectionRelay(ConnectionBounds(limits), folder))
        try:
            await _run(settings, parts, folder, stop)
        finally:
            parts.relay.stop()
            parts.workers.close()


async def _run(settings: ModelSettings, parts: _Parts, folder: Path, stop: threading.Event) -> None:
    await parts.workers.read(parts.access.refresh)
    parts.wakeup.set_version(parts.timestamp.version())
    listeners = _listeners(settings, parts)
    sockets = (folder / "enrolment", folder / "delivery")
    ports = ServePorts(settings, parts.relay, *sockets)
    try:
        for listener, socket in zip(listeners, sockets, strict=True):
            await listener.start(f"unix:{socket}")
        parts.relay.start()
        await ports.bind()
        parts.health.set_serving(True)
        await ProcessLoop(_jobs(settings, parts, ports), POLL_S).run_async(stop)
        log.info("draining")
        parts.relay.drain()
        parts.health.set_serving(False)
        parts.wakeup.drain()
        await asyncio.gather(*(one.stop(settings.drain_s) for one in listeners))
        await parts.deliver.record_twins(all_now=True)
    finally:
        await asyncio.gather(*(one.stop(0.0) for one in listeners))


def _parts(settings: ModelSettings, registry: Registry, relay: ConnectionRelay) -> _Parts:
    access = AccessList(copies=RevocationCopies(settings.root).all)
    workers, wakeup = WorkerThreads(registry), StreamWakeup()
    timestamp = TimestampFile(Path(settings.repository) / "metadata" / "timestamp.json")
    names = [s.full_name for s in (server.ENROLLMENT, server.DELIVERY, server.FLEET)]
    return _Parts(
        workers=workers,
        access=access,
        wakeup=wakeup,
        timestamp=timestamp,
        relay=relay,
        door=CallDoor(access, relay),
        health=standard.HealthService(names),
        deliver=delivery.ModelDelivery(settings, workers, wakeup),
    )


def _listeners(settings: ModelSettings, parts: _Parts) -> tuple[server.Listener, server.Listener]:
    """The listener for enrolment, and the one for delivery and administration."""
    open_tls, mutual = (server.credentials(settings, mutual=m) for m in (False, True))
    enroll = enrolment_service.EnrolmentService(settings, read_ca(settings), parts.workers)
    deliver, wakeup = parts.deliver, parts.wakeup
    admin = fleet_admin.FleetAdmin(
        settings, parts.workers, parts.access, wakeup, deliver.watching, deliver.twins
    )
    for_strangers: list[GuardedService] = [(server.ENROLLMENT, enroll, enrolment_service.RULES)]
    for_callers: list[GuardedService] = [
        (server.DELIVERY, deliver, delivery.rules(settings)),
        (server.FLEET, admin, fleet_admin.RULES),
    ]
    return (
        server.Listener(
            settings, open_tls, server.STRANGERS, _handlers(settings, parts, for_strangers, strangers=True)
        ),
        server.Listener(
            settings,
            mutual,
            server.callers(settings),
            _handlers(settings, parts, for_callers, strangers=False),
        ),
    )


def _handlers(
    settings: ModelSettings, parts: _Parts, own: Sequence[GuardedService], *, strangers: bool
) -> list[Any]:
    """Guarded handlers of a listener's own services, and of gRPC's."""
    reflection = standard.ReflectionService([s.full_name for s, _, _ in own])
    watch_s = settings.connection_age_s
    services: list[GuardedService] = [
        *own,
        (standard.HEALTH, parts.health, standard.health_rules(watch_s, strangers=strangers)),
        (standard.REFLECTION, reflection, standard.reflection_rules(strangers=strangers)),
    ]
    return [parts.door.guard(*service) for service in services]


def _jobs(settings: ModelSettings, parts: _Parts, ports: ServePorts) -> tuple[ProcessJob, ...]:
    """What is repeated: wake the streams when something changed, and account for what was refused."""

    def read_publication() -> None:
        parts.wakeup.set_version(parts.timestamp.version())

    async def copy_revocations() -> None:
        # While this fails, the copy ages; once it is too old, nobody is let in (service/access.py).
        if await parts.workers.read(parts.access.refresh):
            parts.wakeup.wake()

    refusals = _RefusalsFile(settings, parts)
    return (
        ProcessJob("connections", parts.relay.check),
        ProcessJob("ports", ports.take_back, PORTS_S),
        ProcessJob("publications", read_publication),
        ProcessJob("revocations", copy_revocations, REVOKED_S),
        ProcessJob("expiring certificates", parts.wakeup.wake, PULSE_S),
        ProcessJob("refusals", refusals.update, REFUSALS_S),
        ProcessJob("reports of twins", parts.deliver.record_twins, TWINS_S),
    )


class _RefusalsFile:
    """Writes the counts of refusals to their file when they change."""

    def __init__(self, settings: ModelSettings, parts: _Parts) -> None:
        self._settings, self._parts = settings, parts
        self._since = datetime.now(UTC)
        self._written: RefusalCounts | None = None

    def update(self) -> None:
        self._parts.door.log_sums()
        bounds = self._parts.relay.bounds
        worst = sorted(dict(bounds.lost_by_address).items(), key=lambda one: -one[1])[:_WORST]
        now = RefusalCounts(
            pid=os.getpid(),
            since=self._since,
            connections=dict(bounds.lost),
            addresses=dict(worst),
            calls=dict(self._parts.door.refusals.counts),
        )
        if now != self._written:
            write_refusals(self._settings, now)
            self._written = now

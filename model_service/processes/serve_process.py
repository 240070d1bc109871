"""The public process: runs the listeners, polls for changes ten times a second, ends gracefully."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_service.address import Address, reachable_host, read_address, write_address
from model_service.identity.authority import ca_path
from model_service.processes.process_loop import ProcessJob, ProcessLoop
from model_service.registry.database import Registry
from model_service.service import delivery, enrolment_service, fleet_admin, server
from model_service.service.access import AccessList
from model_service.service.door import CallDoor
from model_service.service.stream_wakeup import StreamWakeup, TimestampFile
from model_service.service.workers import WorkerThreads
from model_service.settings import ModelSettings

log = logging.getLogger(__name__)

POLL_S = 0.1
"""Pause between two reads of the repository's timestamp: limits how late a hint may be."""
REVOKED_S = 0.3
"""Pause between two copies of the revocations."""
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
    door: CallDoor


async def _serve(settings: ModelSettings, registry: Registry, stop: threading.Event) -> None:
    parts = _parts(settings, registry)
    await parts.workers.read(parts.access.refresh)
    parts.wakeup.set_version(parts.timestamp.version())
    health = server.new_health()
    listeners = _listeners(settings, parts, health)
    try:
        await _start(settings, listeners)
        await server.set_serving(health)
        await ProcessLoop(_wakeup_jobs(parts), POLL_S).run_async(stop)
        log.info("draining")
        await server.set_draining(health)
        parts.wakeup.drain()
        await asyncio.gather(*(one.stop(settings.drain_s) for one in listeners))
    finally:
        parts.workers.close()


def _parts(settings: ModelSettings, registry: Registry) -> _Parts:
    access = AccessList()
    timestamp = TimestampFile(Path(settings.repository) / "metadata" / "timestamp.json")
    return _Parts(WorkerThreads(registry), access, StreamWakeup(), timestamp, CallDoor(access))


def _listeners(
    settings: ModelSettings, parts: _Parts, health: Any
) -> tuple[server.Listener, server.Listener]:
    """The listener for enrolment, and the one for delivery and administration."""
    guard = parts.door.guard
    open_tls, mutual = (server.credentials(settings, mutual=m) for m in (False, True))
    enroll = enrolment_service.EnrolmentService(settings, ca_path(settings).read_bytes(), parts.workers)
    deliver = delivery.ModelDelivery(settings, parts.workers, parts.wakeup)
    admin = fleet_admin.FleetAdmin(settings, parts.workers, parts.access, parts.wakeup, deliver.watching)
    return (
        server.Listener(
            settings,
            open_tls,
            server.MAX_STRANGER_BYTES,
            {server.ENROLLMENT.full_name: guard(server.ENROLLMENT, enroll, enrolment_service.RULES)},
            health,
        ),
        server.Listener(
            settings,
            mutual,
            server.MAX_REQUEST_BYTES,
            {
                server.DELIVERY.full_name: guard(server.DELIVERY, deliver, delivery.rules(settings)),
                server.FLEET.full_name: guard(server.FLEET, admin, fleet_admin.RULES),
            },
            health,
        ),
    )


async def _start(settings: ModelSettings, listeners: tuple[server.Listener, server.Listener]) -> None:
    earlier = read_address(settings)
    ports = (None, None) if earlier is None else (earlier.enrollment_port, earlier.delivery_port)
    enrollment = await listeners[0].start(settings.enrollment_port, ports[0])
    delivers = await listeners[1].start(settings.delivery_port, ports[1])
    address = Address(
        host=reachable_host(settings), enrollment_port=enrollment, delivery_port=delivers, pid=os.getpid()
    )
    write_address(settings, address)
    log.info("serving: enrolment on %d, delivery on %d", enrollment, delivers)


def _wakeup_jobs(parts: _Parts) -> tuple[ProcessJob, ...]:
    """Jobs that wake the streams: after a publication, after a revocation, and once a while."""

    def read_publication() -> None:
        parts.wakeup.set_version(parts.timestamp.version())

    async def copy_revocations() -> None:
        # While this fails, the copy ages; once it is too old, nobody is let in (service/access.py).
        if await parts.workers.read(parts.access.refresh):
            parts.wakeup.wake()

    return (
        ProcessJob("publications", read_publication),
        ProcessJob("revocations", copy_revocations, REVOKED_S),
        ProcessJob("expiring certificates", parts.wakeup.wake, PULSE_S),
    )

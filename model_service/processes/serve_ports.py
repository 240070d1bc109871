"""The ports of the public process: those that it had before, if they are free, else others."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from model_service.address import Address, listening_hosts, reachable_host, read_address, write_address
from model_service.service.connections.connection_relay import ConnectionRelay
from model_service.service.connections.known_ports import read_ports, write_ports
from model_service.settings import ModelSettings
from schemas.errors import OperatorError

log = logging.getLogger(__name__)

_TRIES, _PAUSE_S = 10, 0.2
"""How often a port from before is tried at the start: most are taken for a moment only."""


@dataclass
class _Way:
    """One listener.

    Attributes:
        chosen: Port that a person has chosen; 0: none.
        before: Ports that it has had, the first one first.
        socket: gRPC's, behind it.
        missing: Those of ``before`` that another program has.
        port: The port that join bundles name from now on.
    """

    chosen: int
    before: tuple[int, ...]
    socket: Path
    missing: list[int]
    port: int = 0


class ServePorts:
    """Binds the ports of both listeners.

    A device looks for the service at the port in its join bundle. So the process listens on every port that
    it has had before and that is free, and takes back those that are not as soon as they are. A port that a
    person has chosen is never exchanged for another.

    Args:
        settings: Host, chosen ports, files.
        relay: Listens.
        enrollment: gRPC's socket for enrolment.
        delivery: gRPC's socket for delivery and administration.
    """

    def __init__(
        self, settings: ModelSettings, relay: ConnectionRelay, enrollment: Path, delivery: Path
    ) -> None:
        self._settings, self._relay = settings, relay
        self._hosts = listening_hosts(settings)
        self._known, earlier = read_ports(settings.ports_file), read_address(settings)
        if earlier is not None:  # 0.2.0 wrote this file alone
            self._known = self._known.with_ports(earlier.enrollment_port, earlier.delivery_port)
        self._ways = (
            _Way(settings.enrollment_port, self._known.enrollment, enrollment, []),
            _Way(settings.delivery_port, self._known.delivery, delivery, []),
        )

    async def bind(self) -> None:
        """Bind the ports, and write the files that say which.

        Raises:
            OperatorError: A chosen port is taken, or the host is not this machine's.
        """
        for way in self._ways:
            await self._bind(way)
        enrollment, delivery = (way.port for way in self._ways)
        write_ports(self._settings.ports_file, self._known.with_ports(enrollment, delivery))
        write_address(
            self._settings,
            Address(
                host=reachable_host(self._settings),
                enrollment_port=enrollment,
                delivery_port=delivery,
                pid=os.getpid(),
            ),
        )
        log.info("serving: enrolment on %d, delivery on %d", enrollment, delivery)

    def take_back(self) -> None:
        """Listen on ports from before that are free by now; call it now and then."""
        for way in self._ways:
            for port in list(way.missing):
                if self._listen(port, way):
                    way.missing.remove(port)
                    log.info("port %d is free again: listening there, too", port)

    async def _bind(self, way: _Way) -> None:
        if way.chosen:
            way.port = self._relay.listen(self._hosts, way.chosen, way.socket)
            return
        bound = []
        for number, port in enumerate(way.before):
            if await self._tried(port, way, _TRIES if number == 0 else 1):
                bound.append(port)
            else:
                way.missing.append(port)
                log.warning("port %d is taken by another program: devices that know only it wait", port)
        way.port = bound[0] if bound else self._relay.listen(self._hosts, 0, way.socket)

    async def _tried(self, port: int, way: _Way, tries: int) -> bool:
        for _ in range(tries - 1):
            if self._listen(port, way):
                return True
            await asyncio.sleep(_PAUSE_S)
        return self._listen(port, way)

    def _listen(self, port: int, way: _Way) -> bool:
        try:
            self._relay.listen(self._hosts, port, way.socket)
        except OperatorError:
            return False
        return True

"""A gateway's certificate: it joins and renews as a device does, and is sent no models."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from edge_producer.certificate_files import CERTIFICATE_FILES
from edge_producer.device_identity import DeviceIdentity
from edge_producer.join_files import load_join
from edge_producer.trust import TrustedTime
from edge_producer.updates.membership import Membership
from edge_producer.updates.schedule import Backoff
from edge_producer.updates.service_access import UpdaterOptions, has_joined
from schemas.errors import AccessError, PipelineError

log = logging.getLogger(__name__)


class GatewayMembership:
    """Joins in a thread of its own. Any thread may read ``has_joined`` and ``status``.

    Args:
        gateway: Its id.
        options: Its folder, the join folder, network.
        identity: Returns its id and key; None while the key cannot be read.
    """

    def __init__(
        self, gateway: str, options: UpdaterOptions, identity: Callable[[], DeviceIdentity | None]
    ) -> None:
        self.gateway = gateway
        self._options = options
        self._identity = identity
        self._backoff = Backoff()
        self._error = ""

    @property
    def has_joined(self) -> bool:
        """Whether it has had a certificate. Without a join folder nobody was asked to join."""
        if self._options.join_dir is None:
            return has_joined(self._options, self.gateway)
        return any((self._options.folder / name).exists() for name in CERTIFICATE_FILES)

    @property
    def status(self) -> dict[str, Any]:
        """For the status file."""
        return {"name": self.gateway, "joined": self.has_joined, "error": self._error}

    def run(self, stop: threading.Event) -> None:
        """Join, and renew the certificate where that is due, until ``stop`` is set."""
        while not stop.wait(self.step()):
            pass

    def step(self) -> float:
        """One attempt; returns after how many seconds the next is due."""
        if self._options.offline():
            return self._options.poll_s
        try:
            self._membership().credentials()
        except (PipelineError, OSError) as exc:
            if str(exc) != self._error:
                log.warning("the gateway has no certificate yet: %s", exc, extra={"device_id": self.gateway})
            self._error = str(exc)
            return min(self._backoff.failed(), self._options.poll_s)
        except Exception as exc:
            log.exception("unexpected error of the gateway; retrying", extra={"device_id": self.gateway})
            self._error = f"{type(exc).__name__}: {exc}"
            return self._options.poll_s
        self._error = ""
        self._backoff.reset()
        return self._options.poll_s

    def _membership(self) -> Membership:
        options = self._options
        options.disk.make_folder(options.folder, private=True)
        join = load_join(options.join_dir or options.folder, options.folder, self.gateway, options.disk)
        if join is None:
            wanted = (options.join_dir or options.folder) / f"{self.gateway}.json"
            raise AccessError(f"gateway {self.gateway} has no join bundle: {wanted} is not there")
        identity = self._identity()
        if identity is None:
            raise AccessError(f"the key of gateway {self.gateway} cannot be read")
        time = TrustedTime(options.folder / "time.json", options.build_time, disk=options.disk)
        return Membership(options.folder, join, identity, time, options.disk)

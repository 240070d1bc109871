"""One device's connection to the model service: its certificate, the mTLS channel, the stream of hints."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edge_producer.updates.membership import Membership
from edge_producer.updates.schedule import Backoff
from edge_producer.updates.service_client import Credentials, DeliveryClient
from schemas.errors import AccessError, PipelineError, RetryableError
from schemas.join import JoinBundle

log = logging.getLogger(__name__)

HINT_PAUSE_S = 0.1
"""Pause after each hint: a flood of them fills the sender's buffers instead of this process's time."""


class ServiceLink:
    """Connects on demand, and receives hints in a thread of its own while it is connected.

    Args:
        join: Addresses of the service, and the authority that signs its certificate.
        membership: Gives certificates.
        hinted: Called by the listening thread when something may have changed; must not block.
    """

    def __init__(
        self,
        join: JoinBundle,
        membership: Membership,
        hinted: Callable[[int], None],
    ) -> None:
        self.join = join
        self._membership = membership
        self._hinted = hinted
        self._held: tuple[Credentials, DeliveryClient] | None = None
        self._closed = threading.Event()
        self._listener: threading.Thread | None = None

    def delivery(self, *, renew: bool = False) -> DeliveryClient:
        """The connection; a new one where there is none yet, or where the certificate changed.

        Args:
            renew: Get a new certificate first: the present one may be why the service does not answer.

        Raises:
            AccessError: No certificate can be had.
            ServiceUnavailableError: No answer in time.
        """
        credentials = self._membership.credentials(renew=renew)
        if self._held is None or self._held[0] != credentials:
            self._drop()
            self._held = credentials, DeliveryClient(self.join, credentials)
        if self._listener is None:
            self._listener = threading.Thread(target=self._listen, name="hints", daemon=True)
            self._listener.start()
        return self._held[1]

    def close(self) -> None:
        """End the connection and the listening thread."""
        self._closed.set()
        self._drop()
        if self._listener is not None:
            self._listener.join(2.0)

    def _drop(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held[1].close()

    def _listen(self) -> None:
        backoff = Backoff()
        while not self._closed.is_set():
            held, asked_s = self._held, 0.0
            try:
                if held is not None:
                    for version in held[1].watch():
                        backoff.reset()
                        self._hinted(version)
                        if self._closed.wait(HINT_PAUSE_S):
                            break
            except AccessError as exc:
                log.warning("no hints: %s", exc, extra={"device_id": self.join.device_id})
            except PipelineError as exc:
                log.debug("no hints: %s", exc, extra={"device_id": self.join.device_id})
                asked_s = exc.retry_after_s if isinstance(exc, RetryableError) else 0.0
            self._closed.wait(max(backoff.failed(), asked_s))

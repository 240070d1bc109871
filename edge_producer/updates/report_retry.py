"""Hands on what is worth a report; what the disk did not take waits here and is tried again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from edge_producer.updates.shadow_comparison import ShadowSummary
from edge_producer.updates.update_states import UpdateRecord

log = logging.getLogger(__name__)

Tell = Callable[[UpdateRecord, ShadowSummary | None], None]
"""Takes each record worth a report, and what the models did beside each other."""

MAX_UNTOLD = 64
"""Kept while the disk takes nothing; older ones give way."""


class ReportRetry:
    """One device's way to its reports. A full disk holds up what is told, never what is done.

    Args:
        device_id: Named in logs.
        tell: Takes what is worth a report; may raise OSError.
    """

    def __init__(self, device_id: str, tell: Tell) -> None:
        self._device_id = device_id
        self._tell = tell
        self._untold: deque[tuple[UpdateRecord, ShadowSummary | None]] = deque(maxlen=MAX_UNTOLD)
        self.failures = 0
        """Times that a report could not be kept."""

    def __len__(self) -> int:
        """Reports that are not on disk yet."""
        return len(self._untold)

    def add(self, record: UpdateRecord, shadow: ShadowSummary | None = None) -> None:
        """Tell a record, after those that wait."""
        self._untold.append((record, shadow))
        self.retry()

    def retry(self) -> None:
        """Tell what waits, oldest first."""
        while self._untold:
            try:
                self._tell(*self._untold[0])
            except OSError:
                self.failures += 1
                said = {"device_id": self._device_id, "failures": self.failures}
                log.exception("%d reports wait for the disk", len(self._untold), extra=said)
                return
            self._untold.popleft()

"""Hands records over to be reported; those that the disk did not take wait here and are tried again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from edge_producer.updates.shadow_comparison import ShadowSummary
from edge_producer.updates.update_states import UpdateRecord

log = logging.getLogger(__name__)

AddReport = Callable[[UpdateRecord, ShadowSummary | None], None]
"""Takes each record that is to be reported, with the comparison of two models if there is one."""

MAX_UNSAVED = 64
"""Reports kept in memory while the disk takes nothing; the oldest give way."""


class ReportRetry:
    """One device's retry queue for reports. A full disk delays what is reported, never what is done.

    Args:
        device_id: Named in logs.
        add_report: Writes a report to disk; may raise OSError.
    """

    def __init__(self, device_id: str, add_report: AddReport) -> None:
        self._device_id = device_id
        self._add_report = add_report
        self._unsaved: deque[tuple[UpdateRecord, ShadowSummary | None]] = deque(maxlen=MAX_UNSAVED)
        self.failures = 0
        """Times that the disk did not take a report."""

    def __len__(self) -> int:
        """Reports that are not on disk yet."""
        return len(self._unsaved)

    def add(self, record: UpdateRecord, shadow: ShadowSummary | None = None) -> None:
        """Report a record, after those that wait."""
        self._unsaved.append((record, shadow))
        self.retry()

    def retry(self) -> None:
        """Report what waits, oldest first, until the disk takes no more."""
        while self._unsaved:
            try:
                self._add_report(*self._unsaved[0])
            except OSError:
                self.failures += 1
                extra = {"device_id": self._device_id, "failures": self.failures}
                log.exception("%d reports wait for the disk", len(self._unsaved), extra=extra)
                return
            self._unsaved.popleft()

"""One device's updater: looks for instructions when that is due, has them carried out, and reports."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from edge_producer.device_identity import DeviceIdentity
from edge_producer.model_switch import ModelSwitch
from edge_producer.trust import TrustedTime
from edge_producer.updates.installer import Installer, InstallerParts
from edge_producer.updates.instruction_reader import InstructionReader
from edge_producer.updates.journal import Journal
from edge_producer.updates.report_content import UpdateReporter
from edge_producer.updates.report_queue import ReportQueue
from edge_producer.updates.resources import UpdaterResources
from edge_producer.updates.schedule import UpdateSchedule
from edge_producer.updates.service_access import DevicePaths, ServiceAccess
from edge_producer.updates.service_client import DeliveryClient
from edge_producer.updates.shadow_comparison import ShadowSummary
from edge_producer.updates.slots import ModelSlots
from edge_producer.updates.update_states import UpdateRecord
from schemas.errors import AccessError, PipelineError, RetryableError, ServiceUnavailableError
from schemas.updates import UpdateResult, UpdateState

log = logging.getLogger(__name__)

BUSY_S = 0.5
"""How often a trial or watch is looked at when no window wakes the agent."""
RENEW_EVERY = 4
"""Of so many unanswered visits the last tries a new certificate: a TLS refusal looks like no answer."""


class UpdateAgent:
    """One device's updater. Everything but ``seat``, ``status`` and ``wake`` belongs to one thread.

    Args:
        device: Its id and key.
        place: Its folder, and how it reaches the service.
        shared: What the devices of the process share.
        slots: Its sets of models.
        monotonic: Steady seconds, any origin.

    Attributes:
        status: For the status file; a new object with each step.
        checked: Set once the service has been looked at and answered.
        trouble: Why the last look failed; empty: it did not.
        hopeless: Looks failed, and trying again at once would not help.

    Raises:
        SpoolError: No set of models can be loaded.
    """

    def __init__(
        self,
        device: DeviceIdentity,
        place: DevicePaths,
        shared: UpdaterResources,
        slots: ModelSlots,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device_id = device.device_id
        self._monotonic = monotonic
        self._schedule = UpdateSchedule(place.poll_s)
        self._offline = place.offline
        self._woken = threading.Event()
        self._stop: Callable[[], bool] = lambda: False
        trusted = TrustedTime(place.folder / "time.json", place.build_time, monotonic, place.disk)
        self._access = ServiceAccess(device, place, trusted, self._hint)
        queue = ReportQueue(place.folder / "reports", place.disk, device.device_id)
        self._reports = UpdateReporter(queue, self._access, slots, shared.profile.name)
        self._greeted = False
        parts = InstallerParts(
            slots,
            Journal(place.folder, place.disk),
            lambda: trusted.now().timestamp(),
            self.wake,
            self._tell,
            monotonic,
        )
        self.installer = Installer(self.device_id, parts, shared)
        self._instructions = InstructionReader(self._access, self.installer, place, shared, monotonic)
        self.status = self._status()
        self.checked = threading.Event()
        self.trouble = ""
        self.hopeless = False

    @property
    def seat(self) -> ModelSwitch:
        """What the sensing loop reads. From any thread."""
        return self.installer.seat

    @property
    def has_joined(self) -> bool:
        """Whether the device has had a certificate, or nobody asked it to join. From any thread."""
        return self._access.has_joined

    def wake(self) -> None:
        """Have ``run`` look at once. From any thread."""
        self._woken.set()

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set."""
        self._stop = stop.is_set
        try:
            while not stop.is_set():
                self._guarded_step()
                self._woken.wait(self._pause())
                self._woken.clear()
        finally:
            self.close()

    def _guarded_step(self) -> None:
        try:
            self.step()
        except Exception:
            log.exception("unexpected error in the updater; retrying", extra={"device_id": self.device_id})
            self._schedule.visit_failed(self._monotonic())

    def _pause(self) -> float:
        pause_s = self._schedule.pause(self._monotonic(), reports=len(self._reports) > 0)
        return min(pause_s, BUSY_S) if self.installer.record.state in _WAITING else pause_s

    def step(self) -> None:
        """Take up progress; look at the service where that is due. Failures wait and are tried again."""
        try:
            before = self.installer.record.state
            self.installer.advance()
            if before in _WAITING and self.installer.record.state not in _WAITING:
                self._schedule.look_at_once()
            self._visit()
        except (PipelineError, OSError):
            log.exception("the updater goes on without this step", extra={"device_id": self.device_id})
            self._schedule.visit_failed(self._monotonic())
        self.status = self._status()

    def close(self) -> None:
        """End in order."""
        self.installer.close()
        self._access.drop()

    # The service -----------------------------------------------------------------------------------------

    def _visit(self) -> None:
        now_s = self._monotonic()
        look = self._schedule.look_due(now_s)
        if not look and not (len(self._reports) and self._schedule.report_due(now_s)):
            return
        if self._offline():
            self.trouble, self.hopeless = "flight mode is on", True
            self._access.drop()
            self._schedule.offline(now_s)
            return
        try:
            renew = self._schedule.failures % RENEW_EVERY == RENEW_EVERY - 1
            delivery = self._access.delivery(renew=renew)
            self._greet()
            heard = self._deliver_reports(delivery)
            if look:
                self._look(delivery)
                heard = self._deliver_reports(delivery)
        except (AccessError, RetryableError) as exc:
            self._failed_visit(exc)
        else:
            if look or heard:
                self._schedule.visit_worked()
                self.trouble, self.hopeless = "", False
            if look:
                self.checked.set()

    def _look(self, delivery: DeliveryClient) -> None:
        self._schedule.look_begins(self._monotonic())
        asked = self._instructions.fetch(delivery)
        if asked is None:
            return
        if self.installer.accept(asked.channel.seq, asked.channel.rollout_id):
            self._tell(self.installer.record, None, standing=True)
        self.status = self._status()  # what comes may take a while
        wait_s = self._instructions.obey(asked, delivery, self._stop)
        if wait_s is not None:
            self._schedule.retry(self._monotonic(), wait_s)

    def _failed_visit(self, error: AccessError | RetryableError) -> None:
        denied = isinstance(error, AccessError)
        if str(error) != self.trouble:
            log.warning("%s", error, extra={"device_id": self.device_id})
        self._schedule.visit_failed(self._monotonic(), denied=denied)
        self.trouble, self.hopeless = str(error), denied or self._schedule.failures > 1
        if denied or self._schedule.failures >= RENEW_EVERY:
            self._access.drop()

    def _hint(self, _version: int) -> None:
        """Somebody says that something changed: reason to look, and no more. From the listening thread."""
        if self._schedule.hint():
            self.wake()

    # Reports ---------------------------------------------------------------------------------------------

    def _greet(self) -> None:
        """Report once a start: whatever a crash kept from being told is told here."""
        if not self._greeted:
            self._greeted = True
            self._tell(self.installer.record, None)

    def _tell(self, record: UpdateRecord, shadow: ShadowSummary | None, *, standing: bool = False) -> None:
        if self._reports.add(record, shadow, standing=standing):
            self._schedule.report_at_once()
            self.wake()

    def _deliver_reports(self, delivery: DeliveryClient) -> bool:
        """Whether the service took what waited. That it takes no reports must not keep orders away.

        Raises:
            ServiceUnavailableError: It does not answer at all.
        """
        if not self._schedule.reports_taken_again(self._monotonic()):
            return False
        try:
            self._reports.send(delivery)
        except ServiceUnavailableError:
            raise
        except (AccessError, RetryableError) as exc:
            denied = isinstance(exc, AccessError)
            wait_s = self._schedule.reports_refused(self._monotonic(), denied=denied)
            log.warning("reports wait %.0f s: %s", wait_s, exc, extra={"device_id": self.device_id})
            return False
        self._schedule.reports_taken()
        return True

    def _status(self) -> dict[str, Any]:
        record = self.installer.record
        refused = record.told.get("metadata", "")
        return {
            "version": self.seat.lineup.active.version,
            "state": record.state.value,
            "result": (UpdateResult.NO_CHANGE_REFUSED if refused else record.result or ""),
            "attack": refused.partition(": ")[0] if refused else record.attack or "",
            "detail": refused.partition(": ")[2] if refused else record.detail,
            "seq": record.seq,
            "unreported": len(self._reports),
            "shadow": self.installer.shadow,
        }


_WAITING = (UpdateState.TRIAL, UpdateState.WATCH)

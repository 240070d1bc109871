"""One device's updater: checks for instructions when that is due, has them carried out, and reports."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from edge_producer.device_identity import DeviceIdentity
from edge_producer.excerpts.permit_ledger import PermitLedger
from edge_producer.golden_scores import golden_scores
from edge_producer.model_switch import ModelSwitch
from edge_producer.profile_switch import ProfileSwitch, RunningProfile
from edge_producer.trust import DeviceFacts, TrustedTime, VerifiedState
from edge_producer.trust.profile_documents import ProfileDocuments
from edge_producer.updates.config_follower import ConfigFollower
from edge_producer.updates.config_trial import ConfigTerms, Fetch
from edge_producer.updates.installer import Installer
from edge_producer.updates.instruction_reader import InstructionReader
from edge_producer.updates.journal import Journal
from edge_producer.updates.permit_follower import PermitFollower
from edge_producer.updates.profile_follower import ProfileFollower
from edge_producer.updates.report_content import UpdateReporter
from edge_producer.updates.report_queue import ReportQueue
from edge_producer.updates.resources import UpdaterResources
from edge_producer.updates.schedule import UpdateSchedule
from edge_producer.updates.service_access import ServiceAccess, UpdaterOptions
from edge_producer.updates.service_client import DeliveryClient
from edge_producer.updates.shadow_comparison import ShadowSummary
from edge_producer.updates.slots import ModelSlots
from edge_producer.updates.update_progress import UpdateProgress
from edge_producer.updates.update_states import UpdateRecord
from schemas.errors import AccessError, BundleError, PipelineError, RetryableError, ServiceUnavailableError
from schemas.profile_changes import Scored
from schemas.updates import UpdateResult, UpdateState

log = logging.getLogger(__name__)

BUSY_S = 0.5
"""Longest pause between two steps during a trial or a watch, when no window wakes the agent."""
RENEW_EVERY = 4
"""Each time so many contacts have failed in a row, the next asks for a new certificate first: a refused
certificate shows at the TLS layer as no answer at all."""
_UNDER_TEST = (UpdateState.TRIAL, UpdateState.WATCH)


class UpdateAgent:
    """One device's updater. Everything but ``switch``, ``status`` and ``wake`` belongs to one thread.

    Args:
        device: Id and key.
        options: Folders, poll interval, network.
        resources: What the devices of the process share.
        slots: The device's sets of models.
        monotonic: Steady seconds, any origin.
        switch: What the sensing loop reads already; None: it is made here.

    Attributes:
        status: For the status file; a new object with each step.
        checked: Set once the service has answered a check.
        last_error: Why the last contact failed; empty if it did not.
        blocked: Contacts fail, and an immediate retry would not help.

    Raises:
        SpoolError: No set of models can be loaded.
    """

    def __init__(
        self,
        device: DeviceIdentity,
        options: UpdaterOptions,
        resources: UpdaterResources,
        slots: ModelSlots,
        monotonic: Callable[[], float] = time.monotonic,
        switch: ModelSwitch | None = None,
    ) -> None:
        self.device_id = device.device_id
        self._monotonic = monotonic
        self._schedule = UpdateSchedule(options.poll_s)
        self._offline = options.offline
        self._woken = threading.Event()
        self._stop: Callable[[], bool] = lambda: False
        folder, disk = options.folder, options.disk
        trusted = TrustedTime(folder / "time.json", options.build_time, monotonic, disk)
        self._access = ServiceAccess(device, options, trusted, self._hint)
        queue = ReportQueue(folder / "reports", disk, self.device_id)
        profiles = resources.profiles or ProfileSwitch(RunningProfile(resources.profile))
        self._profiles = ProfileFollower(self.device_id, folder, profiles, self._scored, disk)
        profiles.on_change.append(self.wake)
        resources.configs.on_change.append(self.wake)
        running = functools.partial(profiles.running, self.device_id)
        terms = ConfigTerms(lambda: running().profile, resources.configs, resources.dry_call)
        self._configs = ConfigFollower(self.device_id, folder, terms, disk)
        self._permits: PermitFollower | None = None
        if resources.desk is not None:
            resources.desk.on_outcome[self.device_id] = self.wake
            ledger = PermitLedger(folder, disk, trusted.now())
            profile_now = terms.profile
            self._permits = PermitFollower(self.device_id, resources.desk, ledger, profile_now, trusted)
        self._reports = UpdateReporter(
            queue, self._access, slots, resources.profile.name, self._profiles, self._configs
        )
        self._start_reported = False
        self._progress = UpdateProgress(
            self.device_id, Journal(folder, disk), slots, self._report, lambda: trusted.now().timestamp()
        )
        self.installer = Installer(self._progress, slots, resources, self.wake, monotonic, switch)
        self._instructions = InstructionReader(
            self._access,
            self.installer,
            options,
            resources,
            monotonic,
            self._follow_profile,
            self._follow_configs,
        )
        self.status = self._status()
        self.checked = threading.Event()
        self.last_error = ""
        self.blocked = False

    @property
    def switch(self) -> ModelSwitch:
        """What the sensing loop reads. From any thread."""
        return self.installer.switch

    @property
    def has_joined(self) -> bool:
        """Whether the device has had a certificate, or was never asked to join. From any thread."""
        return self._access.has_joined

    def wake(self) -> None:
        """Have ``run`` take its next step at once. From any thread."""
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
            self._schedule.contact_failed(self._monotonic())

    def _pause(self) -> float:
        pause_s = self._schedule.pause(self._monotonic(), reports=len(self._reports) > 0)
        return min(pause_s, BUSY_S) if self._progress.record.state in _UNDER_TEST else pause_s

    def step(self) -> None:
        """Advance the installer, and contact the service where that is due. What fails is tried again."""
        try:
            before = self._progress.record.state
            self.installer.advance()
            if before in _UNDER_TEST and self._progress.record.state not in _UNDER_TEST:
                self._schedule.check_at_once()
            if self._profiles.refresh():
                self._report_profile()
            self._report_configs(self._configs.refresh(self._access.time.now()))
            if self._permits is not None and self._permits.refresh():
                self._schedule.check_at_once()
            self._contact_service()
        except (PipelineError, OSError):
            log.exception("a step of the updater failed; retrying", extra={"device_id": self.device_id})
            self._schedule.contact_failed(self._monotonic())
        self.status = self._status()

    def close(self) -> None:
        """End in order."""
        self.installer.close()
        self._access.drop()

    # The service -----------------------------------------------------------------------------------------

    def _contact_service(self) -> None:
        now_s = self._monotonic()
        check = self._schedule.check_due(now_s)
        if not check and not (len(self._reports) and self._schedule.report_due(now_s)):
            return
        if self._offline():
            self.last_error, self.blocked = "flight mode is on", True
            self._access.drop()
            self._schedule.offline(now_s)
            return
        try:
            renew = self._schedule.failures % RENEW_EVERY == RENEW_EVERY - 1
            delivery = self._access.delivery(renew=renew)
            self._report_start()
            # Reports go first: an instruction may take minutes. What it led to is reported right after it.
            answered = self._deliver_reports(delivery)
            if check:
                self._check(delivery)
                self._follow_permits(delivery)
                answered = self._deliver_reports(delivery)
        except (AccessError, RetryableError) as exc:
            self._note_failure(exc)
        else:
            if check or answered:
                self._schedule.contact_succeeded()
                self.last_error, self.blocked = "", False
            if check:
                self.checked.set()

    def _check(self, delivery: DeliveryClient) -> None:
        self._schedule.check_begins(self._monotonic())
        assignment = self._instructions.fetch(delivery, self._stop)
        if assignment is None:
            return
        if self._progress.accept(assignment.channel.seq, assignment.channel.rollout_id):
            self._report(self._progress.record, None, channel_only=True)
        self.status = self._status()  # a download may take a while
        wait_s = self._instructions.apply(assignment, delivery, self._stop)
        if wait_s is not None:
            self._schedule.retry(self._monotonic(), wait_s)

    def _follow_permits(self, delivery: DeliveryClient) -> None:
        """Follow what approvers permit; a disk that takes nothing delays that alone."""
        joined = self._access.joined
        if self._permits is None or joined is None:
            return
        try:
            wait_s = self._permits.step(delivery, joined.join.ca_pem)
        except OSError as exc:
            log.warning("permits wait for the disk: %s", exc, extra={"device_id": self.device_id})
            return
        if wait_s is not None:
            self._schedule.retry(self._monotonic(), wait_s)

    def _note_failure(self, error: AccessError | RetryableError) -> None:
        denied = isinstance(error, AccessError)
        if str(error) != self.last_error:
            log.warning("%s", error, extra={"device_id": self.device_id})
        self._schedule.contact_failed(self._monotonic(), denied=denied, at_least_s=_asked_for(error))
        self.last_error, self.blocked = str(error), denied or self._schedule.failures > 1
        if denied or self._schedule.failures >= RENEW_EVERY:
            self._access.drop()

    def _hint(self, _version: int) -> None:
        """Something may have changed: a reason to check, no more. Called by the listening thread."""
        if self._schedule.hint():
            self.wake()

    # Reports ---------------------------------------------------------------------------------------------

    def _report_start(self) -> None:
        """Report once a start: a crash may have kept the newest record from being reported."""
        if not self._start_reported:
            self._start_reported = True
            self._report(self._progress.record, None)
            if self._profiles.record.outcome is not None:
                self._report_profile()
            attempts = self._configs.records.items()
            self._report_configs([family for family, record in attempts if record.attempted is not None])

    def _follow_profile(self, documents: ProfileDocuments, group: str) -> None:
        """Go by what is signed about profiles; a disk that takes nothing delays that alone."""
        try:
            if self._profiles.follow(documents, group, self._access.time):
                self._report_profile()
        except OSError as exc:
            log.warning("a profile waits for the disk: %s", exc, extra={"device_id": self.device_id})

    def _follow_configs(self, verified: VerifiedState, facts: DeviceFacts, fetch: Fetch) -> None:
        """Go by what is signed about configurations; a disk that takes nothing delays them alone."""
        try:
            self._report_configs(self._configs.follow(verified, facts, self._access.time.now(), fetch))
        except OSError as exc:
            log.warning("a configuration waits for the disk: %s", exc, extra={"device_id": self.device_id})

    def _report_configs(self, families: Iterable[str]) -> None:
        for family in families:
            if self._reports.add(self._progress.record, about_config=family):
                self._schedule.report_at_once()
                self.wake()

    def _scored(self) -> Scored | None:
        """What scores the golden windows of the model in force; None: none are at hand."""
        slots = self.installer.slots
        try:
            return golden_scores(slots.bundle(self.installer.pointer.active))
        except BundleError:
            return None

    def _report_profile(self) -> None:
        if self._reports.add(self._progress.record, about_profile=True):
            self._schedule.report_at_once()
            self.wake()

    def _report(
        self, record: UpdateRecord, shadow: ShadowSummary | None, *, channel_only: bool = False
    ) -> None:
        if self._reports.add(record, shadow, channel_only=channel_only):
            self._schedule.report_at_once()
            self.wake()

    def _deliver_reports(self, delivery: DeliveryClient) -> bool:
        """Whether the service took what waited. If it takes no reports, it can still give instructions.

        Raises:
            ServiceUnavailableError: It does not answer at all.
        """
        if not self._schedule.may_send_reports(self._monotonic()):
            return False
        try:
            self._reports.send(delivery)
        except ServiceUnavailableError:
            raise
        except (AccessError, RetryableError) as exc:
            denied = isinstance(exc, AccessError)
            asked_s = _asked_for(exc)
            wait_s = self._schedule.reports_refused(self._monotonic(), denied=denied, at_least_s=asked_s)
            log.warning("reports wait %.0f s: %s", wait_s, exc, extra={"device_id": self.device_id})
            return False
        self._schedule.reports_accepted()
        return True

    def _status(self) -> dict[str, Any]:
        record = self._progress.record
        refused = record.reported.get("metadata", "")
        return {
            "version": self.switch.models.active.version,
            "state": record.state.value,
            "result": (UpdateResult.NO_CHANGE_REFUSED if refused else record.result or ""),
            "attack": refused.partition(": ")[0] if refused else record.attack or "",
            "detail": refused.partition(": ")[2] if refused else record.detail,
            "seq": record.seq,
            "unreported": len(self._reports),
            "profile": self._profiles.status(),
            **({"configs": configs} if (configs := self._configs.status()) else {}),
            **({"excerpts": said} if self._permits is not None and (said := self._permits.status()) else {}),
            "shadow": self.installer.shadow,
            "trials": {"on_faults": record.on_faults, "not_on_faults": record.not_on_faults},
            "restarts": {
                "restarts": record.restarts,
                "unclean_ends": record.unclean_ends,
                "out_of_memory": record.out_of_memory,
            },
        }


def _asked_for(error: AccessError | RetryableError) -> float:
    """Seconds that the service asks to wait."""
    return error.retry_after_s if isinstance(error, RetryableError) else 0.0

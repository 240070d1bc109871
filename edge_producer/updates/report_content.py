"""What a device tells the service about its updates: its records, as the messages that carry them."""

from __future__ import annotations

from dataclasses import asdict

from edge_producer.trust import SERVER
from edge_producer.updates.report_queue import ReportQueue
from edge_producer.updates.service_access import ServiceAccess
from edge_producer.updates.service_client import DeliveryClient
from edge_producer.updates.shadow_comparison import ShadowSummary
from edge_producer.updates.slots import ModelSlots, SlotPointer
from edge_producer.updates.update_states import UpdateRecord
from schemas.proto import delivery_pb2 as pb
from schemas.updates import UpdateState


class UpdateReporter:
    """Writes one device's reports, and sends those that wait.

    Args:
        queue: Keeps them until the service has answered.
        access: Says what else the device knows: its hardware class, time and metadata versions.
        slots: Its sets of models.
        profile: Name of its vertical.
    """

    def __init__(self, queue: ReportQueue, access: ServiceAccess, slots: ModelSlots, profile: str) -> None:
        self._queue = queue
        self._access = access
        self._slots = slots
        self._profile = profile

    def __len__(self) -> int:
        """Reports that wait."""
        return len(self._queue)

    def add(
        self, record: UpdateRecord, shadow: ShadowSummary | None = None, *, standing: bool = False
    ) -> bool:
        """Have a record told; False: nobody ever asks this device.

        Args:
            record: Where the device stands.
            shadow: What two models did beside each other, if that is part of it.
            standing: It is about the newest channel, not about the last attempt.

        Raises:
            OSError: The disk does not take it.
        """
        access = self._access
        if not access.is_asked:
            return False
        report = report_of(record, self._slots.pointer(), self._slots.family, standing=standing)
        report.device_id, report.profile = access.device_id, self._profile
        report.trusted_time_ms = int(access.time.now().timestamp() * 1000)
        if access.joined is not None:
            report.hardware = access.joined.join.hardware
            report.versions.update(access.joined.verifier.versions())
        if shadow is not None:
            report.shadow.CopyFrom(shadow_message(shadow))
        self._queue.add(report)
        return True

    def send(self, delivery: DeliveryClient) -> None:
        """Send what waits, oldest first, and learn the service's time.

        Raises:
            AccessError: The certificate does not allow it.
            RetryableError: The service answered, but did not take it; the rest waits.
            ServiceUnavailableError: No answer; the rest waits.
        """
        told = self._queue.flush(delivery.report)
        if told is not None:
            self._access.time.learn(told, SERVER)


def report_of(record: UpdateRecord, pointer: SlotPointer, family: str, *, standing: bool) -> pb.ReportRequest:
    """What a record says, as a report.

    Args:
        record: Where the device stands.
        pointer: Which set runs.
        family: That the device runs.
        standing: It is about the newest channel, not about the last attempt.
    """
    report = pb.ReportRequest(state=record.state, channel_seq=record.seq, rollout_id=record.rollout_id)
    for name, release in pointer.active.releases.items():
        report.installed.append(
            pb.Installed(family=name, version=release.version, sha256=release.sha256 or "")
        )
    attempt = record.attempt
    if standing:
        return report
    report.result, report.attack, report.detail = record.result or "", record.attack or "", record.detail
    if attempt is not None and (record.result is not None or record.state is not UpdateState.IDLE):
        # One end of the process may be a power cut; from the second on they are held against the model.
        report.rollout_id, report.crashes = attempt.rollout_id, max(attempt.crashes - 1, 0)
        release = attempt.release
        report.attempted.CopyFrom(
            pb.Installed(family=family, version=release.version, sha256=release.sha256 or "")
        )
    return report


def shadow_message(summary: ShadowSummary) -> pb.Shadow:
    """A comparison as it crosses the wire."""
    return pb.Shadow(**asdict(summary))

"""Turns a device's update records into reports to the model service."""

from __future__ import annotations

from dataclasses import asdict

from edge_producer.inference import RUNTIME
from edge_producer.trust import SERVER
from edge_producer.updates.config_follower import ConfigFollower
from edge_producer.updates.profile_follower import ProfileFollower
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
        access: Gives the device's hardware class, time and metadata versions.
        slots: The device's sets of models.
        profile: Name of the device's profile.
        profiles: What became of its versions.
        configs: What became of its configurations.
    """

    def __init__(
        self,
        queue: ReportQueue,
        access: ServiceAccess,
        slots: ModelSlots,
        profile: str,
        profiles: ProfileFollower,
        configs: ConfigFollower,
    ) -> None:
        self._queue = queue
        self._access = access
        self._slots = slots
        self._profile = profile
        self._profiles = profiles
        self._configs = configs

    def __len__(self) -> int:
        """Reports that wait."""
        return len(self._queue)

    def add(
        self,
        record: UpdateRecord,
        shadow: ShadowSummary | None = None,
        *,
        channel_only: bool = False,
        about_profile: bool = False,
        about_config: str = "",
    ) -> bool:
        """Queue a report of a record; False where the device has no service to report to.

        Args:
            record: State and last result of the device's update.
            shadow: The comparison of two models that led to it, if there is one.
            channel_only: Report the newest channel document, without the last attempt.
            about_profile: Report the version of the profile that is wanted, instead of models.
            about_config: Report this family of configurations, instead of models.

        Raises:
            OSError: The disk does not take it.
        """
        access = self._access
        if not access.is_managed:
            return False
        family, alone = self._slots.family, channel_only or about_profile or bool(about_config)
        report = report_of(record, self._slots.pointer(), family, channel_only=alone)
        report.profile_state.CopyFrom(self._profiles.state())
        if about_profile:
            self._profiles.put_into(report)
        report.installed.extend(self._configs.installed())
        if about_config:
            self._configs.put_into(report, about_config)
        report.device_id, report.profile, report.runtime = access.device_id, self._profile, RUNTIME
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
        server_time = self._queue.flush(delivery.report)
        if server_time is not None:
            self._access.time.learn(server_time, SERVER)


def report_of(
    record: UpdateRecord, pointer: SlotPointer, family: str, *, channel_only: bool
) -> pb.ReportRequest:
    """A record as a report, without what only the queue and the access know.

    Args:
        record: State and last result of the device's update.
        pointer: Which set runs.
        family: The device's model family.
        channel_only: Report the newest channel document, without the last attempt.
    """
    report = pb.ReportRequest(
        state=record.state,
        channel_seq=record.seq,
        rollout_id=record.rollout_id,
        restarts=record.restarts,
        out_of_memory=record.out_of_memory,
        unclean_ends=record.unclean_ends,
    )
    for name, release in pointer.active.releases.items():
        report.installed.append(
            pb.Installed(family=name, version=release.version, sha256=release.sha256 or "")
        )
    attempt = record.attempt
    if channel_only:
        return report
    report.result, report.attack, report.detail = record.result or "", record.attack or "", record.detail
    if attempt is not None and (record.result is not None or record.state is not UpdateState.IDLE):
        # The first crash is not reported: it may have been a power cut. Later ones count against the model.
        report.rollout_id, report.crashes = attempt.rollout_id, max(attempt.crashes - 1, 0)
        release = attempt.release
        report.attempted.CopyFrom(
            pb.Installed(family=family, version=release.version, sha256=release.sha256 or "")
        )
    return report


def shadow_message(summary: ShadowSummary) -> pb.Shadow:
    """A comparison as its protobuf message."""
    known = {name: value for name, value in asdict(summary).items() if value is not None}
    return pb.Shadow(**known)

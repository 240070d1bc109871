"""The instruction in force for one device: fetched, verified, decided, and handed to the installer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_producer.inference import RUNTIME_VERSION
from edge_producer.trust import SERVER, DeviceFacts, VerifiedState, decide
from edge_producer.trust.profile_documents import ProfileDocuments
from edge_producer.updates.config_trial import Fetch
from edge_producer.updates.download import DownloadPace, Downloads
from edge_producer.updates.installer import Installer
from edge_producer.updates.onnx_graph import MAX_OPSET
from edge_producer.updates.resources import UpdaterResources
from edge_producer.updates.service_access import ServiceAccess, UpdaterOptions
from edge_producer.updates.service_client import DeliveryClient
from edge_producer.updates.slots import ModelSet
from edge_producer.updates.update_states import Attempt
from schemas.channel_documents import ChannelDocument, Release, artifact_path
from schemas.errors import TrustError
from schemas.join import JoinBundle

CONFIG_S = 60.0
"""Longest time for one try to fetch a configuration: it is small, and a model waits for it."""


@dataclass(frozen=True)
class Assignment:
    """What the newest channel document that verifies wants of a device.

    Attributes:
        release: The release to run; None where the document does not name the device's family.
        verified: Everything that the service sent, verified.
    """

    channel: ChannelDocument
    release: Release | None
    verified: VerifiedState


class InstructionReader:
    """Reads one device's instructions, and has the installer begin what they ask for.

    Args:
        access: The way to the service, with what verifies its answers.
        installer: Carries instructions out.
        options: Folder and disk for downloads.
        resources: How slow downloads may be.
        monotonic: Steady seconds, any origin.
        on_profiles: Called with what a verified reply says about profiles, and the device's group.
        on_configs: Called with a verified reply, the device's facts, and what fetches a configuration.
    """

    def __init__(
        self,
        access: ServiceAccess,
        installer: Installer,
        options: UpdaterOptions,
        resources: UpdaterResources,
        monotonic: Callable[[], float],
        on_profiles: Callable[[ProfileDocuments, str], None],
        on_configs: Callable[[VerifiedState, DeviceFacts, Fetch], None],
    ) -> None:
        self._on_profiles = on_profiles
        self._on_configs = on_configs
        self._access = access
        self._installer = installer
        self._progress = installer.progress
        self._options = options
        self._pace = resources.pace
        self._monotonic = monotonic

    def fetch(self, delivery: DeliveryClient, stop: Callable[[], bool]) -> Assignment | None:
        """What the device should run now; None where nothing is wanted, or nothing that can be trusted.

        Args:
            delivery: Answers.
            stop: Polled while a configuration is fetched; True gives up.

        Raises:
            AccessError: The certificate does not allow it.
            ServiceUnavailableError: No answer in time.
        """
        joined, time = self._access.joined, self._access.time
        assert joined is not None  # noqa: S101  (made with the connection)
        verifier = joined.verifier
        try:
            fetched = delivery.fetch_metadata(verifier.versions(), verifier.documents())
            time.learn(fetched.server_time, SERVER)
            verified = verifier.apply(fetched.metadata, fetched.documents)
            self._on_profiles(verified.profiles, joined.join.group)
            facts = self._facts(joined.join)
            self._on_configs(verified, facts, self._fetcher(delivery, stop))
            instruction = decide(verified, facts, time.now())
        except TrustError as exc:
            self._progress.refuse_metadata(exc)
            return None
        self._progress.metadata_verified()
        if instruction.channel is None:
            return None
        release = instruction.wanted.get(self._installer.slots.family)
        return Assignment(instruction.channel, release, verified)

    def apply(
        self, assignment: Assignment, delivery: DeliveryClient, stop: Callable[[], bool]
    ) -> float | None:
        """Have the installer begin an assignment, if it is neither done nor under way.

        Args:
            assignment: From ``fetch``.
            delivery: Fetches the artifact.
            stop: Polled between chunks; True gives up, to be resumed later.

        Returns:
            Seconds until a failed attempt may be tried again; None where it may not.
        """
        installer, release = self._installer, assignment.release
        if release is None:
            return None
        wanted = ModelSet(releases={installer.slots.family: release})
        if release.sha256 is None:
            wanted = installer.slots.factory  # no digest: whichever factory set this device was made with
        if installer.is_target(wanted):
            return None
        if wanted == installer.pointer.active:
            installer.cancel()
            return None
        if not installer.may_begin(wanted, assignment.channel.seq):
            wait_s = self._retry_s(wanted)
            # If that time has passed, a watch is in the way; the agent checks again when the watch ends.
            return None if wait_s is not None and wait_s <= 0 else wait_s
        self._install(wanted, assignment, delivery, stop)
        return self._retry_s(wanted)

    def _install(
        self, wanted: ModelSet, assignment: Assignment, delivery: DeliveryClient, stop: Callable[[], bool]
    ) -> None:
        installer = self._installer
        release = wanted.releases[installer.slots.family]
        fetched = assignment.release is not None and assignment.release.sha256 is not None
        path = artifact_path(installer.slots.family, release.version) if fetched else ""
        attempt = Attempt(
            seq=assignment.channel.seq,
            rollout_id=assignment.channel.rollout_id,
            wanted=wanted,
            before=installer.pointer.active,
            release=release,
            path=path,
        )
        downloads = self._downloads(delivery, "download", self._pace)
        length = assignment.verified.target(path).length if path else 0
        installer.install(attempt, length, downloads, stop)

    def _downloads(self, delivery: DeliveryClient, name: str, pace: DownloadPace) -> Downloads:
        options = self._options
        fetch = functools.partial(delivery.fetch_artifact, stall_s=pace.window_s, total_s=pace.total_s)
        return Downloads(options.folder / name, fetch, options.disk, pace, self._monotonic)

    def _fetcher(self, delivery: DeliveryClient, stop: Callable[[], bool]) -> Fetch:
        """Fetches configurations, into a folder of their own: a model's download goes on where it was."""
        pace = replace(self._pace, total_s=min(self._pace.total_s, CONFIG_S))

        def fetch(sha256: str, length: int) -> bytes:
            downloads = self._downloads(delivery, "download-configs", pace)
            downloads.forget(keep=sha256)
            data = downloads.get(sha256, length, stop)
            downloads.forget()
            return data

        return fetch

    def _retry_s(self, wanted: ModelSet) -> float | None:
        failure = self._progress.record.failed.get(wanted.digest)
        if failure is None or failure.kind != "passing":
            return None
        return failure.not_before - self._access.time.now().timestamp()

    def _facts(self, join: JoinBundle) -> DeviceFacts:
        installer = self._installer
        return DeviceFacts(
            device_id=self._access.device_id,
            group=join.group,
            hardware=join.hardware,
            families=(installer.slots.family,),
            highest_seq=self._progress.record.seq,
            installed=installer.pointer.active.releases,
            max_opset=MAX_OPSET,
            runtime=RUNTIME_VERSION,
        )

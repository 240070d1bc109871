"""What the service asks of one device: fetched, verified, decided, and handed to the installer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from edge_producer.trust import SERVER, DeviceFacts, VerifiedState, decide
from edge_producer.updates.download import Downloads
from edge_producer.updates.installer import Installer
from edge_producer.updates.onnx_graph import MAX_OPSET
from edge_producer.updates.resources import UpdaterResources
from edge_producer.updates.service_access import DevicePaths, ServiceAccess
from edge_producer.updates.service_client import DeliveryClient
from edge_producer.updates.slots import ModelSet
from edge_producer.updates.update_states import Attempt
from schemas.channel_documents import ChannelDocument, Release, artifact_path
from schemas.errors import TrustError
from schemas.join import JoinBundle


@dataclass(frozen=True)
class Assignment:
    """What the newest channel that holds asks of a device.

    Attributes:
        release: To be run; None: the channel says nothing of the device's family.
        verified: Everything the service sent, as verified.
    """

    channel: ChannelDocument
    release: Release | None
    verified: VerifiedState


class InstructionReader:
    """Reads one device's instructions, and begins what they ask for.

    Args:
        access: How the device gets at the service.
        installer: Carries instructions out.
        place: Where downloads go.
        shared: How slow they may be.
        monotonic: Steady seconds, any origin.
    """

    def __init__(
        self,
        access: ServiceAccess,
        installer: Installer,
        place: DevicePaths,
        shared: UpdaterResources,
        monotonic: Callable[[], float],
    ) -> None:
        self._access = access
        self._installer = installer
        self._place = place
        self._pace = shared.pace
        self._monotonic = monotonic

    def fetch(self, delivery: DeliveryClient) -> Assignment | None:
        """What is asked of the device now; None: nothing, or nothing that can be trusted.

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
            instruction = decide(verified, self._facts(joined.join), time.now())
        except TrustError as exc:
            self._installer.refuse_metadata(exc)
            return None
        self._installer.metadata_holds()
        if instruction.channel is None:
            return None
        release = instruction.wanted.get(self._installer.slots.family)
        return Assignment(instruction.channel, release, verified)

    def obey(self, asked: Assignment, delivery: DeliveryClient, stop: Callable[[], bool]) -> float | None:
        """Have the installer begin what is asked, if that is neither done nor under way.

        Args:
            asked: What ``fetch`` gave.
            delivery: Fetches the artifact.
            stop: Asked while fetching.

        Returns:
            Seconds until it may be tried again; None: there is no such time.
        """
        installer, release = self._installer, asked.release
        if release is None:
            return None
        wanted = ModelSet(releases={installer.slots.family: release})
        if release.sha256 is None:
            wanted = installer.slots.factory  # its own, whichever it was made with
        if installer.aims_at(wanted):
            return None
        if wanted == installer.pointer.active:
            installer.cancel()
            return None
        if not installer.may_begin(wanted, asked.channel.seq):
            wait_s = self._retry_s(wanted)
            # That time is past: a watch is in the way, and its end has the service looked at again.
            return None if wait_s is not None and wait_s <= 0 else wait_s
        self._install(wanted, asked, delivery, stop)
        return self._retry_s(wanted)

    def _install(
        self, wanted: ModelSet, asked: Assignment, delivery: DeliveryClient, stop: Callable[[], bool]
    ) -> None:
        installer = self._installer
        release = wanted.releases[installer.slots.family]
        fetched = asked.release is not None and asked.release.sha256 is not None
        path = artifact_path(installer.slots.family, release.version) if fetched else ""
        attempt = Attempt(
            seq=asked.channel.seq,
            rollout_id=asked.channel.rollout_id,
            wanted=wanted,
            before=installer.pointer.active,
            release=release,
            path=path,
        )
        place, pace = self._place, self._pace
        fetch = functools.partial(delivery.fetch_artifact, stall_s=pace.window_s, total_s=pace.total_s)
        downloads = Downloads(place.folder / "download", fetch, place.disk, pace, self._monotonic)
        length = asked.verified.target(path).length if path else 0
        installer.install(attempt, length, downloads, stop)

    def _retry_s(self, wanted: ModelSet) -> float | None:
        failure = self._installer.record.failed.get(wanted.digest)
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
            highest_seq=installer.record.seq,
            installed=installer.pointer.active.releases,
            max_opset=MAX_OPSET,
        )

"""One device's updater: looks for instructions, verifies them, has them carried out, and reports."""

from __future__ import annotations

import functools
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_producer.identity import DeviceIdentity
from edge_producer.trust import SERVER, DeviceFacts, TrustedTime, Verified, Verifier, decide
from edge_producer.updates.download import Downloads
from edge_producer.updates.identity import Membership, load_join
from edge_producer.updates.installer import Installer, Parts
from edge_producer.updates.journal import Journal
from edge_producer.updates.link import Backoff, Link
from edge_producer.updates.machine import Attempt, Record
from edge_producer.updates.onnx_graph import MAX_OPSET
from edge_producer.updates.reports import Reports, report_of
from edge_producer.updates.service import Delivery
from edge_producer.updates.shared import Shared
from edge_producer.updates.slots import ModelSet, Slots
from schemas.channels import Channel, Release, artifact_path
from schemas.durable import Disk
from schemas.errors import AccessError, PipelineError, RetryableError, ServiceUnavailableError, TrustError
from schemas.join import JoinBundle
from schemas.proto import delivery_pb2 as pb
from schemas.updates import Result, UpdateState

log = logging.getLogger(__name__)

BUSY_S = 0.5
"""How often a trial or watch is looked at when no window wakes the agent."""
DENIED_S = 60.0
HINT_S = 1.0
"""Hints have the service looked at so often at most: whoever sends them may send any number."""
RENEW_EVERY = 4
"""Of so many unanswered visits the last tries a new certificate: a TLS refusal looks like no answer."""


@dataclass(frozen=True)
class Place:
    """Where a device keeps what, and how it reaches the service.

    Attributes:
        folder: The device's own.
        join_dir: Folder of join bundles; None: it asks nobody.
        poll_s: Mean time between two looks.
        offline: Whether there is no network now.
        build_time: Nothing before it is believed.
    """

    folder: Path
    join_dir: Path | None
    poll_s: float
    offline: Callable[[], bool]
    build_time: datetime
    disk: Disk


class Agent:
    """One device's updater. Everything but ``seat``, ``status`` and ``wake`` belongs to one thread.

    Args:
        device: Its id and key.
        place: Its folder, and how it reaches the service.
        shared: What the devices of the process share.
        slots: Its sets of models.

    Raises:
        SpoolError: No set of models can be loaded.
    """

    def __init__(self, device: DeviceIdentity, place: Place, shared: Shared, slots: Slots) -> None:
        self.device_id = device.device_id
        self._device = device
        self._place = place
        self._shared = shared
        self._woken = threading.Event()
        self._looked_s = -HINT_S
        self._jitter = random.Random()  # noqa: S311  (spreads polls, guards nothing)
        self._stop: Callable[[], bool] = lambda: False
        disk = place.disk
        self._time = TrustedTime(place.folder / "time.json", place.build_time, disk=disk)
        self._reports = Reports(place.folder / "reports", disk, device.device_id)
        self._join: JoinBundle | None = None
        self._link: Link | None = None
        self._verifier: Verifier | None = None
        self._backoff = Backoff()
        self._due_s = 0.0
        self._flush_s = 0.0
        self._unheard = Backoff()
        self._unheard_s = 0.0
        parts = Parts(
            slots, Journal(place.folder, disk), lambda: self._time.now().timestamp(), self.wake, self._tell
        )
        self._slots = slots
        self.installer = Installer(self.device_id, parts, shared)
        self.seat = self.installer.seat
        self._greeted = False
        self.status = self._status()
        self.checked = threading.Event()
        """Set once the service has been looked at and answered."""
        self.trouble = ""
        """Why the last look failed; empty: it did not."""
        self.hopeless = False
        """Looks failed, and trying again at once would not help."""

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
            log.exception("the updater stumbled and goes on", extra={"device_id": self.device_id})
            self._later(self._backoff.failed())

    def step(self) -> None:
        """Take up progress; look at the service where that is due. Failures wait and are tried again."""
        try:
            before = self.installer.record.state
            self.installer.advance()
            if before in _WAITING and self.installer.record.state not in _WAITING:
                self._due_s = 0.0
            self._visit()
        except (PipelineError, OSError):
            log.exception("the updater goes on without this step", extra={"device_id": self.device_id})
            self._later(self._backoff.failed())
        self.status = self._status()

    def close(self) -> None:
        """End in order."""
        self.installer.close()
        self._drop_link()

    # The service -----------------------------------------------------------------------------------------

    def _visit(self) -> None:
        now = time.monotonic()
        look, tell = now >= self._due_s, len(self._reports) > 0 and now >= self._tell_s
        if not (look or tell):
            return
        self._looked_s = now if look else self._looked_s
        if self._place.offline():
            self.trouble, self.hopeless = "flight mode is on", True
            self._drop_link()
            self._later(BUSY_S)
            return
        try:
            delivery = self._connected().delivery(
                renew=self._backoff.failures % RENEW_EVERY == RENEW_EVERY - 1
            )
            self._greet()
            heard = self._deliver_reports(delivery)
            if look:
                self._look(delivery)
                heard = self._deliver_reports(delivery)
        except (AccessError, RetryableError) as exc:
            self._failed_visit(exc)
        else:
            if look or heard:
                self._backoff.worked()
                self._flush_s = 0.0
                self.trouble, self.hopeless = "", False
            if look:
                self.checked.set()

    def _failed_visit(self, error: AccessError | RetryableError) -> None:
        denied = isinstance(error, AccessError)
        if str(error) != self.trouble:
            log.warning("%s", error, extra={"device_id": self.device_id})
        wait = self._backoff.failed()
        self._later(max(wait, DENIED_S) if denied else wait)
        self.trouble, self.hopeless = str(error), denied or self._backoff.failures > 1
        if denied or self._backoff.failures >= RENEW_EVERY:
            self._drop_link()

    def _drop_link(self) -> None:
        """Hang up; the next visit reads the join bundle anew: it may be a new one."""
        if self._link is not None:
            self._link.close()
            self._link = None

    @property
    def has_joined(self) -> bool:
        """Whether the device has had a certificate, or nobody asked it to join. From any thread."""
        place = self._place
        bundles = [place.folder / "joined.json"]
        bundles += [place.join_dir / f"{self.device_id}.json"] if place.join_dir is not None else []
        return not any(b.exists() for b in bundles) or (place.folder / "certificate.pem").exists()

    def _connected(self) -> Link:
        """The link to the service that the join bundle names.

        Raises:
            AccessError: It has none, or it cannot be read.
        """
        if self._link is not None:
            return self._link
        place = self._place
        join = load_join(place.join_dir or place.folder, place.folder, self.device_id, place.disk)
        if join is None:
            wanted = (place.join_dir or place.folder) / f"{self.device_id}.json"
            raise AccessError(f"{self.device_id} has no join bundle: {wanted} is not there")
        membership = Membership(place.folder, join, self._device, self._time, place.disk)
        root, store = join.root_json.encode(), place.folder / "metadata"
        self._verifier = Verifier(store, root, self._time, group=join.group, disk=place.disk)
        self._join = join
        self._link = Link(join, membership, self._hint)
        return self._link

    def _hint(self, _version: int) -> None:
        """Somebody says that something changed: reason to look, and no more. From the listening thread."""
        due_s = max(time.monotonic(), self._looked_s + HINT_S)
        if due_s < self._due_s:
            self._due_s = due_s
            self.wake()

    def _greet(self) -> None:
        """Report once a start: whatever a crash kept from being told is told here."""
        if not self._greeted:
            self._greeted = True
            self._tell(self.installer.record, None)

    def _deliver_reports(self, delivery: Delivery) -> bool:
        """Whether the service took what waited. That it takes no reports must not keep orders away.

        Raises:
            ServiceUnavailableError: It does not answer at all.
        """
        if time.monotonic() < self._unheard_s:
            return False
        try:
            told = self._reports.flush(delivery.report)
        except ServiceUnavailableError:
            raise
        except (AccessError, RetryableError) as exc:
            wait = max(self._unheard.failed(), DENIED_S if isinstance(exc, AccessError) else 0.0)
            self._unheard_s = time.monotonic() + wait
            log.warning("reports wait %.0f s: %s", wait, exc, extra={"device_id": self.device_id})
            return False
        self._unheard.worked()
        if told is not None:
            self._time.learn(told, SERVER)
        return True

    @property
    def _tell_s(self) -> float:
        """When reports are sent again."""
        return max(self._flush_s, self._unheard_s)

    def _look(self, delivery: Delivery) -> None:
        assert self._verifier is not None  # noqa: S101  (made with the link)
        self._due_s = time.monotonic() + self._place.poll_s * (0.5 + self._jitter.random())
        installer = self.installer
        try:
            fetched = delivery.fetch_metadata(self._verifier.versions(), self._verifier.documents())
            self._time.learn(fetched.server_time, SERVER)
            verified = self._verifier.apply(fetched.metadata, fetched.documents)
            facts = self._facts()
            instruction = decide(verified, facts, self._time.now())
        except TrustError as exc:
            installer.refuse_metadata(exc)
            return
        installer.metadata_holds()
        if instruction.channel is not None:
            release = instruction.wanted.get(self._slots.family)
            if installer.accept(instruction.channel.seq, instruction.channel.rollout_id):
                self._tell(installer.record, None, standing=True)
            if release is not None:
                self._obey(instruction.channel, release, verified, delivery)

    def _obey(self, channel: Channel, release: Release, verified: Verified, delivery: Delivery) -> None:
        installer = self.installer
        wanted = ModelSet(releases={self._slots.family: release})
        if release.sha256 is None:
            wanted = self._slots.factory  # its own, whichever it was made with
        if installer.aims_at(wanted):
            return
        if wanted == installer.pointer.active:
            installer.cancel()
            return
        if not installer.may_begin(wanted, channel.seq):
            self._retry_when_due(wanted)
            return
        path = artifact_path(self._slots.family, release.version) if release.sha256 is not None else ""
        length = verified.target(path).length if path else 0
        attempt = Attempt(
            seq=channel.seq,
            rollout_id=channel.rollout_id,
            wanted=wanted,
            before=installer.pointer.active,
            release=wanted.releases[self._slots.family],
            path=path,
        )
        place = self._place
        pace = self._shared.pace
        fetch = functools.partial(delivery.fetch_artifact, stall_s=pace.window_s, total_s=pace.total_s)
        downloads = Downloads(place.folder / "download", fetch, place.disk, pace)
        self.status = self._status()
        installer.install(attempt, length, downloads, self._stop)
        self._retry_when_due(wanted)

    def _retry_when_due(self, wanted: ModelSet) -> None:
        failure = self.installer.record.failed.get(wanted.digest)
        if failure is not None and failure.kind == "passing":
            wait = failure.not_before - self._time.now().timestamp()
            self._due_s = min(self._due_s, time.monotonic() + max(wait, 0.0) + 0.05)

    # Small things ----------------------------------------------------------------------------------------

    def _facts(self) -> DeviceFacts:
        assert self._join is not None  # noqa: S101  (set with the link)
        return DeviceFacts(
            device_id=self.device_id,
            group=self._join.group,
            hardware=self._join.hardware,
            families=(self._slots.family,),
            highest_seq=self.installer.record.seq,
            installed=self.installer.pointer.active.releases,
            max_opset=MAX_OPSET,
        )

    def _later(self, wait_s: float) -> None:
        self._due_s = self._flush_s = time.monotonic() + wait_s

    def _pause(self) -> float:
        due = min(self._due_s, self._tell_s) if len(self._reports) else self._due_s
        pause = max(due - time.monotonic(), 0.01)
        return min(pause, BUSY_S) if self.installer.record.state in _WAITING else pause

    def _tell(self, record: Record, shadow: pb.Shadow | None, *, standing: bool = False) -> None:
        if self._place.join_dir is None and self._join is None:
            return  # nobody ever asks
        report = report_of(record, self._slots.pointer(), self._slots.family, standing=standing)
        report.device_id, report.profile = self.device_id, self._shared.profile.name
        report.hardware = "" if self._join is None else self._join.hardware
        report.trusted_time_ms = int(self._time.now().timestamp() * 1000)
        for role, version in ({} if self._verifier is None else self._verifier.versions()).items():
            report.versions[role] = version
        if shadow is not None:
            report.shadow.CopyFrom(shadow)
        self._reports.add(report)
        self._flush_s = 0.0
        self.wake()

    def _status(self) -> dict[str, Any]:
        record = self.installer.record
        refused = record.told.get("metadata", "")
        return {
            "version": self.seat.lineup.active.version,
            "state": record.state.value,
            "result": (Result.NO_CHANGE_REFUSED if refused else record.result or ""),
            "attack": refused.partition(": ")[0] if refused else record.attack or "",
            "detail": refused.partition(": ")[2] if refused else record.detail,
            "seq": record.seq,
            "unreported": len(self._reports),
            "shadow": self.installer.shadow,
        }


_WAITING = (UpdateState.TRIAL, UpdateState.WATCH)

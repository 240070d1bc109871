"""One device's part in the profile of its process: what its channel wants, and what became of it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edge_producer.profile_switch import ProfileSwitch
from edge_producer.sources.sensor_generator import generator_names
from edge_producer.trust.profile_documents import ProfileDocuments
from edge_producer.trust.profile_instruction import (
    ProfileFacts,
    ProfileInstruction,
    VersionRules,
    decide_profile,
)
from edge_producer.trust.trusted_time import TrustedTime
from edge_producer.updates.profile_record import ProfileRecord, load_record, save_record
from schemas.durable import Disk
from schemas.errors import TrustError
from schemas.profile_changes import Scored
from schemas.profile_channel import ProfileChannel
from schemas.proto import delivery_pb2 as pb
from schemas.updates import Attack, ProfileOutcome, UpdateResult, UpdateState

log = logging.getLogger(__name__)

_STATES = {
    ProfileOutcome.ACCEPTED: (UpdateState.VERIFIED, None),
    ProfileOutcome.APPLIED: (UpdateState.IDLE, UpdateResult.COMMITTED),
    ProfileOutcome.REFUSED: (UpdateState.IDLE, UpdateResult.NO_CHANGE_REFUSED),
    ProfileOutcome.FAILED: (UpdateState.IDLE, UpdateResult.NO_CHANGE_REFUSED),
}
"""How a report on a version puts each outcome in the words of an update."""


class ProfileFollower:
    """Decides what a device's channel wants of its profile, keeps it, and tells the process. Of one thread.

    Args:
        device_id: The device.
        folder: Its own.
        switch: What the devices of the process run.
        scored: Returns what scores the golden windows of the model in force.
        disk: Reads and writes the folder.

    Attributes:
        record: Newest record, persisted.
    """

    def __init__(
        self,
        device_id: str,
        folder: Path,
        switch: ProfileSwitch,
        scored: Callable[[], Scored | None],
        disk: Disk,
    ) -> None:
        self._device_id = device_id
        self._folder = folder
        self._switch = switch
        self._scored = scored
        self._disk = disk
        self.record = load_record(folder, switch.process.profile.name, disk)
        if (told := self.record.version) is not None:
            switch.tell(device_id, told)

    def follow(self, documents: ProfileDocuments, group: str, time: TrustedTime) -> bool:
        """Go by verified documents; returns whether there is something to report.

        Raises:
            OSError: The disk does not take what must be kept; nothing changes.
        """
        channel, record = documents.channel, self.record
        if channel is None and documents.refusal is None and not record.seq:
            return False
        try:
            channel = _channel(documents, record)
            facts = self._facts(group)
            found = decide_profile(channel, documents.versions, facts, self._rules(documents), time.now())
        except TrustError as exc:
            rollout = record.rollout_id if channel is None else channel.rollout_id
            return self._refuse(exc, rollout)
        accepted = replace(record, seq=max(record.seq, channel.seq), floor=found.floor)
        return self._accept(replace(accepted, rollout_id=channel.rollout_id), found, documents)

    def refresh(self) -> bool:
        """Note what the sensing loop has made of it since; returns whether there is something to report.

        Raises:
            OSError: The disk does not take it.
        """
        record, running = self.record, self._switch.running(self._device_id)
        told = record.version
        if told is None or record.outcome not in (ProfileOutcome.ACCEPTED, ProfileOutcome.FAILED):
            return False
        if running.number == told.number and running.profile == told.profile:
            later = ", ".join(self._switch.later(self._device_id))
            detail = f"from the next start on: {later}"[:500] if later else ""
            return self._save(replace(record, outcome=ProfileOutcome.APPLIED, attack=None, detail=detail))
        if problem := self._switch.problem(self._device_id):
            return self._save(replace(record, outcome=ProfileOutcome.FAILED, detail=problem[:500]))
        return False

    def state(self) -> pb.ProfileState:
        """What every report says of the profile."""
        running, record = self._switch.running(self._device_id), self.record
        return pb.ProfileState(
            number=running.number,
            digest=hashlib.sha256(running.profile.canonical_form()).hexdigest(),
            seq=record.seq,
            wanted=0 if record.told is None else record.told.statement.number,
            outcome=record.outcome or "",
            attack=record.attack or "",
            detail=record.detail,
        )

    def put_into(self, report: pb.ReportRequest) -> None:
        """Make a report one about the version that is wanted."""
        record, outcome = self.record, self.record.outcome
        if outcome is None:
            return
        state, result = _STATES[outcome]
        report.rollout_id, report.state, report.result = record.rollout_id, state, result or ""
        report.attack, report.detail = record.attack or "", record.detail
        if record.told is not None and outcome is not ProfileOutcome.REFUSED:
            report.attempted.CopyFrom(_attempted(record))

    def status(self) -> dict[str, object]:
        """For the status file."""
        record = self.record
        return {
            "number": self._switch.running(self._device_id).number,
            "wanted": 0 if record.told is None else record.told.statement.number,
            "outcome": record.outcome or "",
            "attack": record.attack or "",
            "detail": record.detail,
            "seq": record.seq,
        }

    def _facts(self, group: str) -> ProfileFacts:
        running, record = self._switch.running(self._device_id), self.record
        return ProfileFacts(
            device_id=self._device_id,
            group=group,
            profile=running.profile,
            number=running.number,
            highest_seq=record.seq,
            floor=record.floor,
            generators=generator_names(),
        )

    def _rules(self, documents: ProfileDocuments) -> VersionRules:
        """The bounds in force count, whatever were when a version was signed: nothing outside them is run."""
        newest = documents.bounds
        named = {v.statement.bounds for v in documents.versions} - {newest.seq}
        others = [newest.model_copy(update={"seq": seq}) for seq in sorted(named)]
        running, channel = self._switch.running(self._device_id), documents.channel
        wanted = None if channel is None else channel.profiles.get(running.profile.name)
        told = None if wanted is None else wanted.for_device(self._device_id)
        changes = told is not None and told.number != running.number  # else nothing is to be scored
        return VersionRules(documents.keys, [newest, *others], self._scored() if changes else None)

    def _accept(self, record: ProfileRecord, found: ProfileInstruction, documents: ProfileDocuments) -> bool:
        told = found.told
        if told is None:
            changed = replace(record, attack=None, detail="")
            if record.outcome is ProfileOutcome.REFUSED:
                changed = replace(changed, outcome=None, told=None)
            return self._save(changed, report=False)
        signed = next(v for v in documents.versions if v.statement.version == told.name)
        again = record.told == signed and record.outcome is not ProfileOutcome.REFUSED
        outcome = record.outcome if again else ProfileOutcome.ACCEPTED
        changed = replace(record, told=signed, outcome=outcome)
        if not again:
            changed = replace(changed, attack=None, detail="")
        report = self._save(changed, report=not again or record.rollout_id != self.record.rollout_id)
        self._switch.tell(self._device_id, told)
        return self.refresh() or report

    def _refuse(self, error: TrustError, rollout_id: str) -> bool:
        refused = replace(
            self.record,
            rollout_id=rollout_id,
            outcome=ProfileOutcome.REFUSED,
            attack=error.attack,
            detail=str(error)[:500],
        )
        if refused != self.record:
            log.warning("a profile is refused: %s", error, extra={"device_id": self._device_id})
        return self._save(refused)

    def _save(self, record: ProfileRecord, *, report: bool = True) -> bool:
        """Persist a record; returns whether it is another one, and to be reported."""
        if record == self.record:
            return False
        save_record(self._folder, self._switch.process.profile.name, record, self._disk)
        self.record = record
        return report


def _channel(documents: ProfileDocuments, record: ProfileRecord) -> ProfileChannel:
    if documents.refusal is not None:
        raise documents.refusal
    if documents.channel is None:
        raise TrustError(
            f"there is no document on profiles, but {record.seq} was accepted before", Attack.REPLAYED_CHANNEL
        )
    return documents.channel


def _attempted(record: ProfileRecord) -> pb.Installed:
    """The version that is wanted, in the form of a model's."""
    assert record.told is not None  # noqa: S101  (the caller has looked)
    statement = record.told.statement
    return pb.Installed(family=statement.name, version=statement.release, sha256=statement.sha256)

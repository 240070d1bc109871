"""A rollout in memory: devices, a lossy network and a guard that agrees, around the pure state machine."""

from dataclasses import dataclass, field, replace

from model_service.rollout import rollout_states, transitions
from model_service.rollout.cohort_draw import draw
from model_service.rollout.observed import (
    PENDING,
    DeviceReport,
    DeviceStatus,
    GroupMember,
    Observed,
    PairedShadow,
    SentDocument,
)
from model_service.rollout.rollout_record import RolloutRecord
from schemas.channel_documents import BROAD, CANARY, ChannelDocument, Release
from schemas.learning_policy import RolloutPolicy

FACTORY = Release(version="machine-0.00000000")
NEW = Release(version="machine-1.00000001", sha256="1" * 64)
SETTINGS = RolloutPolicy(
    canary_share=0.25,
    phases=(0.5, 1.0),
    soak_s=5.0,
    silent_s=30.0,
    reach_s=60.0,
    min_devices=2,
    max_failed=0.1,
)


def new_record(members, settings=SETTINGS, *, security=False, baseline=FACTORY) -> RolloutRecord:
    """A draft with its plan."""
    drawn = draw("line-1", list(members.values()), settings)
    return RolloutRecord(
        rollout_id="line-1", group="line", family="machine", version=NEW.version, created_by="anna",
        security=security, target={"machine": NEW}, baseline={"machine": baseline}, settings=settings,
        canary=drawn.canary, salt=drawn.salt, holdout=drawn.holdout,
    )  # fmt: skip


def fleet(count: int) -> dict[str, GroupMember]:
    """Devices at two sites, all of them in the canary pool."""
    return {f"d{i:02d}": GroupMember(f"d{i:02d}", f"site-{i % 2}", "sim", True) for i in range(count)}


@dataclass
class SimulatedRollout:
    """The record of a rollout, its devices, and the documents and reports between them.

    Attributes:
        runs: What each device runs.
        reports: Reports that arrived, by device.
    """

    members: dict[str, GroupMember]
    record: RolloutRecord
    now: float = 1000.0
    sent: list[SentDocument] = field(default_factory=list)
    documents: dict[int, ChannelDocument] = field(default_factory=dict)
    runs: dict[str, Release] = field(default_factory=dict)
    reports: dict[str, list[DeviceReport]] = field(default_factory=dict)
    statuses: dict[str, DeviceStatus] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    floors: dict[str, int] = field(default_factory=dict)
    successor: str = ""
    seq: int = 0
    number: int = 0

    def observed(self) -> Observed:
        """What the state machine gets to know."""
        return Observed(
            self.members, self.reports, self.statuses, self.sent, self.floors, successor=self.successor
        )

    def take(self, outcome: transitions.Transition) -> None:
        """Carry out what the state machine wants."""
        self.record = outcome.record
        for action in outcome.actions:
            if isinstance(action, transitions.Note):
                self.notes.append(action.step)
            elif isinstance(action, transitions.Withdraw):
                self.sent = [replace(s, state="withdrawn") if s.state in PENDING else s for s in self.sent]
            else:
                self._store(action)

    def begin(self) -> None:
        """Start the draft."""
        self.take(rollout_states.begin(self.record))
        self.advance()

    def advance(self) -> None:
        """One step of the state machine."""
        self.take(rollout_states.advance(self.record, self.observed(), self.now))

    def publish(self, *, refuse: str = "") -> None:
        """Publish the documents that wait; or the guard refuses the broad ones."""
        for i, s in enumerate(self.sent):
            if s.state in PENDING:
                no = refuse if s.ring == BROAD else ""
                self.sent[i] = replace(s, state="refused" if no else "published", at=self.now, detail=no)

    def advance_until_quiet(self) -> None:
        """Advance and publish until nothing changes."""
        for _ in range(30):
            before = (self.record, list(self.sent))
            self.advance()
            self.publish()
            if before == (self.record, self.sent):
                return

    def wanted(self, device: str) -> Release:
        """What the document in force wants of the device."""
        out = [s for s in self.sent if s.state == "published"]
        mine = [s for s in out if s.ring == BROAD or self.members[device].pool]
        newest = max(mine, key=lambda s: s.seq, default=None)
        return FACTORY if newest is None else self.documents[newest.seq].wanted(device)["machine"]

    def report(self, device: str, state: str, result: str = "", *, attempted=NEW, **fields) -> DeviceReport:
        """A report, not delivered yet."""
        self.number += 1
        return DeviceReport(self.number, self.now, state, result, attempted.version, **fields)

    def deliver(self, device: str, report: DeviceReport) -> None:
        """The report arrives."""
        self.reports.setdefault(device, []).append(report)
        self.statuses[device] = DeviceStatus(
            self.now, self.seq, report.state, {"machine": self.runs.get(device, FACTORY)}
        )

    def commit(self, device: str, gain: float = 0.0) -> None:
        """The device installs what is wanted of it, and reports it."""
        wanted = self.wanted(device)
        self.runs[device] = wanted
        pair = PairedShadow(20, gain, 0)
        self.deliver(device, self.report(device, "idle", "committed", attempted=wanted, paired=pair))

    def restore(self, device: str) -> None:
        """The device tries the new model, and restores the old one."""
        self.deliver(device, self.report(device, "restored", "restored", detail="trial failed"))

    def treated(self) -> list[str]:
        """Devices that should run the new model and do not yet."""
        return [d for d in self.members if self.wanted(d) == NEW and self.runs.get(d, FACTORY) != NEW]

    def all_commit(self, gain: float = 0.0) -> None:
        """Every device that is wanted to."""
        for device in self.members:
            if self.wanted(device) != self.runs.get(device, FACTORY):
                self.commit(device, gain)

    def phase_passes(self) -> None:
        """The current phase's devices commit, and the soak ends."""
        self.advance_until_quiet()
        self.all_commit()
        self.now += self.record.settings.soak_s + 0.1
        self.advance_until_quiet()

    def _store(self, wanted: transitions.Propose) -> None:
        from datetime import UTC, datetime, timedelta

        self.seq += 1
        issued = datetime.fromtimestamp(self.now, UTC)
        self.documents[self.seq] = ChannelDocument(
            group="line", ring=wanted.ring, seq=self.seq, rollout_id=self.record.rollout_id,
            target=dict(wanted.target), baseline=self.record.baseline, cohort=wanted.cohort,
            holdout=wanted.holdout, reason=wanted.reason, issued=issued, expires=issued + timedelta(days=1),
        )  # fmt: skip
        self.sent.append(
            SentDocument(self.seq, wanted.ring, wanted.purpose, wanted.phase, "proposed", self.now)
        )


def started(count: int = 12, settings=SETTINGS, **given) -> SimulatedRollout:
    """A rollout whose canary document is published."""
    members = fleet(count)
    rollout = SimulatedRollout(members, new_record(members, settings, **given))
    rollout.begin()
    rollout.publish()
    return rollout


__all__ = [
    "BROAD",
    "CANARY",
    "FACTORY",
    "NEW",
    "SETTINGS",
    "SimulatedRollout",
    "fleet",
    "new_record",
    "started",
]

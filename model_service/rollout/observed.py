"""What a rollout knows: its devices, what they reported, and which channel documents are published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from model_service.rollout.config_evidence import ConfigFinding
from model_service.rollout.predicted_alarms import PredictedAlarms
from model_service.rollout.rollout_record import DocumentRing
from schemas.channel_documents import Release

Purpose = Literal["phase", "rollback", "renewal"]
PENDING = ("proposed", "countersigned")
"""States of a document that is not published yet, and may still be."""


@dataclass(frozen=True)
class GroupMember:
    """A device of the group that runs the rollout's family.

    Attributes:
        pool: Whether the signed policy has it in the canary pool, so that canary documents bind it.
    """

    device_id: str
    site: str
    hardware: str
    pool: bool


@dataclass(frozen=True)
class PairedAlarms:
    """On how many windows each model alarms, and on how many only one of them.

    Attributes:
        gained, lost: Windows on which only the new, and only the old model alarms.
        gained_runs, lost_runs: Unbroken rows of such windows.
    """

    old: int
    new: int
    gained: int
    lost: int
    gained_runs: int
    lost_runs: int


@dataclass(frozen=True)
class LabelledWindows:
    """How many windows that are known to be faulty each model detects."""

    windows: int
    old: int
    new: int


@dataclass(frozen=True)
class PairedShadow:
    """How two models compare on the same windows of one device.

    Attributes:
        gain: Share of windows by which the new model raises more alarms than the old one, in [-1, 1].
        late: Windows whose score by the new model took longer than the hop.
        alarms: None: the device's release does not count them.
        labelled: None: no window of known truth was compared.
        old_took, new_took: Windows by the time that the score took (``TOOK_PARTS``); empty: not counted.
        old_scores, new_scores: Windows by score, in tenths; empty: not counted.
    """

    windows: int
    gain: float
    late: int
    alarms: PairedAlarms | None = None
    labelled: LabelledWindows | None = None
    old_took: tuple[int, ...] = ()
    new_took: tuple[int, ...] = ()
    old_scores: tuple[int, ...] = ()
    new_scores: tuple[int, ...] = ()


@dataclass(frozen=True)
class DeviceReport:
    """One report of a device about the rollout.

    Attributes:
        at: When it arrived, UTC seconds.
        attempted: Version that it is about; empty: none.
        restarts, unclean_ends, out_of_memory: Starts of the process since the rollout was accepted, ends that
            were not in order, and ends by a resource limit.
        runtime: What scores; empty: a release that does not say, and counts no restarts.
    """

    report_no: int
    at: float
    state: str
    result: str
    attempted: str
    attack: str = ""
    detail: str = ""
    crashes: int = 0
    paired: PairedShadow | None = None
    restarts: int = 0
    unclean_ends: int = 0
    out_of_memory: int = 0
    runtime: str = ""


@dataclass(frozen=True)
class DeviceStatus:
    """A device's newest report, whatever it is about.

    Attributes:
        last_seen: When any report of it arrived last, UTC seconds.
    """

    last_seen: float
    channel_seq: int
    state: str
    installed: Mapping[str, Release]


@dataclass(frozen=True)
class SentDocument:
    """A channel document of the rollout, and how far it is on its way to publication.

    Attributes:
        at: When its state last changed, UTC seconds.
    """

    seq: int
    ring: DocumentRing
    purpose: Purpose
    phase: int
    state: str
    at: float
    detail: str = ""


@dataclass(frozen=True)
class AlarmRates:
    """Share of windows with an alarm, one number per device, since the canary document was published.

    Attributes:
        newest: When the newest window of each device that sent any began, UTC seconds, by device id.
    """

    treated: Sequence[float]
    holdout: Sequence[float]
    newest: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Observed:
    """Everything that a decision may use.

    Attributes:
        members: By device id.
        reports: Reports about this rollout by device id, in any order, repeats allowed.
        sent: Documents of this rollout, in any order.
        floors: By family, the lowest major that may run.
        broad_elsewhere: Whether the newest broad document of the group is of another rollout (one that was
            superseded) and gives devices something else than this rollout's baseline.
        successor: Id of a draft that waits for this rollout to end; empty: none.
        unfit: By device id, why a device of the group cannot take the model: it is no member.
        rates: None: there is no holdout, or the lake does not hold its rates.
        predicted: What the gate predicted of the new model; None: nothing, because it replaces none.
        judged: What the profile's judge finds of a configuration; None: it was not asked.
    """

    members: Mapping[str, GroupMember]
    reports: Mapping[str, Sequence[DeviceReport]] = field(default_factory=dict)
    statuses: Mapping[str, DeviceStatus] = field(default_factory=dict)
    sent: Sequence[SentDocument] = ()
    floors: Mapping[str, int] = field(default_factory=dict)
    broad_elsewhere: bool = False
    successor: str = ""
    unfit: Mapping[str, str] = field(default_factory=dict)
    rates: AlarmRates | None = None
    predicted: PredictedAlarms | None = None
    judged: ConfigFinding | None = None

    def newest(self, purpose: Purpose, phase: int, ring: DocumentRing) -> SentDocument | None:
        """The newest document of that purpose, phase and ring that was not withdrawn."""
        fitting = [
            s
            for s in self.sent
            if (s.purpose, s.phase, s.ring) == (purpose, phase, ring) and s.state != "withdrawn"
        ]
        return max(fitting, key=lambda s: s.seq, default=None)

    def pending(self) -> bool:
        """Whether a document waits for publication."""
        return any(s.state in PENDING for s in self.sent)

    def published_at(self, purpose: Purpose, phase: int, ring: DocumentRing) -> float | None:
        """When the document was published, UTC seconds; None: it is not."""
        found = self.newest(purpose, phase, ring)
        return found.at if found is not None and found.state == "published" else None

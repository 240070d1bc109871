"""What a rollout sees of the world: devices, what they reported, which channel documents are out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from schemas.channel_documents import Release, Ring

Purpose = Literal["phase", "rollback", "renewal"]
PENDING = ("proposed", "countersigned")


@dataclass(frozen=True)
class GroupMember:
    """A device of the group that runs the rollout's family.

    Attributes:
        pool: Whether the signed policy lets canary channels bind it.
    """

    device_id: str
    site: str
    hardware: str
    pool: bool


@dataclass(frozen=True)
class PairedShadow:
    """Two models on the same windows of one device.

    Attributes:
        gain: Share of windows by which the new model raises more alarms than the old one, in [-1, 1].
        late: Windows whose shadow score took longer than the hop.
    """

    windows: int
    gain: float
    late: int


@dataclass(frozen=True)
class DeviceReport:
    """One report of a device about the rollout.

    Attributes:
        at: When it came, UTC seconds.
        attempted: Version that it is about; empty: none.
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


@dataclass(frozen=True)
class DeviceStatus:
    """What a device's newest report says, whatever it is about."""

    last_seen: float
    channel_seq: int
    state: str
    installed: Mapping[str, Release]


@dataclass(frozen=True)
class SentDocument:
    """A channel document of the rollout, on its way or out.

    Attributes:
        at: When its state last changed, UTC seconds.
    """

    seq: int
    ring: Ring
    purpose: Purpose
    phase: int
    state: str
    at: float
    detail: str = ""


@dataclass(frozen=True)
class AlarmRates:
    """Share of windows with an alarm, per device, since the phase began."""

    treated: Sequence[float]
    holdout: Sequence[float]


@dataclass(frozen=True)
class Observed:
    """Everything a decision may rest on.

    Attributes:
        members: By device id.
        told: Reports about this rollout by device id, in any order, repeats allowed.
        sent: Documents of this rollout, in any order.
        floors: By family, the lowest major that may run.
        broad_elsewhere: The newest broad document of the group treats devices with something that is not
            this rollout's baseline, and is not of this rollout (a superseded one left it).
        successor: Draft that waits for this rollout to make way.
        rates: Where there is a holdout and the lake knows.
    """

    members: Mapping[str, GroupMember]
    told: Mapping[str, Sequence[DeviceReport]] = field(default_factory=dict)
    statuses: Mapping[str, DeviceStatus] = field(default_factory=dict)
    sent: Sequence[SentDocument] = ()
    floors: Mapping[str, int] = field(default_factory=dict)
    broad_elsewhere: bool = False
    successor: str = ""
    rates: AlarmRates | None = None

    def newest(self, purpose: Purpose, phase: int, ring: Ring) -> SentDocument | None:
        """The newest document of a purpose that was not withdrawn."""
        fitting = [
            s
            for s in self.sent
            if (s.purpose, s.phase, s.ring) == (purpose, phase, ring) and s.state != "withdrawn"
        ]
        return max(fitting, key=lambda s: s.seq, default=None)

    def pending(self) -> bool:
        """Whether a document is on its way."""
        return any(s.state in PENDING for s in self.sent)

    def published_at(self, purpose: Purpose, phase: int, ring: Ring) -> float | None:
        """When the document was published; None: it is not out."""
        found = self.newest(purpose, phase, ring)
        return found.at if found is not None and found.state == "published" else None

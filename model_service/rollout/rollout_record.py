"""What a rollout remembers: its fixed plan, where it stands, and why it waits."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, NonNegativeInt

from schemas.channel_documents import BROAD, CANARY, GroupName, Release, Ring, SignedDocument, Version
from schemas.cohorts import EVERYBODY, NOBODY, SaltedShare
from schemas.learning_policy import RolloutPolicy
from schemas.section import Name

State = Literal[
    "draft",
    "running",
    "paused",
    "completed",
    "completed_partial",
    "superseded",
    "aborting",
    "rolled_back",
    "rolled_back_partial",
]
ACTIVE: Final = ("running", "paused", "aborting")
"""At most one rollout of a group is in one of these."""
ENDED: Final = ("completed", "completed_partial", "superseded", "rolled_back", "rolled_back_partial")
COMPLETED: Final = ("completed", "completed_partial")

PauseKind = Literal["person", "not_shown", "failures", "refused"]


class RolloutPause(SignedDocument):
    """Why a rollout does not go on by itself.

    Attributes:
        kind: ``person``: somebody asked; ``not_shown``: too little evidence of quality; ``failures``: too
            few devices to tell a bad model from a bad device; ``refused``: the guard did not countersign.
        at: UTC seconds.
    """

    kind: PauseKind
    reason: str
    at: float

    @property
    def needs(self) -> Literal["operator", "approver"]:
        """Role that may resume: what evidence did not show is an approver's to decide."""
        return "approver" if self.kind in ("not_shown", "failures") else "operator"


class RolloutRecord(SignedDocument):
    """One rollout; everything about it that is not an observation.

    Attributes:
        target: By family, the set that treated devices run.
        baseline: By family, the set that everybody else runs and that an abort returns to; never changes.
        settings: The profile's ``[rollout]`` when it began.
        canary: Cohort within the signed pool.
        salt: Draws the phases' cohorts: a larger share of the same salt holds the smaller one.
        holdout: Stays on baseline through the last soak.
        imbalance: Of the draw over sites and hardware, 0 is perfect.
        phase: 0 is the canary ring.
        waived: Phases whose missing evidence a person accepted.
        handled_refusal: Newest seq whose refusal by the guard a person has seen.
        ended_because: Why it was aborted, superseded or ended in part.
    """

    rollout_id: str
    group: GroupName
    family: Name
    version: Version
    security: bool = False
    created_by: str
    target: dict[Name, Release] = Field(default_factory=dict)
    baseline: dict[Name, Release] = Field(default_factory=dict)
    settings: RolloutPolicy = RolloutPolicy()
    canary: SaltedShare = NOBODY
    salt: str = ""
    holdout: SaltedShare = NOBODY
    imbalance: float = 0.0
    state: State = "draft"
    phase: NonNegativeInt = 0
    pause: RolloutPause | None = None
    waived: tuple[int, ...] = ()
    handled_refusal: Annotated[int, Field(ge=0)] = 0
    ended_because: str = ""

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of the broad phases, rising; the last one is everybody."""
        return shares(self.settings)

    @property
    def last_soaking(self) -> int:
        """The last phase that evidence is gathered in."""
        return len(self.shares)

    @property
    def last_phase(self) -> int:
        """The last phase: with a holdout, the one that releases it."""
        return self.last_soaking + (1 if self.holdout.share > 0 else 0)

    @property
    def releases(self) -> bool:
        """Whether the current phase is the release of the holdout."""
        return self.phase > self.last_soaking

    def asks(self, phase: int) -> bool:
        """Whether the quality guard is asked before what follows a phase: not where nothing does."""
        return phase < self.last_soaking or (phase == self.last_soaking < self.last_phase)

    @property
    def looks(self) -> int:
        """How often the quality guard is asked for a promotion: its error budget is split among them."""
        return sum(self.asks(phase) for phase in range(self.last_phase + 1))

    def ring(self, phase: int) -> Ring:
        """Ring of a phase."""
        return CANARY if phase == 0 else BROAD

    def cohort(self, phase: int) -> SaltedShare:
        """Who is treated in a phase, the pool and the holdout aside."""
        if phase == 0:
            return self.canary
        if phase >= self.last_soaking:
            return EVERYBODY.model_copy(update={"salt": self.salt})
        return SaltedShare(salt=self.salt, share=self.shares[phase - 1])

    def held_out(self, phase: int) -> SaltedShare:
        """Who stays on baseline in a phase whatever its cohort says."""
        return NOBODY if phase > self.last_soaking else self.holdout

    def treats(self, phase: int, device_id: str, in_pool: bool) -> bool:
        """Whether a device of the group runs the target in a phase."""
        if self.held_out(phase).includes(device_id):
            return False
        canary = in_pool and self.canary.includes(device_id)
        return canary or (phase > 0 and self.cohort(phase).includes(device_id))


def shares(settings: RolloutPolicy) -> tuple[float, ...]:
    """Shares of the broad phases: rising, each once, and everybody in the end."""
    return tuple(sorted({*settings.phases, 1.0}))

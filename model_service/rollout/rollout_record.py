"""The stored record of a rollout: its fixed plan, its state and phase, and why it waits."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Final, Literal

from pydantic import Field, NonNegativeInt

from schemas.channel_documents import BROAD, CANARY, GroupName, Release, SignedDocument, Version
from schemas.cohorts import EVERYBODY, NOBODY, SaltedShare
from schemas.learning_policy import RolloutPolicy
from schemas.profile_statement import VersionStatement
from schemas.section import Name

RolloutState = Literal[
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

RolloutKind = Literal["model", "profile", "config"]
PROFILE: Final = "profile"
CONFIG: Final = "config"
DocumentRing = Literal["canary", "broad", "profile"]
"""Ring of a channel document; ``profile``: the group's document on profiles, which binds all of it."""

PauseKind = Literal["person", "not_shown", "failures", "refused"]


class RolloutPause(SignedDocument):
    """Why a rollout waits for a person.

    Attributes:
        kind: ``person``: a person paused it; ``not_shown``: too little evidence of quality; ``failures``: too
            few devices to tell a bad model from a bad device; ``refused``: the guard did not countersign.
        at: UTC seconds.
    """

    kind: PauseKind
    reason: str
    at: float

    @property
    def needs(self) -> Literal["operator", "approver"]:
        """Role that may resume: where evidence is missing or failures occurred, an approver decides."""
        return "approver" if self.kind in ("not_shown", "failures") else "operator"


class RolloutRecord(SignedDocument):
    """Everything about one rollout that is decided, not observed.

    Attributes:
        target: By family, the set that treated devices run.
        baseline: By family, the set that everybody else runs and that an abort returns to; never changes.
        settings: The profile's ``[rollout]`` at the time it began.
        canary: Cohort within the signed pool.
        salt: Salt of the phases' cohorts: of one salt, a larger share includes every smaller one.
        holdout: Devices that stay on the baseline through the last soak.
        imbalance: Of the draw over sites and hardware; 0 is perfect.
        phase: Number of the current phase; 0 is the canary ring.
        waived: Phases whose missing evidence an approver accepted.
        lengthened: Phases whose soak was lengthened.
        handled_refusal: Newest refused seq that a person knows of, because it resumed the rollout after it.
        ended_because: Why it was aborted, superseded or completed in part; empty otherwise.
        kind: ``profile``: of a version of a profile. Then ``family`` is the profile's name, ``version`` and
            releases name versions in the grammar of models, and any device of the group may be a canary.
        statement: Of a profile: what was signed about the version.
        followed: Of a profile: the same of the version that all others run, and that an abort returns to.
        profile: Of a configuration: the profile whose devices it is for.
        units: Of a configuration whose unit is a site: devices by site, in the order in which sites are
            treated. A document then names the devices of the sites that it treats.
        valid_from: Of a configuration: instant before which no device takes it over, UTC seconds.
        lead_s: Of a configuration: seconds from a document's issue to the switch.
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
    state: RolloutState = "draft"
    phase: NonNegativeInt = 0
    pause: RolloutPause | None = None
    waived: tuple[int, ...] = ()
    lengthened: tuple[int, ...] = ()
    handled_refusal: Annotated[int, Field(ge=0)] = 0
    ended_because: str = ""
    kind: RolloutKind = "model"
    statement: VersionStatement | None = None
    followed: VersionStatement | None = None
    profile: str = ""
    units: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    valid_from: float = 0.0
    lead_s: float = 0.0

    def succeeds(self, active: RolloutRecord) -> bool:
        """Whether this draft ends an active rollout at its next safe point; else it waits until that ends.

        A model ends the rollout of a model of its family, a version of a profile that of the same profile, a
        configuration that of its family. One for security ends that of any model and any configuration.
        """
        if self.security and PROFILE not in (self.kind, active.kind):
            return True
        return self.kind == active.kind and (self.security or self.family == active.family)

    @property
    def shown_version(self) -> str:
        """The version as people name it: of a profile ``pump@3``."""
        return self.version if self.statement is None else str(self.statement.version)

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of the broad phases, rising; the last one is everybody."""
        return shares(self.settings)

    @property
    def last_soaking(self) -> int:
        """The last phase in which evidence is gathered."""
        return len(self.shares)

    @property
    def last_phase(self) -> int:
        """The last phase: with a holdout, the one that releases it."""
        return self.last_soaking + (1 if self.holds_out else 0)

    @property
    def holds_out(self) -> bool:
        """Whether devices stay on the baseline through the last soak."""
        return self.holdout.share > 0 or bool(self.holdout.devices)

    @property
    def releases(self) -> bool:
        """Whether the current phase is the release of the holdout."""
        return self.phase > self.last_soaking

    def asks(self, phase: int) -> bool:
        """Whether the phase needs the quality guard's evidence: not where no further device follows it."""
        return phase < self.last_soaking or (phase == self.last_soaking < self.last_phase)

    @property
    def looks(self) -> int:
        """For how many promotions the quality guard is asked: its error budget is split among them."""
        return sum(self.asks(phase) for phase in range(self.last_phase + 1))

    def ring(self, phase: int) -> DocumentRing:
        """Ring of a phase."""
        if self.kind == PROFILE:
            return PROFILE
        # A configuration's canaries are whole sites, which no pool of devices bounds: two keys do instead.
        return CANARY if phase == 0 and self.kind != CONFIG else BROAD

    def cohort(self, phase: int) -> SaltedShare:
        """Which devices a phase treats, before the pool and the holdout are taken into account."""
        if phase == 0:
            return self.canary
        if phase >= self.last_soaking:
            return EVERYBODY.model_copy(update={"salt": self.salt})
        if self.units:
            return SaltedShare(salt=self.salt, devices=self._devices_of(self.shares[phase - 1]))
        return SaltedShare(salt=self.salt, share=self.shares[phase - 1])

    def _devices_of(self, share: float) -> tuple[str, ...]:
        """Devices of the first sites that make up a share of all, the canaries at least."""
        first = self.units_of(self.canary)
        number = max(len(first), math.ceil(share * len(self.units)))
        return tuple(d for site in list(self.units)[:number] for d in self.units[site])

    def units_of(self, cohort: SaltedShare) -> tuple[str, ...]:
        """Sites that a cohort includes."""
        return tuple(site for site, ids in self.units.items() if all(map(cohort.includes, ids)))

    def switch_at(self, published_at: float) -> float:
        """When devices take a configuration over that a document named, UTC seconds."""
        return published_at if self.security else max(self.valid_from, published_at + self.lead_s)

    def held_out(self, phase: int) -> SaltedShare:
        """Which devices stay on the baseline in a phase though its cohort may include them."""
        return NOBODY if phase > self.last_soaking else self.holdout

    def treats(self, phase: int, device_id: str, in_pool: bool) -> bool:
        """Whether a device of the group runs the target in a phase."""
        return self.treated(phase)(device_id, in_pool)

    def treated(self, phase: int) -> Callable[[str, bool], bool]:
        """From a device's id, and whether it is in the pool, to whether it runs the target in a phase."""
        held, canary, cohort = self.held_out(phase), self.canary, self.cohort(phase)

        def treats(device_id: str, in_pool: bool) -> bool:
            if held != NOBODY and held.includes(device_id):
                return False
            return (in_pool and canary.includes(device_id)) or (phase > 0 and cohort.includes(device_id))

        return treats


def shares(settings: RolloutPolicy) -> tuple[float, ...]:
    """Shares of the broad phases: rising, each once, the last one everybody."""
    return _rising(settings.phases)


@lru_cache(maxsize=64)
def _rising(phases: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted({*phases, 1.0}))

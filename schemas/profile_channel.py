"""What a group's channel says about profiles: by profile, the version that its devices run. A TUF target."""

from __future__ import annotations

from typing import Self

from pydantic import AwareDatetime, Field, PositiveInt, model_validator

from schemas.channel_documents import GroupName, SignedDocument
from schemas.cohorts import EVERYBODY, SaltedShare
from schemas.profile_statement import VersionStatement
from schemas.section import Name

PROFILE_CHANNEL_ROLE = "channels-profile"
"""Role of the engine's key that signs these documents; what it may name, operators have signed."""


def profile_channel_path(group: str) -> str:
    """Target path of a group's document on profiles. Devices of release 0.2.0 ignore it."""
    return f"channels/{group}/profile.json"


class WantedVersion(SignedDocument):
    """Versions of one profile.

    Attributes:
        target: What members of ``cohort`` run.
        baseline: What all others run; None: what they run already.
        cohort: Devices that get the target; everybody, once its rollout is complete: then nobody goes back
            below it.
    """

    target: VersionStatement
    baseline: VersionStatement | None = None
    cohort: SaltedShare = EVERYBODY

    @property
    def is_settled(self) -> bool:
        """Whether the whole group runs the target for good."""
        return self.cohort.share >= 1

    @model_validator(mode="after")
    def _follows(self) -> Self:
        if self.baseline is not None and self.baseline.version.name != self.target.version.name:
            raise ValueError("target and baseline must be of one profile")
        return self

    def for_device(self, device_id: str) -> VersionStatement | None:
        """The version for this device; None: what it runs already."""
        return self.target if self.cohort.includes(device_id) else self.baseline


class ProfileChannel(SignedDocument):
    """Desired profiles of a group's devices.

    Attributes:
        seq: Grows with every document for the group; devices never follow a lower one.
        profiles: By name of the profile.
    """

    group: GroupName
    seq: PositiveInt
    rollout_id: str
    profiles: dict[Name, WantedVersion] = Field(default={})
    issued: AwareDatetime
    expires: AwareDatetime

    @model_validator(mode="after")
    def _named(self) -> Self:
        if wrong := [n for n, wanted in self.profiles.items() if wanted.target.name != n]:
            raise ValueError(f"versions of other profiles stand under {', '.join(wrong)}")
        return self

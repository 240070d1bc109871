"""Channel documents and the fleet policy: which set of models a group should run, and what bounds it.

Both are TUF targets: a role's metadata holds their digests; devices check role, digest, seq and expiry.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from schemas.cohorts import NOBODY, SaltedShare
from schemas.manifest import Digest, Manifest
from schemas.model_version import PATTERN, ModelVersion
from schemas.runtime_range import VersionRange
from schemas.section import Name

Ring = Literal["canary", "broad"]
CANARY: Final = "canary"
BROAD: Final = "broad"
RINGS: tuple[Ring, ...] = (CANARY, BROAD)
POLICY_PATH = "policy/fleet.json"
CONFIG_KIND: Final = "config"
"""Kind of a target that is a configuration; a model's says none."""
ISSUED_FIELD = "x-edgeloop-issued"
"""Field of signed metadata: when it was signed (ISO 8601, UTC). Devices take a lower bound of the time from
it."""

GroupName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,47}$")]
Version = Annotated[str, Field(pattern=PATTERN)]
"""Text that ``ModelVersion.parse`` understands."""

ROOT, TIMESTAMP, SNAPSHOT, TARGETS = "root", "timestamp", "snapshot", "targets"
POLICY_ROLE, CANARY_ROLE, BROAD_ROLE = "policy", "channels-canary", "channels-broad"


def model_role(family: str) -> str:
    """TUF role of a model family."""
    return f"models-{family}"


def channel_path(group: str, ring: Ring) -> str:
    """Target path of a channel document."""
    return f"channels/{group}/{ring}.json"


def artifact_path(family: str, version: str) -> str:
    """Target path of a model bundle."""
    return f"models/{family}/{version}.bundle"


class SignedDocument(BaseModel):
    """Base: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Release(SignedDocument):
    """One model bundle that a channel document names.

    Attributes:
        version: The manifest's version; ``<family>-<major>.<digest8>``.
        sha256: Of the artifact; None: the factory set of that version.
    """

    version: Version
    sha256: Digest | None = None

    @property
    def major(self) -> int:
        """Number within the family; grows with every candidate."""
        return ModelVersion.parse(self.version).major


class ChannelDocument(SignedDocument):
    """Desired state of a group's devices in one ring.

    Attributes:
        seq: Grows with every document for the group, in either ring; devices never follow a lower one.
        rollout_id: Rollout that this document belongs to.
        target: By family, what members of ``cohort`` run.
        baseline: By family, what all other devices of the group run.
        cohort: Devices that get the target. In the canary ring only members of the policy's pool may follow
            it.
        holdout: Devices that stay on the baseline even if they are in the cohort.
        reason: ``security`` skips soak and quality guards, never device checks.
    """

    group: GroupName
    ring: Ring
    seq: PositiveInt
    rollout_id: str
    target: dict[Name, Release]
    baseline: dict[Name, Release]
    cohort: SaltedShare
    holdout: SaltedShare = NOBODY
    reason: Literal["normal", "rollback", "security"] = "normal"
    issued: AwareDatetime
    expires: AwareDatetime

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if set(self.target) != set(self.baseline):
            raise ValueError(
                "target and baseline must name the same families: the models of a set fit together"
            )
        return self

    def wanted(self, device_id: str) -> dict[Name, Release]:
        """The set that this device should run."""
        treated = self.cohort.includes(device_id) and not self.holdout.includes(device_id)
        return self.target if treated else self.baseline


class FleetPolicy(SignedDocument):
    """Bounds that no online key may change: signed by the offline policy role.

    Attributes:
        canary: By group, the devices that canary documents may apply to.
        floors: By family, the lowest ``major`` that may run (factory sets excepted).
        revoked: Digests of artifacts that may not be installed any more.
    """

    seq: PositiveInt
    canary: dict[GroupName, SaltedShare] = {}
    floors: dict[Name, NonNegativeInt] = {}
    revoked: tuple[Digest, ...] = ()
    issued: AwareDatetime
    expires: AwareDatetime


class TargetCustom(SignedDocument):
    """Signed beside an artifact's digest, as the ``custom`` field of its TUF target.

    Attributes:
        hardware: Hardware classes it may run on; empty: any.
        runtime: Range of versions of onnxruntime that it may run on; empty: any.
        kind: ``config`` of a configuration; empty: a model. Release 0.2.0 passes over targets with a kind.
    """

    family: Name
    version: Version
    hardware: tuple[str, ...] = ()
    opset: PositiveInt
    runtime: VersionRange = ""
    kind: Literal["", "config"] = ""

    @classmethod
    def of(cls, manifest: Manifest) -> TargetCustom:
        """What is signed of a model, as its manifest states it."""
        return cls(
            family=manifest.family,
            version=manifest.version,
            hardware=manifest.hardware,
            opset=manifest.opset,
            runtime=manifest.runtime,
        )

    @model_serializer(mode="wrap")
    def _as_signed(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without younger keys that say nothing: release 0.2.0 refuses what it does not know."""
        dumped: dict[str, Any] = handler(self)
        return {key: value for key, value in dumped.items() if value or key not in ("runtime", "kind")}

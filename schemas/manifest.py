"""Manifest of a model bundle: what a device checks before it trusts the graph beside it."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from schemas.calendar_features import CALENDAR_KINDS
from schemas.errors import BundleError
from schemas.model_version import ModelVersion
from schemas.offending_keys import describe
from schemas.output_names import output_columns
from schemas.runtime_range import VersionRange
from schemas.section import HardwareClass, Name

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ANY_FEATURESET = "*"
"""Featureset of a bundle that computes any features that a profile asks for."""

SCORE_EDGES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Bin edges of the score in all our bundles, so that summaries of different models can be compared."""


class ManifestPart(BaseModel):
    """Base of every part of a manifest: frozen, unknown keys and NaN refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Input(ManifestPart):
    """One column of the raw window that the graph was made for."""

    name: Name
    unit: str


class Baseline(ManifestPart):
    """A feature's statistics in training. Drift is measured against them.

    Attributes:
        n: Windows.
        mean: Mean over all windows of all devices.
        std: Standard deviation of one window.
        device_std: Standard deviation between devices' means: fleets differ by this over sqrt(devices).
        mean_std: Standard deviation of one device's means over ``mean_windows`` windows around its own
            mean; around the usual one of the hour where the manifest has a season of the feature.
        mean_windows: Consecutive windows of those means.
    """

    n: PositiveInt
    mean: float
    std: NonNegativeFloat
    device_std: NonNegativeFloat
    mean_std: NonNegativeFloat
    mean_windows: PositiveInt


class Calibration(ManifestPart):
    """The map from the model's distance d to a score: d^slope / (d^slope + middle^slope).

    Attributes:
        middle: Distance whose score is 0.5.
        healthy_p999: Distance that one in a thousand healthy training windows exceeds.
    """

    middle: float
    slope: float
    healthy_p999: float | None = None


class TrainingFacts(ManifestPart):
    """How the parameters were fitted."""

    script: str
    seed: int
    devices: PositiveInt
    windows: PositiveInt


class Lineage(ManifestPart):
    """What a model was trained from; enough to train it again, byte for byte.

    Attributes:
        run_id: Training run.
        cut: Id of the pinned cut.
        pin: Name of its pin.
        known_at: Instant up to which rows and labels were known to the run.
        event_from, event_to: Event times of the training rows, UTC.
        code: Version of the code.
        champion: Version of the model that it started from.
        verdicts: ``event_id`` of the drift verdicts behind the run.
        rows: Training rows.
        effective_rows: Kish's effective sample size of their weights.
    """

    run_id: str
    cut: int
    pin: str
    known_at: AwareDatetime
    event_from: AwareDatetime
    event_to: AwareDatetime
    code: str
    champion: str
    verdicts: tuple[str, ...] = ()
    rows: PositiveInt
    effective_rows: PositiveFloat


class Tolerance(ManifestPart):
    """How far a device's outputs may lie from the golden ones: |a - b| <= absolute + relative * |b|."""

    absolute: NonNegativeFloat
    relative: NonNegativeFloat


_YOUNGER = (
    "optional_channels",
    "detector",
    "hardware",
    "runtime",
    "outputs",
    "calendar",
    "time_zone",
    "seasons",
    "history",
    "recent",
)
"""Keys that release 0.2.0 did not have."""


class Manifest(ManifestPart):
    """Everything about a bundle but its bytes. Immutable and content-addressed.

    Attributes:
        version: ``<name>-<major>.<first 8 digits of content_digest>``.
        featureset: ``name@n``, or ``*``.
        channels: Columns of the raw window; empty: any.
        window_samples: Samples of a window; None: any.
        rate_hz: Samples per second; None: any.
        features: Feature names in output order; empty: those of the profile.
        opset: ONNX operator set the graph needs.
        bin_edges: Ascending inner bin edges by feature, for summaries.
        baselines: By feature, the score included; empty where nothing was trained.
        kind: What the score means: distance from healthy, or the probability of a labelled fault.
        parameters: The fitted numbers behind the graph, by name, matrices by rows: the next model starts from
            them, and an evaluation recomputes the scores from them without the graph.
        detector: Which detector the parameters belong to; empty: the Mahalanobis distance.
        optional_channels: Channels that the model can do without; all others are required.
        hardware: Hardware classes that it runs on; empty: any.
        runtime: Range of versions of onnxruntime that it runs on; empty: any.
        outputs: Further scores that the graph gives, by name: its output ``score_<name>``.
        calendar: Features of the event time, which the graph takes as input ``calendar``; empty: none.
        time_zone: IANA zone of them; empty where there is none.
        seasons: By feature, its usual deviation from its mean in training by hour of the day, of weekends
            after other days where ``calendar`` tells them apart; of its logarithm where that is compared.
        history: Sums of features by name, whose hours before the graph takes as input ``history``.
        recent: Weight of the newest window in the recent level of each feature, which the graph takes as
            input ``recent``; 0: it takes none.
        lineage: What a retrained model was trained from; None for factory bundles.
        files: SHA-256 of each file of the bundle but the manifest.
    """

    name: Name
    version: str
    kind: Literal["anomaly", "classifier"] = "anomaly"
    featureset: str
    channels: tuple[Input, ...] = ()
    window_samples: PositiveInt | None = None
    rate_hz: PositiveFloat | None = None
    features: tuple[str, ...] = ()
    opset: PositiveInt
    calibration: Calibration
    bin_edges: dict[str, tuple[float, ...]] = {}
    baselines: dict[str, Baseline] = {}
    training: TrainingFacts | None = None
    parameters: dict[str, tuple[float, ...]] = {}
    lineage: Lineage | None = None
    detector: str = ""
    optional_channels: tuple[Name, ...] = ()
    hardware: tuple[HardwareClass, ...] = ()
    runtime: VersionRange = ""
    outputs: tuple[Name, ...] = ()
    calendar: tuple[str, ...] = ()
    time_zone: str = ""
    seasons: dict[str, tuple[float, ...]] = {}
    history: dict[Name, tuple[str, ...]] = {}
    recent: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    tolerance: Tolerance
    files: dict[str, Digest]

    @property
    def family(self) -> str:
        """Name of the model family."""
        return self.name

    @property
    def output_columns(self) -> tuple[str, ...]:
        """The graph's further outputs, and their columns in rows: ``score_<name>``."""
        return output_columns(self.outputs)

    def content_digest(self) -> str:
        """SHA-256 over everything the bundle holds except its version."""
        content = {k: v for k, v in self._content().items() if k != "version"}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def versioned(self, major: int) -> Manifest:
        """The same manifest under the version that its content gives it."""
        version = ModelVersion.of_content(self.name, major, self.content_digest())
        return self.model_copy(update={"version": str(version)})

    def to_json(self) -> str:
        """The manifest file's text: sorted keys, one item a line, reproducible."""
        return json.dumps(self._content(), sort_keys=True, indent=1) + "\n"

    def _content(self) -> dict[str, Any]:
        """JSON values by name. What was added since 0.2.0 is left out where it says nothing new."""
        return self.model_dump(mode="json", exclude={name for name in _YOUNGER if not getattr(self, name)})

    @model_validator(mode="after")
    def _declared(self) -> Self:
        unknown = set(self.optional_channels) - {c.name for c in self.channels}
        if unknown:
            raise ValueError(f"optional_channels names channels that are not declared: {sorted(unknown)}")
        if unknown := set(self.calendar) - CALENDAR_KINDS.keys():
            raise ValueError(f"calendar names features that this release does not know: {sorted(unknown)}")
        if bool(self.calendar) != bool(self.time_zone):
            raise ValueError("calendar and time_zone go together")
        if self.seasons and not self.calendar:
            raise ValueError("seasons need a calendar")
        if {len(table) for table in self.seasons.values()} not in ({24}, {48}, set()):
            raise ValueError("seasons have 24 numbers each, or 48 with weekends")
        return self


def parse_manifest(text: str | bytes, origin: str) -> Manifest:
    """Manifest from its JSON text.

    Raises:
        BundleError: No valid manifest, or one whose version is not that of its content.
    """
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as exc:
        raise BundleError(f"{origin}: {describe(exc)}") from exc
    try:
        major = ModelVersion.parse(manifest.version).major
    except ValueError as exc:
        raise BundleError(f"{origin}: {exc}") from exc
    if manifest.version != manifest.versioned(major).version:
        raise BundleError(f"{origin} was altered: its content does not belong to version {manifest.version}")
    return manifest

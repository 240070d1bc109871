"""A vertical as a file: channels, windows, features, model, decisions and policies.

One TOML file, validated as a whole; each package reads its own part of it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from schemas.calendar_features import CALENDAR
from schemas.config_spec import ConfigSpec, check_configs
from schemas.decision_policy import DecisionPolicy
from schemas.excerpt_policy import ExcerptPolicy, check_excerpts
from schemas.feature_set import Features, FeatureSpec
from schemas.history_spec import ForecastKeys
from schemas.learning_policy import DriftPolicy, GatePolicy, RolloutPolicy, TrainingPolicy
from schemas.output_names import PRIMARY, output_columns
from schemas.recording_section import KEYED_BY_CHANNEL, YOUNGER_REPLAY_KEYS, Replay
from schemas.runtime_range import VersionRange
from schemas.section import Fraction, HardwareClass, Name, Probability, Section
from schemas.source_section import Alignment, SourceMapping
from schemas.summary_period import with_period

DIGEST_CHARS = 16
GENERIC = "robust"
"""Model family that fits any profile."""


class Channel(Section):
    """One measured quantity.

    Attributes:
        dtype: Type of the samples; ``float64`` where float32 cannot hold the steps of large values, as of a
            counter: its features are kept in float64 as well, up to the lake.
        min: Smallest value that can be, in ``unit``; a sample outside the range is absurd and counts as
            missing, and a run of them raises an alarm.
        max: Largest value that can be.
        leaves_device: What may be sent: nothing, or features; ``on_request``: also raw samples, where
            ``excerpts`` names the channel and an approver permits a span.
        required: Without this channel there is no usable score; otherwise a model that can do without it
            judges the others.
        usual_min: Lower end of what is usual, for histograms and the smallest spread; None: ``min``.
        usual_max: Upper end of it; None: ``max``.
    """

    name: Name
    unit: str
    dtype: Literal["float32", "float64", "int32"] = "float32"
    min: float
    max: float
    leaves_device: Literal["never", "features", "on_request"] = "features"
    required: bool = False
    usual_min: float | None = None
    usual_max: float | None = None

    @property
    def usual(self) -> tuple[float, float]:
        """Ends of the range in which values usually lie."""
        low = self.min if self.usual_min is None else self.usual_min
        return low, self.max if self.usual_max is None else self.usual_max

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min < self.max:
            raise ValueError(f"channel {self.name}: min {self.min} must be below max {self.max}")
        low, high = self.usual
        if not self.min <= low < high <= self.max:
            raise ValueError(f"channel {self.name}: usual {low} to {high} must lie within min and max")
        return self


class Sampling(Section):
    """How samples become windows. All channels share one rate.

    Attributes:
        max_missing: Largest share of a channel's samples that may be missing in a window; with more the
            channel is missing.
        max_absurd: Share of a channel's samples outside its range above which the device says so.
    """

    rate_hz: PositiveFloat
    window_samples: PositiveInt
    hop_samples: PositiveInt
    max_missing: Fraction = 0.2
    max_absurd: Fraction = 0.05

    @property
    def hop_s(self) -> float:
        """Seconds between the ends of two windows."""
        return self.hop_samples / self.rate_hz


class ModelSpec(ForecastKeys):
    """Which model scores the windows.

    Attributes:
        name: Model family. ``robust`` is the generic score against the device's own usual; its bundle
            works with any channels.
        reference_windows: For ``robust``: windows that its reference spans until it is frozen.
        warmup_windows: For ``robust``: windows before the first score.
        hardware: Hardware classes that its models run on; empty: any.
        runtime: Range of versions of onnxruntime that they run on; empty: any.
        outputs: Further scores that the graph gives beside ``score``, each in [0, 1] or NaN.
    """

    name: Name = GENERIC
    task: Literal["anomaly", "classification"] = "anomaly"
    label: str = ""
    reference_windows: Annotated[int, Field(ge=8, le=4096)] = 512
    warmup_windows: Annotated[int, Field(ge=4)] = 32
    hardware: tuple[HardwareClass, ...] = ()
    runtime: VersionRange = ""
    outputs: tuple[Name, ...] = ()

    @property
    def family(self) -> str:
        """Name of the model family."""
        return self.name

    @property
    def output_columns(self) -> tuple[str, ...]:
        """Columns of the further outputs, and their names in the graph: ``score_<name>``."""
        return output_columns(self.outputs)


class FilterPolicy(Section):
    """Which rows are worth sending. All others are sampled with rate p.

    Attributes:
        p: Uniform sampling rate of rows that no rule selects.
        p_min: Least sampling rate that a budget may lead to.
        threshold: Rows with a score at or above it are sent.
        uncertain: Rows with a score inside [low, high) are sent.
        deadband: Feature name to the absolute change, in the feature's unit, since the last sent row.
        burst_after: Rows to send after a threshold row.
        pretrigger: Rows to send from before a threshold row.
        budget_rows_per_hour: Target for sampled rows; above it p is lowered, down to ``p_min``.
        thinning_floor: Thinning factor below which eviction gives up a whole block.
        delay_s: How long rows without a rule may wait for more of them; only where windows are a minute apart
            or more.
    """

    p: Probability = 0.05
    p_min: Probability = 0.01
    threshold: Fraction | None = 0.5
    uncertain: tuple[Fraction, Fraction] | None = None
    deadband: dict[str, PositiveFloat] = Field(default={})
    burst_after: NonNegativeInt = 5
    pretrigger: NonNegativeInt = 3
    budget_rows_per_hour: PositiveInt | None = None
    thinning_floor: Probability = 1 / 64
    delay_s: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.p_min > self.p:
            raise ValueError(f"p_min {self.p_min} must not exceed p {self.p}")
        return self


class SummaryPolicy(Section):
    """Mergeable summaries and books.

    Attributes:
        period_s: Length of a summary period, seconds; a divisor of an hour keeps periods aligned to hours. A
            profile that does not say gets one that holds enough windows (``schemas.summary_period``).
        sketches: Whether summaries hold a quantile sketch of each feature.
        moments: Whether lines of the books hold means and co-moments of the features.
    """

    period_s: PositiveFloat = 60.0
    sketches: bool = False
    moments: bool = False


_YOUNGER_KEYS = {
    "replay": YOUNGER_REPLAY_KEYS,
    "summaries": ("sketches", "moments"),
    "filter": ("delay_s",),
    "training": ("alarms_per_device_day", "trainer", "renewals"),
    "rollout": ("longest_soak_s", "no_holdout"),
    "model": ("hardware", "runtime", "outputs", "history", "scales"),
    "features": ("calendar", "time_zone", "also"),
    "gates": ("also", "min_renewal_gain"),
    "decision": ("function", "function_timeout_s", "actions", "numbers", "calibrates"),
}
"""Keys that release 0.2.0 did not have, by section."""
_YOUNGER_ENTRY_KEYS: dict[tuple[str, str], dict[str, Any]] = {
    ("features", "compute"): {"channel": None, "channels": []},
    ("decision", "rules"): {"output": PRIMARY},
}
"""Likewise in each entry of a section's list, with the value that says nothing."""
SLOW_S = 60.0
"""Seconds between windows from which rows may wait for one another; faster ones leave at once (ADR 30)."""


class ClockPolicy(Section):
    """Which event times the cloud accepts.

    Attributes:
        max_age_s: Rows older than this at append time land under append time, flagged.
        max_ahead_s: Likewise for rows from further in the future than this.
    """

    max_age_s: PositiveFloat = 30 * 86400.0
    max_ahead_s: PositiveFloat = 300.0


class Simulate(Section):
    """Which seeded generator replaces the sensors."""

    generator: Name


class Profile(Section):
    """One vertical. See `docs/profiles.md` for every key.

    >>> from schemas.profile_file import find_profile
    >>> profile = find_profile("machine")
    >>> profile.featureset, profile.channel_names
    ('rotating@1', ('vibration', 'temperature', 'current'))
    >>> profile.feature_specs()[0].doc
    'vibration: root mean square over the window [mm/s].'
    >>> [(rule.action, rule.enter) for rule in profile.decision.rules]
    [('inspect', 0.6), ('stop', 0.9)]
    """

    name: Name
    description: str = ""
    channels: tuple[Channel, ...] = Field(min_length=1)
    sampling: Sampling
    features: Features
    model: ModelSpec = ModelSpec()
    decision: DecisionPolicy = DecisionPolicy()
    filter: FilterPolicy = FilterPolicy()
    summaries: SummaryPolicy = SummaryPolicy()
    drift: DriftPolicy = DriftPolicy()
    clock: ClockPolicy = ClockPolicy()
    replay: Replay = Replay()
    source: SourceMapping = SourceMapping()
    align: Alignment = Alignment()
    training: TrainingPolicy = TrainingPolicy()
    gates: GatePolicy = GatePolicy()
    rollout: RolloutPolicy = RolloutPolicy()
    simulate: Simulate | None = None
    configs: tuple[ConfigSpec, ...] = ()
    excerpts: ExcerptPolicy | None = None

    @property
    def featureset(self) -> str:
        """Feature set and version, ``name@n``."""
        return f"{self.features.set}@{self.features.version}"

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Channels in the order of the raw window's columns."""
        return tuple(c.name for c in self.channels)

    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        """Features in column order."""
        return self.features.specs({c.name: c.unit for c in self.channels})

    @property
    def wide(self) -> tuple[bool, ...]:
        """For each channel, whether float32 cannot hold its samples: their steps are kept in float64."""
        return tuple(c.dtype == "float64" for c in self.channels)

    def wide_features(self) -> tuple[bool, ...]:
        """For each feature, whether it is kept in float64."""
        wide = {name for name, wide in zip(self.channel_names, self.wide, strict=True) if wide}
        return tuple(not wide.isdisjoint(s.sources) for s in self.feature_specs())

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features in column order."""
        return tuple(s.name for s in self.feature_specs())

    @property
    def calendar_zone(self) -> str:
        """Time zone of the calendar features, as manifests state it; empty where there are none."""
        return self.features.time_zone if self.features.calendar else ""

    @property
    def row_columns(self) -> tuple[str, ...]:
        """Names of a row's numbers in order: the features, then the further outputs of the model."""
        return self.feature_names + self.model.output_columns

    def config(self, family: str) -> ConfigSpec | None:
        """What it says of a family of configurations; None: it has no such family."""
        return next((c for c in self.configs if c.family == family), None)

    def canonical(self) -> dict[str, Any]:
        """Every value, as JSON has it; keys that release 0.2.0 does not know only where they are used."""
        dumped: dict[str, Any] = self.model_dump(mode="json")
        for section, keys in _YOUNGER_KEYS.items():
            stated = getattr(self, section)
            for key in keys:
                if getattr(stated, key) == type(stated).model_fields[key].get_default():
                    del dumped[section][key]
        for (section, entries), unsaid in _YOUNGER_ENTRY_KEYS.items():
            for entry in dumped[section][entries]:
                for key in [k for k, v in unsaid.items() if entry[k] == v]:
                    del entry[key]
        for name, younger in (("source", self.source), ("align", self.align)):
            if younger == type(younger)():
                del dumped[name]
        for absent in [name for name in ("configs", "excerpts") if not getattr(self, name)]:
            del dumped[absent]
        return dumped

    def canonical_form(self) -> bytes:
        """The bytes that are digested, signed and stored: the same for equal profiles on every machine."""
        return json.dumps(self.canonical(), sort_keys=True, separators=(",", ":")).encode()

    def digest(self) -> str:
        """First 16 hex digits of SHA-256 over the canonical form."""
        return hashlib.sha256(self.canonical_form()).hexdigest()[:DIGEST_CHARS]

    @model_validator(mode="before")
    @classmethod
    def _with_period(cls, given: Any) -> Any:
        return with_period(given)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        channels = self.channel_names
        _unique("channel", channels)
        for name in (name for choice in self.features.compute for name in choice.sources):
            if name not in channels:
                raise ValueError(f"features.compute names channel '{name}', which is not declared")
            if self.channels[channels.index(name)].leaves_device == "never":
                raise ValueError(f"channel '{name}' never leaves the device: no feature of it may")
        if self.features.calendar and CALENDAR in channels:
            raise ValueError("a channel called calendar and features.calendar would have the same columns")
        _unique("feature", self.feature_names)
        _unique("output", (PRIMARY, *self.model.outputs))
        self.model.check_keys(self.feature_names, self.model.outputs)
        _unique("column", self.row_columns)
        check_configs(self.configs, self.model.family)
        if self.excerpts is not None:
            leaves = {c.name: c.leaves_device for c in self.channels}
            check_excerpts(self.excerpts, leaves, self.sampling.rate_hz)
        self._outputs_known()
        watchable = {s.name for s in self.feature_specs() if s.sources}
        for where, names, known in (
            ("filter.deadband", self.filter.deadband, {*self.row_columns, PRIMARY}),
            ("drift.features", self.drift.features, {*watchable, PRIMARY}),
        ):
            unknown = sorted(set(names) - known)
            if unknown:
                raise ValueError(f"{where} names unknown features {unknown}")
        if self.filter.delay_s and self.sampling.hop_s < SLOW_S:
            raise ValueError("filter.delay_s is for windows that come once a minute or less often")
        if self.decision.function and self.decision.function_timeout_s >= self.sampling.hop_s:
            raise ValueError(f"decision.function_timeout_s must be below a hop, {self.sampling.hop_s} s")
        ratio = self.drift.window_s / self.summaries.period_s
        if abs(ratio - round(ratio)) > 1e-9 or ratio < 1:
            raise ValueError("drift.window_s must be a whole multiple of summaries.period_s")
        named = {f"replay.{k}": getattr(self.replay, k) for k in KEYED_BY_CHANNEL}
        named |= {"source.channels": self.source.channels, "align.channels": self.align.channels}
        for where, by_channel in named.items():
            unmapped = sorted(set(by_channel) - set(channels))
            if unmapped:
                raise ValueError(f"{where} names unknown channels {unmapped}")
        return self

    def _outputs_known(self) -> None:
        if self.model.name == GENERIC and (self.features.also or self.model.outputs):
            raise ValueError(
                "features.also and model.outputs need a model of the profile's own: the generic one computes "
                f"built-in kinds and one score only; write model.name = '{self.name}'"
            )
        for rule in self.decision.rules:
            if rule.output not in (PRIMARY, *self.model.outputs):
                known = ", ".join((PRIMARY, *self.model.outputs))
                raise ValueError(
                    f"rule {rule.action}: output '{rule.output}' is none of the model's: {known}"
                )


def _unique(what: str, names: tuple[str, ...]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"{what} named twice: {twice}")

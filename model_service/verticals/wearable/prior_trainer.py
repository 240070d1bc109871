"""Computes the prior of a group's wearers: entry point ``wearable_prior`` of ``edgeloop.configs``."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_service.training.config_interface import ComputedConfig, ConfigInputs
from model_service.verticals.wearable.population_prior import (
    FEWEST_WEARERS,
    WearerMoments,
    feature_prior,
    wearer_moments,
)
from model_service.verticals.wearable.quiet_periods import (
    QuietBounds,
    QuietPeriods,
    quiet_periods,
    sensed_days,
)
from schemas.config_spec import ParameterSpec
from schemas.verticals.wearable.personal_baseline import shrunk
from schemas.verticals.wearable.wearer_prior import (
    ALARM_Z,
    PARTS,
    WEARERS,
    FeaturePrior,
    calibrated_features,
    prior_of,
)

ALARMS_A_DAY = 1.0
"""Alarms of personal baselines that a wearer's day may have: hours with one count."""
Z_STEP = 0.1
_DIGITS = 6


@dataclass(frozen=True)
class FeatureEvidence:
    """What the prior of one feature rests on."""

    periods: QuietPeriods
    moments: WearerMoments


def train_prior(inputs: ConfigInputs) -> ComputedConfig:
    """The prior, from every wearer's quiet periods.

    Raises:
        ValueError: The family has not the parameters of a prior, or no period was quiet.
    """
    return ComputedConfig(prior_parameters(inputs, inputs.summaries()))


def evidence_of(inputs: ConfigInputs, summaries: pa.Table) -> dict[str, FeatureEvidence]:
    """Quiet periods and moments of each calibrated feature.

    Raises:
        ValueError: As ``train_prior``.
    """
    features = calibrated_features(p.name for p in inputs.spec.parameters)
    if not features:
        parts = ", ".join(PARTS)
        raise ValueError(f"family {inputs.spec.family} has no feature with all of the parameters _{parts}")
    periods = quiet_periods(summaries, features, QuietBounds.of(inputs.profile, inputs.spec))
    found = {name: FeatureEvidence(own, wearer_moments(own)) for name, own in periods.items()}
    if not any(own.moments.wearers for own in found.values()):
        raise ValueError(
            "no wearer has two windows in quiet periods yet (all windows at rest, of good quality, none "
            "alarmed): wait, or have summaries.period_s shorter"
        )
    return found


def prior_parameters(
    inputs: ConfigInputs, summaries: pa.Table, left_out: Collection[str] = ()
) -> dict[str, float]:
    """Parameters of a configuration.

    Args:
        inputs: Profile and schema.
        summaries: Of the group.
        left_out: Wearers who must not count.
    """
    if left_out:
        summaries = summaries.filter(~pc.field("device_id").isin(sorted(left_out)))
    evidence, specs = evidence_of(inputs, summaries), {p.name: p for p in inputs.spec.parameters}
    values = dict(QuietBounds.of(inputs.profile, inputs.spec).values)
    before = _estimated_before(inputs.before)
    priors: dict[str, FeaturePrior] = {}
    for name, own in evidence.items():
        bounds = {part: specs[f"{name}_{part}"] for part in PARTS}
        known = len(own.moments.wearers) >= FEWEST_WEARERS
        priors[name] = (
            _kept(_near(feature_prior(own.moments), before.get(name)), bounds) if known else _unknown(bounds)
        )
        values |= dict(zip((f"{name}_{part}" for part in PARTS), astuple(priors[name]), strict=True))
    number = min(len(own.moments.wearers) for own in evidence.values())
    if WEARERS in specs:
        values[WEARERS] = _within(specs[WEARERS], float(number))
    if ALARM_Z in specs:
        days = sensed_days(summaries, inputs.profile.sampling.hop_s)
        values[ALARM_Z] = alarm_z(evidence, priors, days, specs[ALARM_Z])
    return values


def alarm_z(
    evidence: Mapping[str, FeatureEvidence],
    priors: Mapping[str, FeaturePrior],
    days: float,
    spec: ParameterSpec,
) -> float:
    """The smallest deviation that these wearers' quiet hours exceed at most ``ALARMS_A_DAY`` times a day.

    Each wearer is compared with the baseline that a device would have of all its quiet windows. The
    extremes of a period stand for windows in a row, so the rate is counted too high rather than too low.
    Where too few days were sensed to show it, the largest value that the profile allows.
    """
    worst: dict[tuple[str, int], float] = {}
    for name, own in evidence.items():
        for place, wearer in enumerate(own.moments.wearers):
            baseline, _ = shrunk(priors[name], own.moments.moments(place))
            one = own.periods.of([wearer])
            size = np.maximum((one.high - baseline.mean), (baseline.mean - one.low)) / math.hypot(
                baseline.spread, baseline.error
            )
            for hour, z in zip(one.hour.tolist(), size.tolist(), strict=True):
                worst[wearer, hour] = max(worst.get((wearer, hour), 0.0), z)
    sizes = np.array(sorted(worst.values()))
    steps = math.floor((spec.max - spec.min) / Z_STEP + 1e-9)
    for step in range(steps + 1):
        z = round(spec.min + step * Z_STEP, _DIGITS)
        # One more than was seen, for what so few days have not shown.
        if int((sizes >= z).sum()) + 1 <= ALARMS_A_DAY * days:
            return z
    return spec.max


def _estimated_before(parameters: Mapping[str, Any]) -> Mapping[str, FeaturePrior]:
    """The prior before this one, by feature; empty: there was none, or it was the profile's bounds alone."""
    try:
        prior = prior_of(parameters)
    except ValueError:  # of an earlier release
        prior = None
    return prior.features if prior is not None and parameters.get(WEARERS, 0.0) >= FEWEST_WEARERS else {}


def _near(found: FeaturePrior, before: FeaturePrior | None) -> FeaturePrior:
    """The prior with its mean at most one ``between`` from the one before: no population changes in a day."""
    if before is None:
        return found
    mean = min(max(found.mean, before.mean - before.between), before.mean + before.between)
    return replace(found, mean=mean, low=min(found.low, mean), high=max(found.high, mean))


def _kept(found: FeaturePrior, bounds: Mapping[str, ParameterSpec]) -> FeaturePrior:
    """The prior within the profile's bounds, its centre within its own."""
    kept = FeaturePrior(*(_within(bounds[part], v) for part, v in zip(PARTS, astuple(found), strict=True)))
    return replace(
        kept,
        mean=min(max(kept.mean, kept.low), kept.high),
        within=min(max(kept.within, kept.within_low), kept.within_high),
    )


def _unknown(bounds: Mapping[str, ParameterSpec]) -> FeaturePrior:
    """What the profile's bounds alone say: as wide as they allow."""
    middle = {part: (spec.min + spec.max) / 2 for part, spec in bounds.items()}
    ends = {part: bounds[part].min for part in ("low", "within_low")}
    widest = ("between", "high", "within_sd", "within_high", "design")
    return FeaturePrior(**{**middle, **ends, **{part: bounds[part].max for part in widest}})


def _within(spec: ParameterSpec, value: float) -> float:
    """To six digits, so that it reads well, and within the bounds."""
    rounded = float(f"{value:.{_DIGITS}g}")
    return min(max(rounded, spec.min), spec.max)

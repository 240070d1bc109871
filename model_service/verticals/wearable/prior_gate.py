"""Judges a prior on wearers whom it was computed without: entry point of ``edgeloop.config_gates``."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from model_service.training.config_interface import ConfigGateResult, ConfigInputs
from model_service.verticals.wearable.population_prior import FEWEST_WEARERS
from model_service.verticals.wearable.prior_trainer import evidence_of, prior_parameters
from schemas.verticals.wearable.wearer_prior import WearerPrior, prior_of

FOLDS = 3
COVERED = 0.9
"""Share of held-out wearers whose own mean must lie within the bounds of a prior computed without them."""
_Z95 = 1.96


def judge_prior(inputs: ConfigInputs, parameters: Mapping[str, Any]) -> ConfigGateResult:
    """Consistent, and bounds that hold held-out wearers.

    Wearers are dealt into ``FOLDS``. Refused is what covers significantly less than ``COVERED`` of them
    (the upper end of Wilson's 95 % interval): few wearers show little, and are not refused for it.
    """
    try:
        prior, before = prior_of(parameters), prior_of(inputs.before)
    except ValueError as exc:
        return ConfigGateResult(passed=False, text=str(exc))
    if prior is None:
        return ConfigGateResult(passed=False, text="the parameters hold no prior of a feature")
    inside, judged = covered(inputs)
    at_bounds = _at_bounds(inputs, parameters)
    said = f"; at the profile's bounds: {', '.join(at_bounds)}" if at_bounds else ""
    if moved := _followed(before, prior):
        said += f"; moved by as much as one computation may: {', '.join(moved)}"
    if not judged:
        text = f"consistent; fewer than {FEWEST_WEARERS} wearers, so that nothing can be held out{said}"
        return ConfigGateResult(passed=True, text=text)
    low, high = wilson(inside, judged)
    text = f"{inside} of {judged} means of held-out wearers lie within bounds computed without them{said}"
    return ConfigGateResult(
        passed=high >= COVERED, text=text, value=inside / judged, bound=COVERED, low=low, high=high
    )


def covered(inputs: ConfigInputs) -> tuple[int, int]:
    """Means of held-out wearers, of all features, that lie within the bounds; and how many there are."""
    summaries = inputs.summaries()
    evidence = evidence_of(inputs, summaries)
    everybody = {wearer for own in evidence.values() for wearer in own.moments.wearers}
    inside = judged = 0
    for fold in range(FOLDS):
        held = {wearer for wearer in everybody if fold_of(wearer) == fold}
        if len(everybody) - len(held) < FEWEST_WEARERS:
            continue
        prior = prior_of(prior_parameters(inputs, summaries, held))
        if prior is None:
            continue
        for name, own in evidence.items():
            of = prior.features[name]
            for wearer, mean in zip(own.moments.wearers, own.moments.mean.tolist(), strict=True):
                if wearer in held:
                    judged += 1
                    inside += of.low <= mean <= of.high
    return inside, judged


def fold_of(wearer: str) -> int:
    """Fold of a wearer: the same on every machine, whoever else is there."""
    return hashlib.sha256(wearer.encode()).digest()[0] % FOLDS


def wilson(inside: int, judged: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    >>> [round(end, 3) for end in wilson(9, 10)]
    [0.596, 0.982]
    """
    share, z2 = inside / judged, _Z95**2
    middle = (share + z2 / (2 * judged)) / (1 + z2 / judged)
    half = _Z95 * math.sqrt(share * (1 - share) / judged + z2 / (4 * judged**2)) / (1 + z2 / judged)
    return middle - half, middle + half


def _followed(before: WearerPrior | None, after: WearerPrior) -> list[str]:
    """Features whose mean moved by as much as one computation may."""
    return [
        name
        for name, own in after.features.items()
        if before is not None
        and (old := before.features.get(name)) is not None
        and math.isclose(abs(own.mean - old.mean), old.between, rel_tol=1e-4)
    ]


def _at_bounds(inputs: ConfigInputs, parameters: Mapping[str, Any]) -> list[str]:
    """Computed values that the profile's bounds have cut off, by name."""
    specs = {p.name: p for p in inputs.spec.parameters}
    return sorted(
        name
        for name, value in parameters.items()
        if name in specs and specs[name].min < specs[name].max and value in (specs[name].min, specs[name].max)
    )

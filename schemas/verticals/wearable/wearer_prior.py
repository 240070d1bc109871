"""What is usual for a population of wearers, as parameters of a configuration: names, meaning, consistency.

For each feature that is calibrated there are the parameters of ``PARTS``, named ``<feature>_<part>``;
bounds on features that say when a wearer is at rest are named ``quiet_<feature>_least`` and
``quiet_<feature>_most``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any

PARTS = ("mean", "between", "low", "high", "within", "within_sd", "within_low", "within_high", "design")
ALARM_Z, WEARERS = "alarm_z", "wearers"
_QUIET = re.compile(r"quiet_(?P<feature>.+)_(?P<end>least|most)")


@dataclass(frozen=True, slots=True)
class FeaturePrior:
    """What is usual of one feature at rest, in its unit.

    Attributes:
        mean: Mean of the wearers' own means.
        between: Standard deviation with which a new wearer's own mean is expected around it.
        low, high: Bounds of the mean that a device may take for its own.
        within: Typical standard deviation of one wearer's windows.
        within_sd: Standard deviation between wearers of the logarithm of that.
        within_low, within_high: Bounds of the standard deviation that a device may take for its own.
        design: Windows in a row that tell as much of a mean as one independent window (design effect).
    """

    mean: float
    between: float
    low: float
    high: float
    within: float
    within_sd: float
    within_low: float
    within_high: float
    design: float

    def faults(self, feature: str) -> list[str]:
        """What is inconsistent, in words."""
        found = []
        if not self.low <= self.mean <= self.high:
            found.append(f"{feature}: the mean lies outside low to high")
        if not 0 < self.within_low <= self.within <= self.within_high:
            found.append(f"{feature}: within lies outside within_low to within_high, or is not above 0")
        if not (self.between > 0 and self.within_sd > 0 and self.design >= 1):
            found.append(f"{feature}: between and within_sd must be above 0, design at least 1")
        return found


@dataclass(frozen=True)
class WearerPrior:
    """A population's prior.

    Attributes:
        features: By the feature's name.
        least, most: Bounds on features, both included, within which a window counts as quiet.
        alarm_z: Deviations from the own baseline, in its standard deviations, from which a window deviates.
    """

    features: Mapping[str, FeaturePrior]
    least: Mapping[str, float]
    most: Mapping[str, float]
    alarm_z: float

    def is_quiet(self, values: Mapping[str, float]) -> bool:
        """Whether a window is at rest, and of usable quality; one that lacks a value is not."""
        return all(values.get(name, float("nan")) >= bound for name, bound in self.least.items()) and all(
            values.get(name, float("nan")) <= bound for name, bound in self.most.items()
        )

    def faults(self) -> list[str]:
        """What is inconsistent, in words."""
        found = [text for name, own in self.features.items() for text in own.faults(name)]
        return found if self.alarm_z > 0 else [*found, f"{ALARM_Z} is not above 0"]

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of SHA-256 over everything in it."""
        features = [[name, *astuple(own)] for name, own in sorted(self.features.items())]
        whole = [features, sorted(self.least.items()), sorted(self.most.items()), self.alarm_z]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]


def calibrated_features(names: Iterable[str]) -> tuple[str, ...]:
    """Features that have every part among the names of parameters, sorted.

    >>> calibrated_features([f"pulse_{part}" for part in PARTS] + ["alarm_z", "motion_mean"])
    ('pulse',)
    """
    known = set(names)
    ends = [name.removesuffix("_between") for name in known if name.endswith("_between")]
    return tuple(sorted(f for f in ends if all(f"{f}_{part}" in known for part in PARTS)))


def quiet_bounds(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """Parameters that bound what is quiet: name, feature, and ``least`` or ``most``; sorted.

    >>> quiet_bounds(["quiet_motion_most", "alarm_z"])
    [('quiet_motion_most', 'motion', 'most')]
    """
    found = [(name, m["feature"], m["end"]) for name in names if (m := _QUIET.fullmatch(name))]
    return sorted(found)


def prior_of(parameters: Mapping[str, Any]) -> WearerPrior | None:
    """The prior that parameters hold; None: they hold none, as where no configuration is in force.

    Raises:
        ValueError: They hold one that is inconsistent; says what, without any value.
    """
    names = calibrated_features(parameters)
    if not names or ALARM_Z not in parameters:
        return None
    ends: dict[str, dict[str, float]] = {"least": {}, "most": {}}
    for name, feature, end in quiet_bounds(parameters):
        ends[end][feature] = float(parameters[name])
    features = {f: FeaturePrior(*(float(parameters[f"{f}_{part}"]) for part in PARTS)) for f in names}
    prior = WearerPrior(features, ends["least"], ends["most"], float(parameters[ALARM_Z]))
    if found := prior.faults():
        raise ValueError("; ".join(found))
    return prior

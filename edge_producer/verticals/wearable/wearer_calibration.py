"""What a device has learnt of its wearer: moments of quiet windows, and the baseline in force. Pure.

It is a JSON value between windows, kept where the device keeps its decisions. It never leaves the device.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from datetime import datetime
from typing import Any

from schemas.instants import to_us
from schemas.verticals.wearable.personal_baseline import (
    MEMORY,
    PersonalBaseline,
    QuietMoments,
    population_baseline,
    shrunk,
)
from schemas.verticals.wearable.wearer_prior import WearerPrior

FORMAT = 1
STEP = 16
"""Quiet windows before the baseline is first computed anew."""
STEP_SHARE = 0.125
"""And then this share of those that it rests on: so that a revision stands for a while."""
DAY_US = 86_400_000_000
USUAL_Z = 2.0
"""Deviation from the population's mean within which a window is learnt, whatever the own baseline says."""
_REACH = 3.0
"""Spreads beyond the bounds of the mean at which a value is cut off before it is learnt."""


@dataclass
class WearerCalibration:
    """The calibration of one wearer.

    Attributes:
        own: Moments of quiet windows, by feature.
        baselines: In force, by feature.
        since: Quiet windows that were learnt since each was computed.
        prior: Digest of the prior that they were shrunk towards; empty: none yet.
        newest_us: Event time of the newest window that was learnt, µs since 1970; 0: none.
    """

    own: dict[str, QuietMoments] = field(default_factory=dict)
    baselines: dict[str, PersonalBaseline] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    prior: str = ""
    newest_us: int = 0

    def follow(self, prior: WearerPrior) -> Counter[str]:
        """Shrink towards this prior, if it is another one than before; returns what is to be counted."""
        if prior.digest == self.prior:
            return Counter()
        counts = Counter({"calibration_rebased": 1} if self.prior else {})
        self.prior, self.baselines, self.since = prior.digest, {}, {}
        for name in prior.features:
            counts += self._rebase(name, prior)
        return counts

    def deviation(self, values: Mapping[str, float]) -> float:
        """Largest deviation of a window's features from the own baselines, in standard deviations."""
        found = [abs(own.z(values[name])) for name, own in self.baselines.items() if _known(values, name)]
        return max(found, default=0.0)

    def learn(self, values: Mapping[str, float], at: datetime, prior: WearerPrior) -> Counter[str]:
        """Take a quiet window in; returns what is to be counted.

        A window that does not end after the newest one learnt is left out: it is replayed, or the clock was
        set back. After a step back of more than a day the new time counts, for the old one was wrong.
        """
        at_us = to_us(at)
        counts: Counter[str] = Counter()
        if at_us <= self.newest_us:
            if self.newest_us - at_us < DAY_US:
                return Counter({"quiet_windows_repeated": 1})
            counts["clock_set_back"] += 1
        self.newest_us = at_us
        counts["quiet_windows_learnt"] += 1
        for name, of in prior.features.items():
            if not _known(values, name):
                continue
            reach = _REACH * of.within_high
            value = min(max(values[name], of.low - reach), of.high + reach)
            if value != values[name]:
                counts["values_cut_off"] += 1
            moments = self.own.get(name, QuietMoments()).with_value(value, MEMORY * of.design)
            self.own[name], since = moments, self.since.get(name, 0) + 1
            self.since[name] = since
            if since >= max(STEP, STEP_SHARE * moments.n):
                counts += self._rebase(name, prior)
        return counts

    def in_force(self) -> Any:
        """What the device decides by, as a JSON value: its hash names the revision."""
        return [self.prior, {name: astuple(own) for name, own in self.baselines.items()}]

    def to_json(self) -> dict[str, Any]:
        """Everything, as a JSON value."""
        return {
            "format": FORMAT,
            "own": {name: astuple(moments) for name, moments in self.own.items()},
            "baselines": {name: astuple(own) for name, own in self.baselines.items()},
            "since": self.since,
            "prior": self.prior,
            "newest_us": self.newest_us,
        }

    @classmethod
    def from_json(cls, kept: Any) -> WearerCalibration:
        """What ``to_json`` gave.

        Raises:
            ValueError: It is damaged, or of another format.
        """
        try:
            if kept["format"] != FORMAT:
                raise ValueError("another format")
            found = cls(
                own={str(n): QuietMoments(*_numbers(values, 3)) for n, values in kept["own"].items()},
                baselines={
                    str(n): PersonalBaseline(*_numbers(values, 3)) for n, values in kept["baselines"].items()
                },
                since={str(n): int(count) for n, count in kept["since"].items()},
                prior=str(kept["prior"]),
                newest_us=int(kept["newest_us"]),
            )
        except (TypeError, KeyError, AttributeError, OverflowError) as exc:
            raise ValueError(f"no calibration: {type(exc).__name__}") from exc
        if any(m.n < 0 or m.m2 < 0 for m in found.own.values()):
            raise ValueError("moments that no windows have")
        if any(b.spread <= 0 or b.error < 0 for b in found.baselines.values()):
            raise ValueError("baselines that no wearer has")
        return found

    def _rebase(self, name: str, prior: WearerPrior) -> Counter[str]:
        of, own = prior.features[name], self.own.get(name, QuietMoments())
        self.baselines[name], clipped = shrunk(of, own)
        self.since[name] = 0
        return Counter({f"{name}_{what}_clipped": 1 for what in clipped})


def deviates_from_population(values: Mapping[str, float], prior: WearerPrior) -> bool:
    """Whether a window would be unusual for a wearer of whom nothing is known."""
    return any(
        abs(population_baseline(of).z(values[name])) >= USUAL_Z
        for name, of in prior.features.items()
        if _known(values, name)
    )


def _known(values: Mapping[str, float], name: str) -> bool:
    return math.isfinite(values.get(name, math.nan))


def _numbers(values: Any, length: int) -> list[float]:
    """So many finite numbers.

    Raises:
        ValueError: They are not.
    """
    found = [float(value) for value in values]
    if len(found) != length or not all(map(math.isfinite, found)):
        raise ValueError("numbers that are none")
    return found

"""How long a summary period is where a profile does not say: it follows how often windows come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PERIODS_S = (5, 10, 30, 60, 300, 600, 1800, 3600, 21600, 86400, 604800, 2419200, 14515200)
"""Lengths to choose from. Each divides the next, so that a drift window can be a whole number of periods."""
WINDOWS = 12
"""Fewest windows that a period holds: a mean and a spread of fewer say little for what they weigh."""
LEAST_S = 60
"""Shortest period of a profile that does not say."""
DRIFT_PERIODS = 5
"""Periods of a drift window where a profile does not say."""
_DRIFT_S = 300.0


def period_for(hop_s: float, least_s: float = LEAST_S) -> int:
    """Seconds of a summary period: the shortest of ``PERIODS_S`` that holds ``WINDOWS`` windows.

    Args:
        hop_s: Seconds between two windows.
        least_s: No shorter one.

    >>> [period_for(hop_s) for hop_s in (0.1, 1.0, 60.0, 3600.0)]
    [60, 60, 1800, 86400]
    """
    wanted = max(WINDOWS * hop_s, least_s)
    return next((p for p in PERIODS_S[:-1] if p >= wanted), PERIODS_S[-2])


def _fitting(hop_s: float, drift_s: float | None) -> float:
    """The period for a profile that may state a drift window: that must be a multiple of it."""
    wanted = period_for(hop_s)
    if drift_s is None:
        return float(wanted)
    return float(max((p for p in PERIODS_S if LEAST_S <= p <= wanted and drift_s % p == 0), default=LEAST_S))


def with_period(profile: Any) -> Any:
    """What a profile states, with periods where it states none; whatever is malformed is left as it is."""
    if not isinstance(profile, Mapping):
        return profile
    summaries, drift = _part(profile, "summaries"), _part(profile, "drift")
    hop_s = _hop_s(profile)
    if hop_s is None or summaries is None or drift is None:
        return profile
    stated = drift.get("window_s")
    if "period_s" not in summaries:
        known = float(stated) if isinstance(stated, int | float) else None
        summaries = {**summaries, "period_s": _fitting(hop_s, known)}
    period_s = summaries["period_s"]
    if stated is None and isinstance(period_s, int | float) and _DRIFT_S % period_s:
        drift = {**drift, "window_s": DRIFT_PERIODS * period_s}
    return {**profile, "summaries": summaries, "drift": drift}


def _part(profile: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """A section as it was given; None: it is no plain section, so nothing is to be filled in."""
    part = profile.get(name, {})
    return dict(part) if isinstance(part, Mapping) else None


def _hop_s(profile: Mapping[str, Any]) -> float | None:
    """Seconds between two windows; None where sampling is malformed."""
    sampling = profile.get("sampling")
    if not isinstance(sampling, Mapping):
        found = getattr(sampling, "hop_s", None)
        return found if isinstance(found, float) else None
    rate, hop = sampling.get("rate_hz"), sampling.get("hop_samples")
    if not (isinstance(rate, int | float) and isinstance(hop, int | float) and rate > 0 and hop > 0):
        return None
    return hop / rate

"""What a channel's value can be: drafted from physics where the unit tells it, and generously otherwise.

One file shows what is usual, never what can be: the sister machine, the winter and the fault are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping

GENEROUS = 10.0
"""How many times as far from zero as the farthest usual value a value without physics may lie."""
BEYOND_ZERO = 0.1
"""How far, of the farthest usual value, what has one sign may lie beyond zero: sensors have offsets."""

_KELVIN_0_C, _KELVIN_0_F = -273.15, -459.67
PHYSICS: Mapping[str, tuple[float, float]] = {
    "degc": (_KELVIN_0_C, 3000.0),
    "°c": (_KELVIN_0_C, 3000.0),
    "celsius": (_KELVIN_0_C, 3000.0),
    "degf": (_KELVIN_0_F, 5500.0),
    "°f": (_KELVIN_0_F, 5500.0),
    "fahrenheit": (_KELVIN_0_F, 5500.0),
    "k": (0.1, 3300.0),
    "kelvin": (0.1, 3300.0),
    "%": (-10.0, 110.0),
    "percent": (-10.0, 110.0),
    "%rh": (-10.0, 110.0),
    "ph": (-2.0, 16.0),
    "deg": (-720.0, 720.0),
    "°": (-720.0, 720.0),
    "bpm": (0.0, 500.0),
}
"""Limits by unit in lower case. Only units that leave no doubt: a lower-case ``c`` may be a count."""


def possible_range(unit: str, usual_low: float, usual_high: float) -> tuple[float, float]:
    """Limits beyond which a sample is absurd.

    Args:
        unit: As the file has it.
        usual_low: Lower end of what the file shows, absurd values left out.
        usual_high: Upper end of it.

    Returns:
        Both ends; what is usual lies between them.
    """
    known = PHYSICS.get(unit.strip().lower())
    # A percentage of 140, or a temperature of -300: then the unit is something else than it seems.
    if known is not None and known[0] <= usual_low and usual_high <= known[1]:
        return known
    farthest = max(abs(usual_low), abs(usual_high))
    low = -GENEROUS if usual_low < 0 else -BEYOND_ZERO
    high = GENEROUS if usual_high > 0 else BEYOND_ZERO
    return _number(low * farthest), _number(high * farthest)


def _number(value: float) -> float:
    return float(f"{value:.6g}")

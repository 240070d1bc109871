"""Exact bounds of a Poisson mean (Garwood 1936), without SciPy: the guard's process stays light."""

from __future__ import annotations

import math
from functools import lru_cache

_HALVINGS = 45
_TERMS = 10_000


@lru_cache(maxsize=4096)
def count_upper(events: float, alpha: float) -> float:
    """Largest mean of which so few events are not less likely than alpha. Events need not be whole."""
    low, high = events, events + 1.0
    while upper_tail(events + 1.0, high) < 1 - alpha:
        high *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if upper_tail(events + 1.0, middle) < 1 - alpha else (low, middle)
    return high


@lru_cache(maxsize=4096)
def count_lower(events: float, alpha: float) -> float:
    """Smallest mean of which so many events are not less likely than alpha."""
    if events <= 0:
        return 0.0
    low, high = 0.0, events
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if upper_tail(events, middle) < alpha else (low, middle)
    return low


def upper_tail(events: float, mean: float) -> float:
    """Probability of so many events or more, given their mean: the regularised incomplete gamma function.

    Its series below the mode, its continued fraction (Lentz) above: Press et al., "Numerical Recipes", 6.2.
    """
    if mean <= 0:
        return 0.0
    front = math.exp(events * math.log(mean) - mean - math.lgamma(events))
    if mean < events + 1:
        term = total = 1.0 / events
        for k in range(1, _TERMS):
            term *= mean / (events + k)
            total += term
            if term < total * 1e-15:
                break
        return front * total
    return 1.0 - front * _continued(events, mean)


def _continued(events: float, mean: float) -> float:
    tiny = 1e-300
    b = mean + 1.0 - events
    c, d = 1.0 / tiny, 1.0 / b
    found = d
    for k in range(1, _TERMS):
        a = -k * (k - events)
        b += 2.0
        d = a * d + b
        d = 1.0 / (d if abs(d) > tiny else tiny)
        c = b + a / c
        c = c if abs(c) > tiny else tiny
        step = d * c
        found *= step
        if abs(step - 1.0) < 1e-15:
            break
    return found

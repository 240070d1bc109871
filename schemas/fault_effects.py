"""What faults do to a model's features, as a bundle carries it to devices: few rows, checked, reproducible.

They are taken from the fault bank that the profile's models are judged by, and travel in the golden vectors'
metadata: those are digested and signed with the bundle, and release 0.2.0 reads past what it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import BundleError

KEY = "fault_effects"
"""Key in the metadata of golden vectors."""
MAX_EFFECTS = 64
MAX_TEXT = 512 * 1024
"""Characters of the stored form."""
LARGEST_LOG = 80.0
"""Largest factor, as a logarithm: e**80 is still a float32."""

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False)
class FaultEffects:
    """Effects of faults on features.

    Attributes:
        kinds: Kind of the fault behind each row.
        logged: Which features an effect multiplies, shape (F,).
        rows: Shape (n, F): differences of logarithms where ``logged``, else differences.
    """

    kinds: tuple[str, ...]
    logged: NDArray[np.bool_]
    rows: NDArray[np.float64]

    def inject(self, features: Floats) -> NDArray[np.float64]:
        """Rows (m, F) as they would be with each of the n faults, shape (n, m, F)."""
        given = np.asarray(features, dtype=np.float64)[np.newaxis]
        effects = self.rows[:, np.newaxis]
        factors = np.exp(np.where(self.logged, effects, 0.0))
        return np.asarray(np.where(self.logged, given * factors, given + effects))

    def to_text(self) -> str:
        """The stored form: the same text for the same effects."""
        content = {
            "kinds": list(self.kinds),
            "logged": [int(flag) for flag in self.logged],
            "rows": self.rows.tolist(),
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"))


def parse_effects(text: str, origin: str) -> FaultEffects:
    """The effects of a stored form.

    Raises:
        BundleError: It is larger than any of ours, or not one.
    """
    if len(text) > MAX_TEXT:
        raise BundleError(f"{origin}: fault effects of {len(text)} characters; the limit is {MAX_TEXT}")
    try:
        content = json.loads(text)
        kinds, logged = tuple(content["kinds"]), np.array(content["logged"], dtype=np.bool_)
        rows = np.array(content["rows"], dtype=np.float64)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as exc:
        raise BundleError(f"{origin}: its fault effects cannot be read: {exc}") from exc
    if problem := _problem(kinds, logged, rows):
        raise BundleError(f"{origin}: its fault effects {problem}")
    return FaultEffects(kinds, logged, rows)


def _problem(kinds: Sequence[object], logged: NDArray[np.bool_], rows: NDArray[np.float64]) -> str:
    if not 0 < len(kinds) <= MAX_EFFECTS or not all(isinstance(kind, str) for kind in kinds):
        return f"name {len(kinds)} faults; 1 to {MAX_EFFECTS} are allowed"
    if logged.ndim != 1 or rows.shape != (len(kinds), len(logged)):
        return f"have shape {rows.shape} for {len(kinds)} faults and {logged.shape} features"
    if not np.isfinite(rows).all() or (np.abs(rows[:, logged]) > LARGEST_LOG).any():
        return "are not finite"
    return ""

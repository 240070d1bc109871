"""Windows of a history that look like faults which nobody labelled: few, and far from everything else. Pure.

They must neither widen what counts as healthy nor lift the threshold over all faults to come. What is not
rare is no fault but a way in which the machine works, and stays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.robust_reference import fit_robust

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

RARE = 0.05
"""Largest share of the windows that can be suspects."""
FAR = 8.0
"""Robust spreads from the median that a suspect lies away at least, as for the generic score."""
FARTHER = 2.0
"""The same, in units of what the windows that are not rare reach."""


def suspects(features: Array, logged: Flags) -> Flags:
    """Which of the rows (n, F), all complete, are suspects; shape (n,)."""
    distance = fit_robust(features, logged, {}).distance(features)
    limit = max(FAR, FARTHER * float(np.quantile(distance, 1 - RARE)))
    return np.asarray(distance > limit)

"""Gate on how far the healthy reference has moved, with no explanation, since the family's first model.

A run with no drift behind it, as one by the clock, moves each centre a little towards what is there. The
other gates compare a candidate with its champion alone: wear that grows slowly would be learnt in steps too
small to be refused. Here the steps of all ancestors add up. What a drift that was found to be a new normal
moved, and what a person asked for, does not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_service.gates.verdict import GateVerdict
from model_service.models.adapt import LARGEST_RESCALING, AdaptableModel
from model_service.models.fault_bank import FaultBank

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

GATE = "unexplained_shift"
MOST_SHIFT = 0.25
"""Most standard deviations of the first model that a feature's centre may move in all, either way, and that
all of them together may move as a known fault moves them: as far as chance moves the mean of 16 machines."""
MOST_RESCALING = LARGEST_RESCALING
"""Most that the distance of a given score may grow or shrink in all: a single training may do as much."""


class Unexplained(NamedTuple):
    """What nothing explains of the moves from a family's first model to one of its successors.

    Attributes:
        first: Version of the first model.
        features: Names of the features.
        spread: Its standard deviations, shape (F,), logarithms taken.
        centre: By how many of them each centre moved, shape (F,), signed.
        rescaling: Logarithm of the factor by which the distance of a given score changed.
    """

    first: str
    features: tuple[str, ...]
    spread: Array
    centre: Array
    rescaling: float = 0.0

    @classmethod
    def none(cls, version: str, features: Sequence[str], first: AdaptableModel) -> Unexplained:
        """Of the first model itself."""
        return cls(version, tuple(features), first.std, np.zeros(len(first.std)))

    def after(self, before: AdaptableModel, model: AdaptableModel, explained: Flags | None) -> Unexplained:
        """With one more step.

        Args:
            before: The model that was replaced.
            model: The one that replaced it.
            explained: Features that moved in a drift which is a new normal, shape (F,). Its new spread is a
                reason for another calibration, too. None: no drift is behind the step.
        """
        step = (model.mean - before.mean) / self.spread
        if explained is not None:
            return self._replace(centre=self.centre + np.where(explained, 0.0, step))
        factor = math.log(model.calibration.middle / before.calibration.middle)
        return self._replace(centre=self.centre + step, rescaling=self.rescaling + factor)

    def largest(self, bank: FaultBank | None) -> tuple[float, str]:
        """The largest shift, in standard deviations, and what it is along.

        Args:
            bank: Known faults; None: none are known, or they are generic and have no direction.
        """
        feature = int(np.argmax(np.abs(self.centre)))
        found = [(abs(float(self.centre[feature])), self.features[feature])]
        if bank is not None:
            found += [
                (float(bank.signature(kind, self.spread) @ self.centre), f"the fault {kind}")
                for kind in bank.kinds
            ]
        return max(found)


def judge_unexplained_shift(
    before: Unexplained, after: Unexplained, bank: FaultBank | None, why: str = ""
) -> GateVerdict:
    """Whether a candidate takes the healthy reference no farther than may go unexplained.

    One whose reference lay farther away before it came, as its ancestors were made by an older release, may
    still bring it nearer.

    Args:
        before: Of the champion.
        after: Of the candidate.
        bank: Known faults, with a direction; None: there are none.
        why: What explains the run as a whole: a drift, or a person. Then nothing is refused; what no drift
            explains of its step counts for its successors. Empty: nothing does.
    """
    value, along = after.largest(bank)
    bound = max(MOST_SHIFT, before.largest(bank)[0])
    most = max(math.log(MOST_RESCALING), abs(before.rescaling))
    passed = bool(why) or (value <= bound and abs(after.rescaling) <= most + 1e-9)
    text = (
        f"since {after.first}, nothing explains a shift of {value:.2f} standard deviations along {along} "
        f"(at most {bound:.2f}) and {math.exp(after.rescaling):.2f} times the distance of a score (at most "
        f"{math.exp(most):.2f} times more or less)"
    )
    if why:
        text += f"; allowed: {why}"
    elif not passed:
        text += ": look at the machines, and ask for a training yourself if this is their normal"
    detail = {"says": text, "along": along, "rescaling": after.rescaling, "centre": after.centre.tolist()}
    return GateVerdict(GATE, passed, value, bound, detail=detail)

"""Decides on a window like the one that is about to come, so that the processor has at hand what that needs.

Ten milliseconds after a decision, other work has taken the place of its code and data in the caches: the same
computation then takes three times as long. What is rehearsed has state of its own; it changes nothing.
"""

from __future__ import annotations

from edge_producer.decider import Decider
from edge_producer.window import Predictor, Window
from edge_producer.window_scoring import WindowScorer
from schemas.profile import Profile

NO_DEVICE = ""
"""Under this name the model keeps what it keeps of a device; none has it."""


class Rehearsal:
    """One device's, with all that a decision of its rules goes through.

    Args:
        profile: The device's.
    """

    def __init__(self, profile: Profile) -> None:
        self._scorer = WindowScorer(NO_DEVICE, profile)
        self._decider = Decider(profile.decision)

    def run(self, model: Predictor, window: Window) -> None:
        """Decide on a window, for nobody."""
        window = self._scorer.begin(window)
        features, score = self._scorer.score(model, window)
        further = self._scorer.further(features)
        self._decider.decide(window.end, score, out_of_range=self._scorer.out_of_range, further=further)
        self._scorer.take_counts()

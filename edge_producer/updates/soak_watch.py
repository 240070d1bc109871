"""Goes on comparing a proven model with the one before it, for the rollout's soak; it judges nothing."""

from __future__ import annotations

from edge_producer.model_switch import ScoredWindow
from edge_producer.updates.shadow_comparison import REPORT_GROWTH, ShadowComparison, ShadowSummary
from edge_producer.window import Window
from schemas.profile import Profile


class SoakWatch:
    """One device's comparison after its watch. It is in memory alone: a restart of the process ends it.

    Args:
        comparison: The watch's counts, which it counts on from.
        profile: Says how long a soak may last.
    """

    def __init__(self, comparison: ShadowComparison, profile: Profile) -> None:
        self.comparison = comparison
        self._most = int(profile.rollout.soak_limit_s / profile.sampling.hop_s)
        self._next = _grown(comparison.windows)

    @property
    def is_over(self) -> bool:
        """Whether no soak lasts longer."""
        return self.comparison.seen >= self._most

    def observe(self, _window: Window, outcome: ScoredWindow) -> None:
        """Count a window."""
        shadow_s = None if outcome.shadow_score is None else outcome.shadow_took_s
        self.comparison = self.comparison.add(
            outcome.shadow_score, outcome.score, outcome.took_s, shadow_s, outcome.alarms
        )

    def due(self) -> ShadowSummary | None:
        """The comparison, whenever it has grown enough to be reported, and at the end; else None."""
        comparison = self.comparison
        if comparison.windows < self._next and not self.is_over:
            return None
        self._next = _grown(comparison.windows)
        return comparison.summary(in_force=True)


def _grown(windows: int) -> int:
    return max(windows + 1, round(windows * REPORT_GROWTH))

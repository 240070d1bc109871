"""An intersection as a signal sees it: streams, conflicts, phases, and the bounds of each green."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

INTERGREEN_S = 3.0
START_LOSS_S = 2.0
"""Seconds of a green that pass before vehicles leave at the saturation flow."""
LANE_SATURATION = 0.5
"""Vehicles a second and lane that leave a standing queue."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Streams that are green together.

    Attributes:
        streams: Their names.
        saturation: Vehicles a second that leave a standing queue of the phase, all its lanes together.
        min_green_s: Shortest green.
        max_green_s: Longest green.
    """

    name: str
    streams: frozenset[str]
    saturation: float = 1.0
    min_green_s: float = 5.0
    max_green_s: float = 50.0


@dataclass(frozen=True, slots=True)
class Junction:
    """The phases of one intersection, in the order of its fixed plan.

    Attributes:
        phases: Two or more.
        conflicts: Pairs of streams that must never be green together.
        intergreen_s: Yellow and all-red between two greens.

    Raises:
        ValueError: A phase holds a conflict or an unserved bound; the text says which.
    """

    phases: tuple[Phase, ...]
    conflicts: frozenset[frozenset[str]]
    intergreen_s: float = INTERGREEN_S

    def __post_init__(self) -> None:
        if len(self.phases) < 2:
            raise ValueError("a signal needs two phases or more")
        for phase in self.phases:
            for pair in combinations(sorted(phase.streams), 2):
                if frozenset(pair) in self.conflicts:
                    raise ValueError(
                        f"phase {phase.name}: {pair[0]} and {pair[1]} conflict; give them two phases"
                    )
            if not 0 < phase.min_green_s <= phase.max_green_s:
                raise ValueError(f"phase {phase.name}: give 0 < min_green_s <= max_green_s")
            if not phase.saturation > 0:
                raise ValueError(f"phase {phase.name}: saturation must be above 0")
        if not self.intergreen_s > 0:
            raise ValueError("intergreen_s must be above 0: a stream needs time to clear")

    @property
    def shortest_cycle_s(self) -> float:
        """Seconds of a cycle in which each phase gets its shortest green."""
        return sum(p.min_green_s + self.intergreen_s for p in self.phases)

    @property
    def lost_s(self) -> float:
        """Seconds of a cycle in which no vehicle leaves, however long the greens are."""
        return len(self.phases) * (self.intergreen_s + START_LOSS_S)


def all_conflicts(phases: Sequence[frozenset[str]]) -> frozenset[frozenset[str]]:
    """Every pair of streams that no phase shows together: the strictest reading of a signal's own program."""
    streams = sorted(frozenset().union(*phases))
    pairs = (frozenset(pair) for pair in combinations(streams, 2))
    return frozenset(pair for pair in pairs if not any(pair <= phase for phase in phases))

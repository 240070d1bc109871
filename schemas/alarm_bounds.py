"""When a window counts as an alarm of a model: by every output that a profile's rules read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from schemas.decision_policy import DecisionPolicy
from schemas.manifest import SCORE_EDGES
from schemas.output_names import PRIMARY, output_columns


@dataclass(frozen=True, slots=True)
class AlarmBounds:
    """From where each output of a model raises an alarm.

    Attributes:
        of_output: By output that a rule reads, ``enter`` of the mildest such rule. A profile without any rule
            has the primary output at 1.
    """

    of_output: Mapping[str, float]

    @classmethod
    def of(cls, policy: DecisionPolicy) -> AlarmBounds:
        """Those of a profile's rules, which are ordered by severity.

        >>> from schemas.profile_file import find_profile
        >>> AlarmBounds.of(find_profile("robot").decision).of_output
        {'degradation': 0.5, 'slip': 0.5, 'collision': 0.5}
        """
        found: dict[str, float] = {}
        for rule in policy.rules:
            found.setdefault(rule.output, rule.enter)
        return cls(found or {PRIMARY: policy.alarm})

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(self.of_output)

    @property
    def by_column(self) -> dict[str, float]:
        """The same by column of rows, summaries and graphs: ``score`` or ``score_<name>``."""
        return {_column(output): enter for output, enter in self.of_output.items()}

    def first_bins(self, edges: Mapping[str, Sequence[float]] = MappingProxyType({})) -> dict[str, int]:
        """By column, the first bin of its histograms, counted from 0, from which all scores are alarms.

        A column whose bound lies inside a bin is left out: its alarms cannot be counted so.

        Args:
            edges: Inner edges by column; ``SCORE_EDGES`` where it names none.
        """
        found = {}
        for column, enter in self.by_column.items():
            inner = tuple(edges.get(column, SCORE_EDGES))
            if enter in inner:
                found[column] = inner.index(enter) + 1
        return found

    def raised(self, score: float | None, further: Mapping[str, float | None]) -> bool:
        """Whether a window is an alarm.

        Args:
            score: The primary output; None: none.
            further: Further outputs by name; what is not named is none.
        """
        for output, enter in self.of_output.items():
            value = score if output == PRIMARY else further.get(output)
            if value is not None and value >= enter:
                return True
        return False


def _column(output: str) -> str:
    return PRIMARY if output == PRIMARY else output_columns((output,))[0]

"""Parameters that were computed in the cloud, and since which instant they are in force on a device.

What brings them (the follower of configs) says the whole sequence at once, from any thread; the sensing loop
asks with each window's event time. So a group switches at one UTC instant, whenever each device heard of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol

NO_PARAMETERS: Mapping[str, Any] = MappingProxyType({})


def frozen_json(value: Any) -> Any:
    """A JSON value that nobody can change: objects as read-only mappings, arrays as tuples.

    >>> frozen_json({"splits": [0.4, 0.6]})["splits"]
    (0.4, 0.6)
    """
    if isinstance(value, Mapping):
        return MappingProxyType({str(key): frozen_json(part) for key, part in value.items()})
    if isinstance(value, list | tuple):
        return tuple(frozen_json(part) for part in value)
    return value


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """One version of parameters.

    Attributes:
        version: Names it, such as ``plan_traffic-3.0b5c91e2``.
        values: A JSON object.
        valid_from: UTC instant from which event times fall under it.
    """

    version: str
    values: Mapping[str, Any]
    valid_from: datetime

    def __post_init__(self) -> None:
        """Freeze the values.

        Raises:
            ValueError: ``valid_from`` names no time zone.
        """
        if self.valid_from.tzinfo is None:
            raise ValueError(f"{self.version}: valid_from {self.valid_from} names no time zone")
        object.__setattr__(self, "values", frozen_json(self.values))


class HoldsParameters(Protocol):
    """What gives one device's decision function its parameters, and hears how it does under them.

    Attributes:
        in_use: Version that the newest window was decided with; empty: none was in force.
        values: Of that version; before the first window, of the one in force.
    """

    @property
    def in_use(self) -> str: ...  # noqa: D102  (described above)

    @property
    def values(self) -> Mapping[str, Any]: ...  # noqa: D102  (likewise)

    def at(self, event_time: datetime) -> Mapping[str, Any]:
        """Values in force at an event time; empty: there are none. Asked for each window."""
        ...

    def decided(self, *, well: bool) -> None:
        """Hear whether the function has answered, and well, under the values that ``at`` gave last."""
        ...


class DecisionParameters:
    """Which parameters one device's decision function gets. From any thread.

    Attributes:
        in_use: Version that the newest window was decided with; empty: none was in force.
        values: Of that version.
        failures: Calls in a row, under the values in force, that were not answered well.

    Example:
        A plan that begins at noon, and the one before it.

        >>> from datetime import UTC
        >>> noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
        >>> held = DecisionParameters()
        >>> held.follow(
        ...     ParameterSet("plan-1", {"green_s": 20}, datetime(2026, 2, 1, tzinfo=UTC)),
        ...     ParameterSet("plan-2", {"green_s": 30}, noon),
        ... )
        >>> held.at(datetime(2026, 3, 1, 11, 59, tzinfo=UTC))["green_s"], held.at(noon)["green_s"]
        (20, 30)
        >>> held.in_use
        'plan-2'
    """

    def __init__(self) -> None:
        self._sets: tuple[ParameterSet, ...] = ()
        self.values = NO_PARAMETERS
        self.in_use = ""
        self.failures = 0

    def follow(self, *sets: ParameterSet) -> None:
        """Replace everything that was said before; without any set no parameters are in force.

        Args:
            sets: In any order; of two with the same ``valid_from`` the later one counts.
        """
        self._sets = tuple(sorted(sets, key=lambda given: given.valid_from))

    def at(self, event_time: datetime) -> Mapping[str, Any]:
        """Values in force at an event time, and note their version as ``in_use``; empty: there are none."""
        valid = [given for given in self._sets if given.valid_from <= event_time]
        version = valid[-1].version if valid else ""
        if version != self.in_use:
            self.in_use, self.failures = version, 0
        self.values = valid[-1].values if valid else NO_PARAMETERS
        return self.values

    def decided(self, *, well: bool) -> None:
        """Count a call that was not answered well; one that was begins anew."""
        self.failures = 0 if well else self.failures + 1

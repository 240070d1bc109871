"""What a graph is told of the hours before, and what its further outputs stand for: keys of ``[model]``.

A window shows a minute; a forecast of the next hour needs hours, and a week ago. A graph that takes the input
``history`` gets from the device what that has measured itself: a vector of ``HISTORY`` numbers, the same for
all windows of a quarter of an hour.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, model_validator

from schemas.section import Name, Section

HISTORY = "history"
"""Name of the graph's input, shape (1 + Q * HOURS,): hours since Monday 0:00, by the wall clock of the
calendar's zone, at the history's end; then for each sum, by name, its mean in each hour before, newest first.
NaN: not known."""
HOURS = 168
STEPS = 4
"""Parts of an hour: as often the history moves on."""


class HistorySpec(Section):
    """What the device keeps of the hours before.

    Attributes:
        hour_s: Seconds of event time that count as an hour: fewer where a simulation plays hours faster.
        sums: By name, the features that are summed up, window by window.
    """

    hour_s: PositiveFloat = 3600.0
    sums: dict[Name, tuple[str, ...]] = Field(min_length=1)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sums in the order of the graph's input: a profile's keys travel in any order."""
        return tuple(sorted(self.sums))

    @model_validator(mode="after")
    def _of_features(self) -> Self:
        if empty := sorted(name for name, features in self.sums.items() if not features):
            raise ValueError(f"model.history.sums: {empty} name no feature")
        return self


class OutputScale(Section):
    """What a further output, a number in [0, 1], stands for.

    Attributes:
        unit: Of the quantity.
        one: The quantity where the output is 1, in ``unit``; what is larger is shown as that.

    >>> OutputScale(unit="veh/h", one=7200.0).doc
    'as a share of 7200 veh/h'
    """

    unit: str
    one: PositiveFloat

    @property
    def doc(self) -> str:
        """For the data dictionary."""
        return f"as a share of {self.one:g} {self.unit}"


class ForecastKeys(Section):
    """Keys of ``[model]`` that models of quantities and of hours need.

    Attributes:
        history: What is kept for the graph's input ``history``; None: nothing.
        scales: What further outputs stand for, where they are no scores.
    """

    history: HistorySpec | None = None
    scales: dict[Name, OutputScale] = Field(default={})

    @property
    def history_sums(self) -> dict[str, tuple[str, ...]]:
        """Features by the name of their sum, as manifests state them; empty: there is no history."""
        return {} if self.history is None else dict(self.history.sums)

    def check_keys(self, features: Collection[str], outputs: Collection[str]) -> None:
        """Whether both keys name what the profile has.

        Raises:
            ValueError: They name other features or outputs.
        """
        named = {feature for sums in self.history_sums.values() for feature in sums}
        if unknown := sorted(named - set(features)):
            raise ValueError(f"model.history.sums names unknown features {unknown}")
        if unknown := sorted(set(self.scales) - set(outputs)):
            raise ValueError(f"model.scales names unknown outputs {unknown}; model.outputs declares them")


def history_width(sums: int) -> int:
    """Length of the graph's input for so many sums."""
    return 1 + sums * HOURS


def unknown_history(sums: int) -> NDArray[np.float32]:
    """The input of a device that has measured nothing yet."""
    found = np.full(history_width(sums), np.nan, dtype=np.float32)
    found[0] = 0.0
    return found


def golden_history(sums: int) -> NDArray[np.float32]:
    """The input with which golden vectors and gates compute: always the same, with days and a week in it."""
    hours = np.arange(HOURS)
    wave = 0.5 + 0.3 * np.sin(2 * np.pi * hours / 24) + 0.1 * np.cos(2 * np.pi * hours / HOURS)
    rows = [np.round(20.0**k * wave, 4) for k in range(sums)]
    return np.concatenate([[41.25], *rows]).astype(np.float32)

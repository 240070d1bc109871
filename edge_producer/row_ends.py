"""What stands behind the features of a row's channels: the calendar, and the model's further outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_producer.window import Floats
from schemas.calendar_features import CALENDAR, Calendar
from schemas.manifest import ANY_FEATURESET, Manifest
from schemas.profile import Profile

_NOTHING: Mapping[str, NDArray[np.generic]] = {}


class RowEnds:
    """Calendar and further outputs of one model under one profile.

    A trained graph takes the calendar as an input, and gives it back among its features. The generic one
    knows neither calendar nor outputs: rows get the calendar all the same, and nulls for the outputs.

    Args:
        manifest: The model's; it fits the profile.
        profile: Names calendar and outputs.

    Attributes:
        any: Whether ``append`` has anything to append.
    """

    def __init__(self, manifest: Manifest, profile: Profile) -> None:
        generic = manifest.featureset == ANY_FEATURESET
        self._calendar = Calendar.of(profile.features)
        self._takes = bool(self._calendar.width) and not generic
        self._appends = bool(self._calendar.width) and generic
        self._none = np.full(len(profile.model.outputs), np.nan, dtype=np.float32)
        self.any = self._appends or bool(len(self._none))

    def inputs(self, at: datetime | None) -> Mapping[str, NDArray[np.generic]]:
        """Further inputs of a trained graph for a window that ended at an instant.

        Raises:
            ValueError: The model reads the calendar, and there is no instant.
        """
        return {CALENDAR: self._row(at)[np.newaxis]} if self._takes else _NOTHING

    def append(self, features: Floats, at: datetime | None, further: Sequence[Floats]) -> Floats:
        """The numbers of a row, in the order of ``Profile.row_columns``.

        Args:
            features: As the graph gave them, shape (F,).
            at: Event time of the window.
            further: The graph's further outputs, each of shape (1,); empty: there are none.

        Raises:
            ValueError: The profile has a calendar, and there is no instant.
        """
        parts: list[Floats] = [features]
        if self._appends:
            parts.append(self._row(at))
        if len(self._none):
            parts += further or (self._none,)
        joined: Any = np.concatenate(parts)  # numpy's types know no join of two kinds of floats
        numbers: Floats = joined
        return numbers

    def _row(self, at: datetime | None) -> NDArray[np.float32]:
        if at is None:
            raise ValueError("the profile has calendar features: a window is scored with its event time")
        return self._calendar.row(at)

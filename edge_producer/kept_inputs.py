"""What the device itself keeps for a model's graph, by device: the hours before, and recent levels.

Which of them a graph takes, its manifest says. They are the device's own: another model of the same sums, or
of the same weight, goes on with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_producer.hour_history import HistoryLayout, HourHistory
from edge_producer.window import Floats
from schemas.history_spec import HISTORY
from schemas.instants import to_us
from schemas.manifest import Manifest
from schemas.profile import Profile
from schemas.recent_level import RECENT, RecentLevel, WindowTiming

PARTS = (HISTORY, RECENT)
"""Names of what may be kept: of the graph's input, and of its part in a device's state."""
_Kept = HourHistory | RecentLevel


class KeptInputs:
    """What is kept for one model's graph.

    Args:
        manifest: Says what the graph takes.
        profile: Names the sums of the hours before, and the features.

    Attributes:
        parts: Names of what is kept; empty: nothing, and nothing of this class need be called.
        unknown: Devices of whose newest window a feature's recent level was not known.
    """

    def __init__(self, manifest: Manifest, profile: Profile) -> None:
        spec = profile.model.history if manifest.history else None
        self._layout = None if spec is None else HistoryLayout.of(profile, spec)
        self._weight, self._width = manifest.recent, len(profile.feature_names)
        self._timing = WindowTiming.of(profile.sampling)
        self._kept: dict[str, dict[str, _Kept]] = {}
        reads = (self._layout is not None, bool(self._weight))
        self.parts = tuple(name for name, read in zip(PARTS, reads, strict=True) if read)
        self.unknown: set[str] = set()

    def inputs(self, device_id: str, at: datetime | None) -> dict[str, NDArray[np.generic]]:
        """Further inputs of the graph for a window that ends at this time.

        Raises:
            ValueError: There is no instant, and something is kept.
        """
        at_us = _stated(at)
        found: dict[str, NDArray[np.generic]] = {}
        for name, kept in self._of(device_id).items():
            if isinstance(kept, HourHistory):
                found[name] = kept.inputs(at_us)
                continue
            recent = kept.before(at_us).astype(np.float32)
            (self.unknown.add if np.isnan(recent).any() else self.unknown.discard)(device_id)
            found[name] = recent[np.newaxis]
        return found

    def add(self, device_id: str, features: Floats, at: datetime | None) -> None:
        """Count a window's features, shape (F,)."""
        for kept in self._of(device_id).values():
            if isinstance(kept, HourHistory):
                kept.add(features)
            else:
                kept.add(features, _stated(at))

    def of(self, device_id: str, name: str) -> _Kept | None:
        """What is kept of a device under a name of ``PARTS``; None where it has not begun, or is not kept."""
        return self._kept.get(device_id, {}).get(name)

    def export(self, device_id: str) -> dict[str, Any]:
        """State by name as JSON values; without what has not begun."""
        return {name: kept.export() for name, kept in self._kept.get(device_id, {}).items()}

    def restore(self, device_id: str, name: str, state: Mapping[str, Any]) -> None:
        """Take up one part of what was exported.

        Raises:
            ValueError, KeyError, TypeError: It cannot be read, or is of other sums, hours or features.
        """
        if name in self.parts:
            anew = self._new(name)
            anew.restore(state)
            self._follow(device_id, name, anew)

    def go_on_from(self, device_id: str, other: KeptInputs) -> None:
        """Take over what another model's has of the same device, where that is newer."""
        for name in self.parts:
            self._follow(device_id, name, other.of(device_id, name))

    def _follow(self, device_id: str, name: str, known: _Kept | None) -> None:
        mine = self._of(device_id)[name]
        if isinstance(mine, HourHistory) and isinstance(known, HourHistory):
            mine.go_on_from(known)
        if isinstance(mine, RecentLevel) and isinstance(known, RecentLevel):
            mine.go_on_from(known)

    def _of(self, device_id: str) -> dict[str, _Kept]:
        if device_id not in self._kept:
            self._kept[device_id] = {name: self._new(name) for name in self.parts}
        return self._kept[device_id]

    def _new(self, name: str) -> _Kept:
        if name == RECENT:
            return RecentLevel(self._width, self._weight, self._timing)
        if self._layout is None:
            raise ValueError("the model reads no history")
        return HourHistory(self._layout)


def _stated(at: datetime | None) -> int:
    """Microseconds since 1970.

    Raises:
        ValueError: There is no instant.
    """
    if at is None:
        raise ValueError("the model reads what was before: a window is scored with its event time")
    return to_us(at)

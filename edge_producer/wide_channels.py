"""Channels whose large values change by small steps, as counters do: float64 around a float32 graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_producer.window import Floats, Samples
from schemas.profile import Profile

Doubles = NDArray[np.float64]
_ORIGIN = "origin"

_PLACED = {
    "last": lambda x: x[-1],
    "mean": lambda x: x.mean(),
    "min": lambda x: x.min(),
    "max": lambda x: x.max(),
    "rms": lambda x: np.sqrt((x**2).mean()),
}
"""Kinds that move with the channel's origin; the others do not change when it is moved."""


class WideChannels:
    """A profile's wide channels. The graph gets their samples less an origin: float32 holds their steps.

    Args:
        profile: Says which channels are wide.
    """

    def __init__(self, profile: Profile) -> None:
        self._wide = np.array(profile.wide)
        names = profile.channel_names
        self._placed = [
            (place, names.index(spec.channel), spec.kind)
            for place, (spec, wide) in enumerate(
                zip(profile.feature_specs(), profile.wide_features(), strict=True)
            )
            if wide and spec.kind in _PLACED
        ]
        self._origins: dict[str, Doubles] = {}

    @property
    def any(self) -> bool:
        """Whether there are wide channels."""
        return bool(self._wide.any())

    def moved(self, device_id: str, samples: Samples) -> Samples:
        """Samples in float32, those of wide channels less the device's origin: its first sample of each."""
        origin = self._origins.setdefault(device_id, np.where(self._wide, np.nan, 0.0))
        if np.isnan(origin).any():
            first = np.array([next((v for v in column if np.isfinite(v)), np.nan) for column in samples.T])
            origin[:] = np.where(np.isnan(origin), first, origin)
        return (samples - np.where(np.isnan(origin), 0.0, origin)).astype(np.float32)

    def placed(self, samples: Samples, features: Floats) -> Doubles:
        """Features in float64; those that the origin moves are computed anew from the samples."""
        exact = features.astype(np.float64)
        for place, channel, kind in self._placed:
            column = samples[:, channel].astype(np.float64)
            given = column[np.isfinite(column)]
            exact[place] = _PLACED[kind](given) if len(given) else np.nan
        return exact

    def export(self, device_id: str) -> dict[str, Any]:
        """What ``restore`` needs, as JSON values: a reference that was learnt is of this origin."""
        if not self.any or device_id not in self._origins:
            return {}
        return {_ORIGIN: [None if math.isnan(v) else v for v in self._origins[device_id].tolist()]}

    def restore(self, device_id: str, state: Mapping[str, Any]) -> None:
        """Go on with the origin of an earlier process.

        Raises:
            ValueError: It is of other channels.
        """
        if _ORIGIN not in state:
            return
        origin = np.array([math.nan if v is None else float(v) for v in state[_ORIGIN]])
        if origin.shape != self._wide.shape:
            raise ValueError(f"an origin of {len(origin)} channels, not {len(self._wide)}")
        self._origins[device_id] = origin

    def forget(self, device_id: str) -> None:
        """The next window sets the origin anew."""
        self._origins.pop(device_id, None)

    def take_over(self, device_id: str, predecessor: WideChannels) -> None:
        """Go on with the origin of the device's earlier model: its reference was learnt with it."""
        if device_id in predecessor._origins:
            self._origins[device_id] = predecessor._origins[device_id].copy()

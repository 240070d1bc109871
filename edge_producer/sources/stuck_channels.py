"""Finds samples of channels that repeat one value for too long, in the blocks of a paced source. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_producer.window import Samples
from schemas.profile import Profile


class StuckChannels:
    """One device's channels, over its blocks.

    Args:
        profile: ``[align]`` says after which time a channel is stuck.

    Attributes:
        count: Samples that were stuck so far.
    """

    def __init__(self, profile: Profile) -> None:
        step_s = 1.0 / profile.sampling.rate_hz
        spans_s = [profile.align.of(name, step_s)[2] for name in profile.channel_names]
        self._spans_us = {at: span * 1e6 for at, span in enumerate(spans_s) if span is not None}
        self._newest: dict[int, tuple[float, int]] = {}
        self.count = 0

    def look(self, us: NDArray[np.int64], values: Samples) -> Samples:
        """The samples, shape (n, C), with those that are stuck as missing."""
        for at, span_us in self._spans_us.items():
            known = np.flatnonzero(~np.isnan(values[:, at]))
            if not len(known):
                continue
            column, times = values[known, at], us[known]
            value, since = self._newest.get(at, (np.nan, int(times[0])))
            changed = np.concatenate([[column[0] != value], column[1:] != column[:-1]])
            began = np.maximum.accumulate(np.where(changed, times, since))
            self._newest[at] = float(column[-1]), int(began[-1])
            stuck = known[times - began > span_us]
            if len(stuck):
                values = values.copy()
                values[stuck, at] = np.nan
                self.count += len(stuck)
        return values

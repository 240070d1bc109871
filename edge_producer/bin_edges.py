"""Inner bin edges of features and scores, by which summaries count windows. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.calendar_features import CALENDAR, CALENDAR_KINDS
from schemas.feature_set import UNITLESS_KINDS
from schemas.manifest import SCORE_EDGES, Manifest
from schemas.profile import Channel, Profile

INNER_EDGES = 15


def bin_edges(manifest: Manifest, profile: Profile) -> dict[str, NDArray[np.float64]]:
    """The manifest's bin edges; for features without any, edges over the channel's usual range."""
    channels = {c.name: c for c in profile.channels}
    specs = [s for s in profile.feature_specs() if s.built_in]
    edges = {s.name: range_edges(channels[s.channel], s.kind) for s in specs}
    edges |= {
        f"{CALENDAR}_{kind}": np.array(CALENDAR_KINDS[kind].edges) for kind in profile.features.calendar
    }
    edges |= {name: np.array(SCORE_EDGES) for name in profile.model.output_columns}
    edges |= {name: np.array(values) for name, values in manifest.bin_edges.items()}
    return edges


def range_edges(channel: Channel, kind: str) -> NDArray[np.float64]:
    """Inner bin edges of an untrained feature: even steps for levels, even ratios for measures of spread."""
    low, high = channel.usual
    if kind in UNITLESS_KINDS:
        return np.array([1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 7.0, 10.0, 20.0])
    if kind in ("last", "mean", "min", "max"):
        return np.linspace(low, high, INNER_EDGES + 2)[1:-1]
    widest = max(abs(low), abs(high)) if kind == "rms" else (high - low) / 2
    return np.geomspace(1e-3 * widest, widest, INNER_EDGES + 2)[1:-1]

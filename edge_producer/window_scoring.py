"""Scores one device's windows: whatever a model does, the device gets features and a usable score or none."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edge_producer.kept_inputs import KeptInputs
from edge_producer.missing_channels import Channels, channel_marks, missing_channels, required_by_profile
from edge_producer.range_watch import RangeWatch
from edge_producer.window import Floats, Predictor, Window
from schemas.profile import Profile
from schemas.row_schemas import Reason
from schemas.score_range import usable_score

log = logging.getLogger(__name__)
_NONE: Mapping[str, float | None] = {}


class WindowScorer:
    """The guard between one device's models and its decisions.

    Args:
        device_id: Named in logs; empty: nothing is logged.
        profile: Says which channels are required.

    Attributes:
        missing: Channels that were missing in the newest window.
        out_of_range: Its samples are outside their range, in a row or too many.
        absurd_shares: Channels that lose more than the stated share of their samples, with the share.
    """

    def __init__(self, device_id: str, profile: Profile) -> None:
        self._device_id = device_id
        self._max_missing = profile.sampling.max_missing
        self._required = required_by_profile(profile)
        self._timed = bool(profile.features.calendar) or profile.model.history is not None
        self._outputs = profile.model.outputs
        nothing = np.full(len(profile.row_columns), np.nan)
        self._no_features: Floats = nothing if any(profile.wide) else nothing.astype(np.float32)
        self._counts: Counter[str] = Counter()
        self._last_logged = ""
        self._ranges = RangeWatch(profile)
        self.out_of_range = self._lacks = self._unknown = False
        self.absurd_shares: dict[str, float] = {}
        self._most_absurd: dict[str, float] = {}
        self.missing: Channels = np.zeros(len(profile.channels), dtype=np.bool_)

    def begin(self, window: Window) -> Window:
        """Look at a new window, before any model scores it; returns it without values that cannot be."""
        samples = window.samples
        # A source that gives another number of channels is the model's to refuse, not ours to die of.
        if samples.shape[1:] != self._required.shape:
            self.missing, self._lacks, self.out_of_range = np.ones_like(self._required), True, False
            return window
        plausible = self._ranges.look(samples)
        self.missing = missing_channels(plausible, self._max_missing)
        self._lacks = bool(self.missing.any())
        if self._ranges.lost:
            self._counts["samples_out_of_range"] += self._ranges.lost
        self.absurd_shares = self._ranges.shares()
        for name, share in self.absurd_shares.items():
            self._most_absurd[name] = max(share, self._most_absurd.get(name, 0.0))
        self.out_of_range = self._ranges.run or bool(self.absurd_shares)
        return window if plausible is samples else replace(window, samples=plausible)

    @property
    def marks(self) -> int:
        """Bits of ``reasons`` for the newest window: what was missing, and that a run was out of range."""
        marks = channel_marks(self.missing) if self._lacks else 0
        return marks | (int(Reason.OUT_OF_RANGE) if self._ranges.run else 0)

    def score(self, model: Predictor, window: Window) -> tuple[Floats, float | None]:
        """Numbers of the newest window, and a usable score: none if a required channel is missing."""
        try:
            # A predictor that reads neither calendar nor what was before need not take the time.
            kept: KeptInputs | None = getattr(model, "kept", None)
            reads = kept is not None and bool(kept.parts)
            at = (window.end,) if self._timed or reads else ()
            features, raw = model.score(self._device_id, window.samples, *at)
        except Exception as exc:  # noqa: BLE001  (whatever a model does: without a score there is the fail-safe)
            self.log_once("a window without a score", exc)
            return self._no_features, None
        self._unknown = kept is not None and reads and self._device_id in kept.unknown
        lacks = self._lacks and bool((self.missing & self._required).any())
        if self._outputs:
            features = self._with_usable_outputs(features, model.version, lacks=lacks)
        if lacks:
            return features, None
        usable = usable_score(raw)
        self._count("scores_clipped", usable.clipped)
        self._count("scores_outside", usable.outside)
        if usable.outside:
            self.log_once("a window without a score", ValueError(f"{model.version} gave one outside [0, 1]"))
        return features, usable.score

    def further(self, features: Floats) -> Mapping[str, float | None]:
        """Further outputs among a window's numbers, by name; None: there is none."""
        return further_outputs(self._outputs, features)

    def _with_usable_outputs(self, features: Floats, version: str, *, lacks: bool) -> Floats:
        """The numbers with further outputs that may be used; what lies outside [0, 1] is no output."""
        kept = features.copy()
        for at in range(-len(self._outputs), 0):
            usable = usable_score(None if lacks else float(features[at]))
            kept[at] = math.nan if usable.score is None else usable.score
            self._count("scores_clipped", usable.clipped)
            self._count("scores_outside", usable.outside)
            if usable.outside:
                what = f"{version} gave {self._outputs[at]} outside [0, 1]"
                self.log_once("a window without a further output", ValueError(what))
        return kept

    def count_decided(self, score: float | None) -> None:
        """Count the newest window by what its decision rested on."""
        self._count("windows_unscored", score is None)
        self._count("windows_degraded", score is not None and self._lacks)
        self._count("windows_without_recent", score is not None and self._unknown)

    def take_counts(self) -> Counter[str]:
        """What was counted since the last call, by name; without zeros."""
        counts, self._counts = self._counts, Counter()
        return counts

    def take_absurd(self) -> dict[str, float]:
        """Largest share of each channel that lost too many samples since the last call."""
        most, self._most_absurd = self._most_absurd, {}
        return most

    def log_once(self, what: str, error: Exception) -> None:
        """Log an error with its traceback, unless the same was logged last: it may come with every window."""
        text = f"{what}: {type(error).__name__}: {error}"
        if text != self._last_logged and self._device_id:
            self._last_logged = text
            log.error(text, exc_info=error, extra={"device_id": self._device_id})

    def _count(self, name: str, happened: bool) -> None:
        if happened:
            self._counts[name] += 1


def further_outputs(outputs: Sequence[str], numbers: Floats) -> Mapping[str, float | None]:
    """Further outputs by name, from the end of a row's numbers; None: there is none."""
    if not outputs:
        return _NONE
    values = numbers[-len(outputs) :].tolist()
    return {n: None if math.isnan(v) else v for n, v in zip(outputs, values, strict=True)}

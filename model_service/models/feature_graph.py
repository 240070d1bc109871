"""Writes the computation of features from a raw window as ONNX operators.

`features.py` computes the same in numpy; a test compares them.

Inside, arrays are (B, C, W): batch, channel, sample. Every kind ignores missing samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np

from model_service.models.feature_kind import written, written_each
from model_service.models.graph import FLOAT, GraphWriter, tensor
from schemas.calendar_features import CALENDAR
from schemas.feature_set import FEATURE_KINDS, FeatureSpec
from schemas.history_spec import HISTORY, history_width
from schemas.output_names import PRIMARY
from schemas.profile import Profile
from schemas.recent_level import RECENT

LARGEST = float(np.finfo(np.float32).max)
NAN = float("nan")
GROUPED_HOP_S = 0.1
"""Up to this time between windows a model's own time counts, and operators are shared. Graphs of slower
profiles stay as they were written: their bundles have shipped."""


class WindowKinds:
    """Writes feature kinds of a (B, C, W) tensor; what several kinds need is written once.

    Args:
        writer: Of the graph that the operators are added to.
        x: Name of the (B, C, W) float tensor; NaN and infinities are missing.
        samples: W, where it is known: then nothing of it is computed when the graph runs.
    """

    def __init__(self, writer: GraphWriter, x: str, samples: int | None = None) -> None:
        self._g = writer
        self._x = x
        self._samples = samples

    def kind(self, name: str) -> str:
        """Name of the (B, C) tensor of one of ``FEATURE_KINDS``."""
        if name.startswith("band_"):
            return self._band(name)
        kinds = {
            "last": self._last,
            "mean": self._mean,
            "std": self._std,
            "min": self._min,
            "max": self._max,
            "rms": self._rms,
            "peak": self._peak,
            "crest": self._crest,
            "kurtosis": self._kurtosis,
        }
        return kinds[name]()

    def _sum(self, x: str) -> str:
        return self._g.op("ReduceSum", x, self._g.ints(2), keepdims=1)

    def _flat(self, x: str) -> str:
        return self._g.op("Squeeze", x, self._g.ints(2))

    # -- parts, (B, C, W) or (B, C, 1) ------------------------------------------------------------

    @cached_property
    def _valid(self) -> str:
        # NaN compares false, so one comparison finds NaN and both infinities.
        return self._g.op("LessOrEqual", self._g.op("Abs", self._x), self._g.floats(LARGEST))

    @cached_property
    def _filled(self) -> str:
        return self._g.op("Where", self._valid, self._x, self._g.floats(0.0))

    @cached_property
    def _count(self) -> str:
        """Number of valid samples; NaN where there is none, which makes every kind NaN."""
        n = self._sum(self._g.op("Cast", self._valid, to=FLOAT))
        empty = self._g.op("Equal", n, self._g.floats(0.0))
        return self._g.op("Where", empty, self._g.floats(NAN), n)

    def _average(self, x: str) -> str:
        return self._g.op("Div", self._sum(x), self._count)

    @cached_property
    def _shift(self) -> str:
        # The last valid sample. Differences from it keep a small spread on a large offset exact in float32.
        index = self._positions()
        at = self._g.op("Where", self._valid, index, self._g.floats(-1.0))
        latest = self._g.op("ReduceMax", at, axes=[2], keepdims=1)
        is_latest = self._g.op("And", self._g.op("Equal", at, latest), self._valid)
        return self._sum(self._g.op("Where", is_latest, self._x, self._g.floats(0.0)))

    def _positions(self) -> str:
        if self._samples is not None:
            return self._g.constant(np.arange(self._samples, dtype=np.float32))
        width = self._width
        return self._g.op(
            "Cast", self._g.op("Range", self._g.integer(0), width, self._g.integer(1)), to=FLOAT
        )

    @cached_property
    def _width(self) -> str:
        if self._samples is not None:
            return self._g.integer(self._samples)
        shape = self._g.op("Shape", self._x)
        return self._g.op("Gather", shape, self._g.integer(2), axis=0)

    @cached_property
    def _offset_mean(self) -> str:
        """Mean less ``_shift``."""
        shifted = self._g.op("Sub", self._filled, self._shift)
        return self._average(self._g.op("Where", self._valid, shifted, self._g.floats(0.0)))

    @cached_property
    def _centred(self) -> str:
        """Deviations from the mean; 0 where missing."""
        shifted = self._g.op("Sub", self._filled, self._shift)
        off = self._g.op("Sub", shifted, self._offset_mean)
        return self._g.op("Where", self._valid, off, self._g.floats(0.0))

    @cached_property
    def _squares(self) -> str:
        return self._g.op("Mul", self._centred, self._centred)

    @cached_property
    def _variance(self) -> str:
        return self._average(self._squares)

    def _zero_if_flat(self, x: str) -> str:
        """Replaces x by 0 where the window is constant: the ratio is 0/0 there."""
        flat = self._g.op("Equal", self._variance, self._g.floats(0.0))
        return self._flat(self._g.op("Where", flat, self._g.floats(0.0), x))

    def _nan_if_empty(self, x: str) -> str:
        """Replaces x by NaN where the channel has no valid sample: its count is NaN there."""
        nothing = self._g.op("Mul", self._count, self._g.floats(0.0))
        return self._flat(self._g.op("Add", x, nothing))

    # -- kinds, (B, C) ----------------------------------------------------------------------------

    def _last(self) -> str:
        return self._nan_if_empty(self._shift)

    def _mean(self) -> str:
        return self._flat(self._g.op("Add", self._shift, self._offset_mean))

    def _std(self) -> str:
        return self._flat(self._g.op("Sqrt", self._variance))

    def _min(self) -> str:
        x = self._g.op("Where", self._valid, self._x, self._g.floats(LARGEST))
        return self._nan_if_empty(self._g.op("ReduceMin", x, axes=[2], keepdims=1))

    def _max(self) -> str:
        x = self._g.op("Where", self._valid, self._x, self._g.floats(-LARGEST))
        return self._nan_if_empty(self._g.op("ReduceMax", x, axes=[2], keepdims=1))

    def _rms(self) -> str:
        square = self._g.op("Mul", self._filled, self._filled)
        return self._flat(self._g.op("Sqrt", self._average(square)))

    @cached_property
    def _largest(self) -> str:
        return self._g.op("ReduceMax", self._g.op("Abs", self._centred), axes=[2], keepdims=1)

    def _peak(self) -> str:
        return self._nan_if_empty(self._largest)

    def _crest(self) -> str:
        return self._zero_if_flat(self._g.op("Div", self._largest, self._g.op("Sqrt", self._variance)))

    def _kurtosis(self) -> str:
        # Standardised before the fourth power: tiny and huge signals stay inside float32.
        ratio = self._g.op("Div", self._squares, self._variance)
        return self._zero_if_flat(self._average(self._g.op("Mul", ratio, ratio)))

    # -- spectrum ---------------------------------------------------------------------------------

    @cached_property
    def _power(self) -> str:
        """One-sided power of each spectral line, (B, C, W // 2 + 1), without the mean (line 0).

        Every line counts twice, for both sides; the line at half the sampling rate (W even) has one side.
        """
        signal = self._g.op("Unsqueeze", self._centred, self._g.ints(3))
        spectrum = self._g.op("DFT", signal, axis=2, onesided=1)
        power = self._g.op("ReduceSum", self._g.op("Mul", spectrum, spectrum), self._g.ints(3), keepdims=0)
        line, width = self._line, self._width
        double = self._g.op("Mul", line, self._g.integer(2))
        alone = self._g.op("Equal", double, width)
        weight = self._g.op("Where", alone, self._g.floats(1.0), self._g.floats(2.0))
        above_dc = self._g.op("Cast", self._g.op("Greater", line, self._g.integer(0)), to=FLOAT)
        return self._g.op("Mul", power, self._g.op("Mul", weight, above_dc))

    @cached_property
    def _line(self) -> str:
        width = self._width
        half = self._g.op("Div", width, self._g.integer(2))
        end = self._g.op("Add", half, self._g.integer(1))
        return self._g.op("Range", self._g.integer(0), end, self._g.integer(1))

    def _above(self, share: int) -> str:
        """Whether each spectral line lies at or above 1/share of the sampling rate."""
        line, width = self._line, self._width
        return self._g.op("GreaterOrEqual", self._g.op("Mul", line, self._g.integer(share)), width)

    def _inside(self, band: str) -> str:
        if band == "band_high":
            return self._above(4)
        low = self._g.op("Not", self._above(8))
        if band == "band_low":
            return low
        return self._g.op("And", self._above(8), self._g.op("Not", self._above(4)))

    def _band(self, band: str) -> str:
        power = self._power
        inside = self._g.op("Cast", self._inside(band), to=FLOAT)
        total = self._sum(self._g.op("Mul", power, inside))
        width = self._g.op("Cast", self._width, to=FLOAT)
        mean_square = self._g.op("Div", self._g.op("Div", total, width), self._count)
        return self._flat(self._g.op("Sqrt", mean_square))


def channels_first(writer: GraphWriter, window: str = "window") -> str:
    """Turns (B, W, C), the layout on devices, into (B, C, W), the layout of ``WindowKinds``."""
    return writer.op("Transpose", window, perm=[0, 2, 1])


def write_features(
    writer: GraphWriter, specs: Sequence[FeatureSpec], channels: Sequence[str], window: str = "window"
) -> str:
    """Adds the features ``specs`` of a fixed list of channels; of each channel only the kinds in ``specs``.

    Returns:
        Name of the (B, F) tensor, columns in the order of ``specs``.
    """
    every_channel = channels_first(writer, window)
    kinds: dict[str, WindowKinds] = {}
    gathered: dict[tuple[str, ...], str] = {}
    parts = []
    for spec in specs:
        if not spec.built_in:
            if spec.sources not in gathered:  # one name of one tensor: kinds may share what they compute
                at = writer.ints(*(channels.index(name) for name in spec.sources))
                gathered[spec.sources] = writer.op("Gather", window, at, axis=2)
            parts.append(written(spec, writer, gathered[spec.sources]))
            continue
        if spec.channel not in kinds:
            at = writer.ints(channels.index(spec.channel))
            kinds[spec.channel] = WindowKinds(writer, writer.op("Gather", every_channel, at, axis=1))
        parts.append(kinds[spec.channel].kind(spec.kind))
    return writer.op("Concat", *parts, axis=1)


def write_grouped_features(
    writer: GraphWriter, specs: Sequence[FeatureSpec], channels: Sequence[str], samples: int
) -> str:
    """As ``write_features``, where channels of which the same kinds are wanted share their operators.

    An operator takes as long on one channel of a few samples as on ten: such models take half the time.

    Args:
        writer: Of the graph, whose input is ``window``.
        specs: Features of channels.
        channels: All channels, in the window's order.
        samples: W of the window.
    """
    parts: list[str] = []
    names: list[str] = []

    def add(part: str, columns: Iterable[str]) -> None:
        parts.append(part)
        names.extend(columns)

    @cache  # one name of one tensor: kinds may share what they compute
    def gathered(of: tuple[str, ...], window: str, axis: int) -> str:
        return writer.op("Gather", window, writer.ints(*(channels.index(name) for name in of)), axis=axis)

    every_channel = channels_first(writer)
    for kinds, group in _same_kinds(specs).items():
        made = WindowKinds(writer, gathered(tuple(group), every_channel, 1), samples)
        for kind in kinds:
            add(made.kind(kind), [f"{channel}_{kind}" for channel in group])
    for alike in _own_kinds(specs):
        sources = tuple(spec.sources[0] for spec in alike if len(spec.sources) == 1)
        whole = written_each(alike, writer, gathered(sources, "window", 2)) if len(sources) > 1 else None
        if whole is not None:
            add(whole, [spec.name for spec in alike])
            continue
        for spec in alike:
            add(written(spec, writer, gathered(spec.sources, "window", 2)), [spec.name])
    order = writer.ints(*(names.index(spec.name) for spec in specs))
    return writer.op("Gather", writer.op("Concat", *parts, axis=1), order, axis=1)


def _same_kinds(specs: Sequence[FeatureSpec]) -> dict[tuple[str, ...], list[str]]:
    """Channels by the built-in kinds that are wanted of them."""
    wanted: dict[str, set[str]] = {}
    for spec in specs:
        if spec.built_in:
            wanted.setdefault(spec.channel, set()).add(spec.kind)
    groups: dict[tuple[str, ...], list[str]] = {}
    for channel, kinds in wanted.items():
        groups.setdefault(tuple(sorted(kinds)), []).append(channel)
    return groups


def _own_kinds(specs: Sequence[FeatureSpec]) -> list[list[FeatureSpec]]:
    """Features of kinds of packages, those together that one call may write."""
    found: dict[tuple[str, bool], list[FeatureSpec]] = {}
    for spec in specs:
        if not spec.built_in:
            found.setdefault((spec.kind, len(spec.sources) == 1), []).append(spec)
    return list(found.values())


def write_profile_features(writer: GraphWriter, profile: Profile) -> str:
    """Adds a profile's features to a graph with its ``graph_inputs``, and gives them as its output.

    Returns:
        Name of the (B, F) tensor: those of the channels, then the calendar's.

    Raises:
        DatasetError: A kind of a package is not installed here, or fails.
    """
    specs = [s for s in profile.feature_specs() if s.sources]
    if profile.sampling.hop_s <= GROUPED_HOP_S:
        features = write_grouped_features(
            writer, specs, profile.channel_names, profile.sampling.window_samples
        )
    else:
        features = write_features(writer, specs, profile.channel_names)
    if profile.features.calendar:
        features = writer.op("Concat", features, CALENDAR, axis=1)
    writer.op("Identity", features, output="features")
    return features


def graph_inputs(profile: Profile, *, history: bool = False, recent: bool = False) -> list[Any]:
    """Declared inputs of a profile's own graphs: ``window``, and ``calendar`` where it has one.

    Args:
        profile: Gives their shapes.
        history: The graph also takes the hours before.
        recent: The graph also takes the recent levels.
    """
    shape: list[int | str] = ["batch", profile.sampling.window_samples, len(profile.channels)]
    calendar = [tensor(CALENDAR, FLOAT, ["batch", len(profile.features.calendar)])]
    hours = [tensor(HISTORY, FLOAT, [history_width(len(profile.model.history_sums))])]
    return [
        tensor("window", FLOAT, shape),
        *(calendar if profile.features.calendar else []),
        *(hours if history else []),
        *([tensor(RECENT, FLOAT, ["batch", len(profile.feature_names)])] if recent else []),
    ]


def graph_outputs(profile: Profile) -> list[Any]:
    """Declared outputs of a profile's own graphs: ``features``, ``score``, and further ones."""
    scores = [PRIMARY, *profile.model.output_columns]
    width = len(profile.feature_names)
    return [tensor("features", FLOAT, ["batch", width]), *(tensor(s, FLOAT, ["batch"]) for s in scores)]


def write_chosen_features(writer: GraphWriter, window: str = "window", columns: str = "columns") -> str:
    """Adds all kinds of any number of channels, and the choice of the input ``columns`` among them.

    Returns:
        Name of the (B, F) tensor; ``columns[f]`` is ``channel * len(FEATURE_KINDS) + kind``.
    """
    kinds = WindowKinds(writer, channels_first(writer, window))
    last = writer.ints(2)
    parts = [writer.op("Unsqueeze", kinds.kind(k), last) for k in FEATURE_KINDS]
    cube = writer.op("Concat", *parts, axis=2)
    flat = writer.op("Reshape", cube, writer.ints(0, -1))
    return writer.op("Gather", flat, columns, axis=1)

"""Raw window to features as ONNX operators. `features.py` is the same in numpy; a test holds them equal.

Inside, arrays are (B, C, W): batch, channel, sample. Every kind ignores missing samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from model_service.training.graph import FLOAT, GraphWriter
from schemas.profile import FEATURE_KINDS, FeatureSpec

LARGEST = float(np.finfo(np.float32).max)
NAN = float("nan")


class WindowKinds:
    """Feature kinds of a (B, C, W) tensor; parts that several kinds need are written once.

    Args:
        writer: Where the operators go.
        x: Name of the (B, C, W) float tensor; NaN and infinities are missing.
    """

    def __init__(self, writer: GraphWriter, x: str) -> None:
        self._g = writer
        self._x = x
        self._made: dict[str, str] = {}

    def kind(self, name: str) -> str:
        """Tensor (B, C) of one of ``FEATURE_KINDS``."""
        if name.startswith("band_"):
            return self._band(name)
        return self._once(name, getattr(self, f"_{name}"))

    def _once(self, key: str, make: Callable[[], str]) -> str:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _sum(self, x: str) -> str:
        return self._g.op("ReduceSum", x, self._g.ints(2), keepdims=1)

    def _flat(self, x: str) -> str:
        return self._g.op("Squeeze", x, self._g.ints(2))

    # -- parts, (B, C, W) or (B, C, 1) ------------------------------------------------------------

    def _valid(self) -> str:
        # NaN compares false, so one comparison finds NaN and both infinities.
        return self._g.op("LessOrEqual", self._g.op("Abs", self._x), self._g.floats(LARGEST))

    def valid(self) -> str:
        return self._once("valid", self._valid)

    def _filled(self) -> str:
        return self._g.op("Where", self.valid(), self._x, self._g.floats(0.0))

    def filled(self) -> str:
        return self._once("filled", self._filled)

    def _count(self) -> str:
        n = self._sum(self._g.op("Cast", self.valid(), to=FLOAT))
        empty = self._g.op("Equal", n, self._g.floats(0.0))
        return self._g.op("Where", empty, self._g.floats(NAN), n)

    def count(self) -> str:
        """Valid samples; NaN where there is none, which then runs through every kind."""
        return self._once("count", self._count)

    def _average(self, x: str) -> str:
        return self._g.op("Div", self._sum(x), self.count())

    def _shift(self) -> str:
        # The last valid sample: measuring from it keeps small spreads on large offsets exact in float32.
        index = self._g.op("Cast", self._positions(), to=FLOAT)
        at = self._g.op("Where", self.valid(), index, self._g.floats(-1.0))
        latest = self._g.op("ReduceMax", at, axes=[2], keepdims=1)
        is_latest = self._g.op("And", self._g.op("Equal", at, latest), self.valid())
        return self._sum(self._g.op("Where", is_latest, self._x, self._g.floats(0.0)))

    def _positions(self) -> str:
        width = self._once("width", self._width)
        return self._g.op("Range", self._g.integer(0), width, self._g.integer(1))

    def _width(self) -> str:
        shape = self._g.op("Shape", self._x)
        return self._g.op("Gather", shape, self._g.integer(2), axis=0)

    def shift(self) -> str:
        return self._once("shift", self._shift)

    def _offset_mean(self) -> str:
        shifted = self._g.op("Sub", self.filled(), self.shift())
        return self._average(self._g.op("Where", self.valid(), shifted, self._g.floats(0.0)))

    def offset_mean(self) -> str:
        """Mean as measured from ``shift``."""
        return self._once("offset_mean", self._offset_mean)

    def _centred(self) -> str:
        shifted = self._g.op("Sub", self.filled(), self.shift())
        off = self._g.op("Sub", shifted, self.offset_mean())
        return self._g.op("Where", self.valid(), off, self._g.floats(0.0))

    def centred(self) -> str:
        """Deviations from the mean; 0 where missing."""
        return self._once("centred", self._centred)

    def _squares(self) -> str:
        return self._g.op("Mul", self.centred(), self.centred())

    def squares(self) -> str:
        return self._once("squares", self._squares)

    def _variance(self) -> str:
        return self._average(self.squares())

    def variance(self) -> str:
        return self._once("variance", self._variance)

    def _zero_if_flat(self, x: str) -> str:
        """0 where the window is constant: the ratio is 0/0 there."""
        flat = self._g.op("Equal", self.variance(), self._g.floats(0.0))
        return self._flat(self._g.op("Where", flat, self._g.floats(0.0), x))

    def _gapless(self, x: str) -> str:
        """NaN where the channel has no valid sample at all."""
        nothing = self._g.op("Mul", self.count(), self._g.floats(0.0))
        return self._flat(self._g.op("Add", x, nothing))

    # -- kinds, (B, C) ----------------------------------------------------------------------------

    def _last(self) -> str:
        return self._gapless(self.shift())

    def _mean(self) -> str:
        return self._flat(self._g.op("Add", self.shift(), self.offset_mean()))

    def _std(self) -> str:
        return self._flat(self._g.op("Sqrt", self.variance()))

    def _min(self) -> str:
        x = self._g.op("Where", self.valid(), self._x, self._g.floats(LARGEST))
        return self._gapless(self._g.op("ReduceMin", x, axes=[2], keepdims=1))

    def _max(self) -> str:
        x = self._g.op("Where", self.valid(), self._x, self._g.floats(-LARGEST))
        return self._gapless(self._g.op("ReduceMax", x, axes=[2], keepdims=1))

    def _rms(self) -> str:
        square = self._g.op("Mul", self.filled(), self.filled())
        return self._flat(self._g.op("Sqrt", self._average(square)))

    def _largest(self) -> str:
        return self._g.op("ReduceMax", self._g.op("Abs", self.centred()), axes=[2], keepdims=1)

    def largest(self) -> str:
        return self._once("largest", self._largest)

    def _peak(self) -> str:
        return self._gapless(self.largest())

    def _crest(self) -> str:
        return self._zero_if_flat(self._g.op("Div", self.largest(), self._g.op("Sqrt", self.variance())))

    def _kurtosis(self) -> str:
        # Standardised before the fourth power: tiny and huge signals stay inside float32.
        ratio = self._g.op("Div", self.squares(), self.variance())
        return self._zero_if_flat(self._average(self._g.op("Mul", ratio, ratio)))

    # -- spectrum ---------------------------------------------------------------------------------

    def _power(self) -> str:
        """One-sided power of each line, (B, C, W // 2 + 1), both sides counted, mean left out."""
        signal = self._g.op("Unsqueeze", self.centred(), self._g.ints(3))
        spectrum = self._g.op("DFT", signal, axis=2, onesided=1)
        power = self._g.op("ReduceSum", self._g.op("Mul", spectrum, spectrum), self._g.ints(3), keepdims=0)
        line, width = self._once("line", self._line), self._once("width", self._width)
        double = self._g.op("Mul", line, self._g.integer(2))
        alone = self._g.op("Equal", double, width)
        weight = self._g.op("Where", alone, self._g.floats(1.0), self._g.floats(2.0))
        above_dc = self._g.op("Cast", self._g.op("Greater", line, self._g.integer(0)), to=FLOAT)
        return self._g.op("Mul", power, self._g.op("Mul", weight, above_dc))

    def _line(self) -> str:
        width = self._once("width", self._width)
        half = self._g.op("Div", width, self._g.integer(2))
        end = self._g.op("Add", half, self._g.integer(1))
        return self._g.op("Range", self._g.integer(0), end, self._g.integer(1))

    def _above(self, share: int) -> str:
        """Whether a line lies at or above 1/share of the sampling rate."""
        line, width = self._once("line", self._line), self._once("width", self._width)
        return self._g.op("GreaterOrEqual", self._g.op("Mul", line, self._g.integer(share)), width)

    def _inside(self, band: str) -> str:
        if band == "band_high":
            return self._above(4)
        low = self._g.op("Not", self._above(8))
        if band == "band_low":
            return low
        return self._g.op("And", self._above(8), self._g.op("Not", self._above(4)))

    def _band(self, band: str) -> str:
        power = self._once("power", self._power)
        inside = self._g.op("Cast", self._inside(band), to=FLOAT)
        total = self._sum(self._g.op("Mul", power, inside))
        width = self._g.op("Cast", self._once("width", self._width), to=FLOAT)
        mean_square = self._g.op("Div", self._g.op("Div", total, width), self.count())
        return self._flat(self._g.op("Sqrt", mean_square))


def channels_first(writer: GraphWriter, window: str = "window") -> str:
    """(B, W, C) as devices hold it to (B, C, W) as the kinds want it."""
    return writer.op("Transpose", window, perm=[0, 2, 1])


def features(
    writer: GraphWriter, specs: Sequence[FeatureSpec], channels: Sequence[str], window: str = "window"
) -> str:
    """Adds the features ``specs`` of a fixed list of channels; each channel computes only its own kinds.

    Returns:
        Name of the (B, F) tensor, columns in the order of ``specs``.
    """
    every = channels_first(writer, window)
    columns: dict[str, WindowKinds] = {}
    parts = []
    for spec in specs:
        if spec.channel not in columns:
            at = writer.ints(channels.index(spec.channel))
            columns[spec.channel] = WindowKinds(writer, writer.op("Gather", every, at, axis=1))
        parts.append(columns[spec.channel].kind(spec.kind))
    return writer.op("Concat", *parts, axis=1)


def chosen_features(writer: GraphWriter, window: str = "window", columns: str = "columns") -> str:
    """Adds all kinds of any number of channels and picks ``columns`` of them.

    Returns:
        Name of the (B, F) tensor; ``columns[f]`` is ``channel * len(FEATURE_KINDS) + kind``.
    """
    kinds = WindowKinds(writer, channels_first(writer, window))
    last = writer.ints(2)
    parts = [writer.op("Unsqueeze", kinds.kind(k), last) for k in FEATURE_KINDS]
    cube = writer.op("Concat", *parts, axis=2)
    flat = writer.op("Reshape", cube, writer.ints(0, -1))
    return writer.op("Gather", flat, columns, axis=1)

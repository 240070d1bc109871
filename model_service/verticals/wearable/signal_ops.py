"""Operations on signals, twice: on arrays, and as operators of a graph.

What is computed from a window is written once, against ``SignalOps``. Signals have shape (B, n): a batch of
windows, samples or beats of each. Truth values are 1 and 0.
"""

from __future__ import annotations

import math
from typing import Protocol, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from model_service.models.graph import FLOAT, GraphWriter

Array = NDArray[np.float64]
T = TypeVar("T")

LONG = 40
"""Samples from which a mean is written as a running sum."""
_END = 2**31
LARGEST = float(np.finfo(np.float32).max)


class SignalOps(Protocol[T]):
    """Elementwise operators broadcast; the others say their shapes."""

    def number(self, value: float | Array) -> T:
        """A constant: a number, or an array."""
        ...

    def two(self, kind: str, a: T, b: T) -> T:
        """``Add``, ``Sub``, ``Mul``, ``Div``, ``Max``, ``Min``, ``Greater``, ``GreaterOrEqual``."""
        ...

    def one(self, kind: str, a: T) -> T:
        """``Abs``, ``Sqrt``, ``Log``, ``Sigmoid``."""
        ...

    def finite(self, a: T) -> T:
        """Whether each sample is there: neither NaN nor infinite."""
        ...

    def where(self, condition: T, a: T, b: T) -> T:
        """A where the condition is not 0, else b."""
        ...

    def convolved(self, a: T, kernel: Array) -> T:
        """(B, n) with a symmetric kernel of odd length, the signal's ends repeated outside; (B, n)."""
        ...

    def largest_near(self, a: T, reach: int) -> T:
        """The largest of each sample and the ``reach`` samples on both sides; (B, n)."""
        ...

    def largest_of_parts(self, a: T, parts: int) -> T:
        """The largest of each of so many equal parts; (B, parts)."""
        ...

    def descending(self, a: T, count: int) -> T:
        """The ``count`` largest, sorted; (B, count)."""
        ...

    def part(self, a: T, first: int, end: int, step: int = 1) -> T:
        """Columns ``first`` to below ``end``."""
        ...

    def total(self, a: T) -> T:
        """Sum of each row; (B, 1)."""
        ...

    def product(self, a: T, matrix: Array) -> T:
        """(B, n) times (n, m); (B, m)."""
        ...


class ArrayOps:
    """On arrays, in float64."""

    def number(self, value: float | Array) -> Array:
        """See ``SignalOps``."""
        return np.asarray(value, dtype=np.float64)

    def two(self, kind: str, a: Array, b: Array) -> Array:
        """See ``SignalOps``."""
        found = {
            "Add": np.add,
            "Sub": np.subtract,
            "Mul": np.multiply,
            "Div": np.divide,
            "Max": np.maximum,
            "Min": np.minimum,
            "Greater": np.greater,
            "GreaterOrEqual": np.greater_equal,
        }[kind]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(found(a, b), dtype=np.float64)

    def one(self, kind: str, a: Array) -> Array:
        """See ``SignalOps``."""
        with np.errstate(over="ignore", divide="ignore"):
            if kind == "Sigmoid":
                return np.asarray(1.0 / (1.0 + np.exp(-a)))
            return np.asarray({"Abs": np.abs, "Sqrt": np.sqrt, "Log": np.log}[kind](a))

    def finite(self, a: Array) -> Array:
        """See ``SignalOps``."""
        return np.isfinite(a).astype(np.float64)

    def where(self, condition: Array, a: Array, b: Array) -> Array:
        """See ``SignalOps``."""
        return np.asarray(np.where(condition > 0, a, b))

    def convolved(self, a: Array, kernel: Array) -> Array:
        """See ``SignalOps``."""
        reach = len(kernel) // 2
        padded = np.pad(a, ((0, 0), (reach, reach)), mode="edge")
        if (kernel == kernel[0]).all():  # a running sum: long means cost no more than short ones
            sums = np.cumsum(np.pad(padded, ((0, 0), (1, 0))), axis=1)
            return np.asarray((sums[:, len(kernel) :] - sums[:, : -len(kernel)]) * kernel[0])
        return np.asarray(sliding_window_view(padded, len(kernel), axis=1) @ kernel)

    def largest_near(self, a: Array, reach: int) -> Array:
        """See ``SignalOps``."""
        width = 2 * reach + 1
        found = np.pad(a, ((0, 0), (reach, reach)), constant_values=-np.inf)
        have = 1
        while have < width:
            step = min(have, width - have)
            found = np.maximum(found[:, :-step], found[:, step:])
            have += step
        return found

    def largest_of_parts(self, a: Array, parts: int) -> Array:
        """See ``SignalOps``."""
        return np.asarray(a.reshape(len(a), parts, -1).max(axis=2))

    def descending(self, a: Array, count: int) -> Array:
        """See ``SignalOps``."""
        return np.asarray(-np.sort(-a, axis=1)[:, :count])

    def part(self, a: Array, first: int, end: int, step: int = 1) -> Array:
        """See ``SignalOps``."""
        return a[:, first:end:step]

    def total(self, a: Array) -> Array:
        """See ``SignalOps``."""
        return np.asarray(a.sum(axis=1, keepdims=True))

    def product(self, a: Array, matrix: Array) -> Array:
        """See ``SignalOps``."""
        return np.asarray(a @ matrix)


class GraphOps:
    """As operators of a graph, in float32; tensors by name.

    Args:
        writer: Of the graph.
    """

    def __init__(self, writer: GraphWriter) -> None:
        self._g = writer

    def number(self, value: float | Array) -> str:
        """See ``SignalOps``."""
        return self._g.constant(np.asarray(value, dtype=np.float32))

    def two(self, kind: str, a: str, b: str) -> str:
        """See ``SignalOps``."""
        found = self._g.op(kind, a, b)
        return self._g.op("Cast", found, to=FLOAT) if kind.startswith("Greater") else found

    def one(self, kind: str, a: str) -> str:
        """See ``SignalOps``."""
        return self._g.op(kind, a)

    def finite(self, a: str) -> str:
        """See ``SignalOps``."""
        # NaN compares false, so one comparison finds NaN and both infinities.
        there = self._g.op("LessOrEqual", self._g.op("Abs", a), self._g.floats(LARGEST))
        return self._g.op("Cast", there, to=FLOAT)

    def where(self, condition: str, a: str, b: str) -> str:
        """See ``SignalOps``."""
        return self._g.op("Where", self._g.op("Greater", condition, self._g.floats(0.0)), a, b)

    def convolved(self, a: str, kernel: Array) -> str:
        """See ``SignalOps``."""
        reach = len(kernel) // 2
        if len(kernel) >= LONG and (kernel == kernel[0]).all():
            return self._mean_around(a, len(kernel), float(kernel[0]))
        weights = self._g.constant(kernel.astype(np.float32).reshape(1, 1, -1))
        padded = self._g.op("Pad", self._line(a), self._g.ints(0, 0, reach, 0, 0, reach), mode="edge")
        return self._flat(self._g.op("Conv", padded, weights))

    def largest_near(self, a: str, reach: int) -> str:
        """See ``SignalOps``."""
        found = self._g.op("MaxPool", self._line(a), kernel_shape=[2 * reach + 1], pads=[reach, reach])
        return self._flat(found)

    def largest_of_parts(self, a: str, parts: int) -> str:
        """See ``SignalOps``."""
        shaped = self._g.op("Reshape", a, self._g.ints(0, parts, -1))
        return self._g.op("ReduceMax", shaped, axes=[2], keepdims=0)

    def descending(self, a: str, count: int) -> str:
        """See ``SignalOps``."""
        return self._g.largest(a, count)

    def part(self, a: str, first: int, end: int, step: int = 1) -> str:
        """See ``SignalOps``."""
        return self._g.op("Slice", a, *(self._g.ints(n) for n in (first, end, 1, step)))

    def total(self, a: str) -> str:
        """See ``SignalOps``."""
        return self._g.op("ReduceSum", a, self._g.ints(1), keepdims=1)

    def product(self, a: str, matrix: Array) -> str:
        """See ``SignalOps``."""
        return self._g.op("MatMul", a, self._g.constant(matrix.astype(np.float32)))

    def _mean_around(self, a: str, length: int, weight: float) -> str:
        """A long mean by a running sum: a convolution would copy the window once for each of its samples."""
        reach, g = length // 2, self._g
        padded = g.op("Pad", a, g.ints(0, reach, 0, reach), mode="edge")
        sums = g.op("CumSum", g.op("Pad", padded, g.ints(0, 1, 0, 0)), g.integer(1))
        off = g.op("Sub", self.part(sums, length, _END), self.part(sums, 0, -length))
        return g.op("Mul", off, self.number(weight))

    def _line(self, a: str) -> str:
        return self._g.op("Unsqueeze", a, self._g.ints(1))

    def _flat(self, a: str) -> str:
        return self._g.op("Squeeze", a, self._g.ints(1))


def add(ops: SignalOps[T], first: T, *others: T) -> T:
    """The sum of all."""
    for other in others:
        first = ops.two("Add", first, other)
    return first


def times(ops: SignalOps[T], first: T, *others: T) -> T:
    """The product of all."""
    for other in others:
        first = ops.two("Mul", first, other)
    return first


def at_most(ops: SignalOps[T], a: T, high: float) -> T:
    """No value above ``high``."""
    return ops.two("Min", a, ops.number(high))


def at_least(ops: SignalOps[T], a: T, low: float) -> T:
    """No value below ``low``."""
    return ops.two("Max", a, ops.number(low))


def above(ops: SignalOps[T], a: T, middle: float, width: float) -> T:
    """A soft step from 0 to 1: 0.5 at ``middle``, 0.73 one ``width`` above it."""
    off = ops.two("Sub", a, ops.number(middle))
    return ops.one("Sigmoid", ops.two("Div", off, ops.number(width)))


def below(ops: SignalOps[T], a: T, middle: float, width: float) -> T:
    """The soft step from 1 to 0."""
    return above(ops, a, middle, -width)


def ranked(ops: SignalOps[T], values: T, valid: T, width: int, share: float = 0.5) -> T:
    """The valid value of each row (B, ``width``) that this share of the others exceeds; 0: there is none.

    By default the median, the upper one of two. Values are positive; the share is a multiple of 1/64, which
    both kinds of operations hold exactly.
    """
    ordered = ops.descending(ops.where(valid, values, ops.number(-1.0)), width)
    count = ops.total(valid)
    at = ops.two("Mul", ops.two("Sub", count, ops.number(1.0)), ops.number(share))
    places = ops.number(np.arange(float(width)).reshape(1, -1))
    chosen = times(
        ops,
        ops.two("GreaterOrEqual", at, places),
        ops.two("Greater", places, ops.two("Sub", at, ops.number(1.0))),
        ops.two("Greater", count, ops.number(0.0)),
    )
    return ops.total(ops.two("Mul", chosen, ordered))


def share_at(count: int, share: float) -> int:
    """Place of a quantile among so many values in descending order."""
    return min(count - 1, math.floor((1.0 - share) * count))

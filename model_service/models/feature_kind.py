"""Feature kinds of installed packages: what a kind is, and how it is found. See docs/extending.md."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DatasetError
from schemas.feature_set import FeatureSpec

if TYPE_CHECKING:  # heavy: features are computed without onnx
    from model_service.models.graph import GraphWriter

GROUP = "edgeloop.features"
"""Group of entry points; the entry point's name is the kind's name in profiles."""

Array = NDArray[np.float64]


class FeatureKind(ABC):
    """A kind of feature, computed from the windows of one channel or of several.

    It is written into the graph: a device needs no code of it. The entry point names the class, which is made
    without arguments.

    Attributes:
        meaning: What it is, for people.
        least_channels, most_channels: How many channels it takes.
        logged: Whether its values are positive, and closer to normal as logarithms: a scale.
        scales: Whether it carries its one channel's unit, so that a sensor's gain or offset moves it.
    """

    meaning: str = ""
    least_channels: int = 1
    most_channels: int = 1
    logged: bool = False
    scales: bool = False

    def unit(self, units: Sequence[str]) -> str:
        """Its unit, by the channels' units; by default that of the first."""
        return units[0]

    def edges(self, ranges: Sequence[tuple[float, float]]) -> Sequence[float]:
        """Ascending inner bin edges, by the channels' usual ranges; empty: quantiles of healthy windows."""
        del ranges
        return ()

    @abstractmethod
    def compute(self, windows: Array) -> Array:
        """The values, in numpy: models are trained on these.

        Args:
            windows: Shape (n, W, C), its channels in the profile's order of naming; NaN is missing.

        Returns:
            Shape (n,); NaN where there is none.
        """

    @abstractmethod
    def write(self, writer: GraphWriter, window: str) -> str:
        """Adds the same to a graph, in ONNX operators.

        Args:
            writer: Of the graph.
            window: Name of the (B, W, C) float tensor; NaN and infinities are missing.

        Returns:
            Name of the (B,) float tensor.
        """

    def write_each(self, writer: GraphWriter, windows: str) -> str | None:
        """Adds the same for each of several channels at once, where a kind of one channel can do so.

        Args:
            writer: Of the graph.
            windows: Name of the (B, W, n) float tensor, a channel each.

        Returns:
            Name of the (B, n) float tensor; None: it cannot, and ``write`` is called for each.
        """
        del writer, windows
        return None


def installed_kinds() -> list[str]:
    """Names of the kinds that are installed here."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def kind_named(name: str) -> FeatureKind:
    """The kind of an installed package.

    Raises:
        DatasetError: None is installed here, or it cannot be loaded.
    """
    return _loaded(name, tuple(sys.path))


@lru_cache(maxsize=64)
def _loaded(name: str, path: tuple[str, ...]) -> FeatureKind:
    """The kind as it is found on a search path; searched once, for features are computed many times."""
    del path
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if len(found) != 1:
        there = ", ".join(installed_kinds()) or "none"
        what = "is not installed here" if not found else f"is that of {len(found)} installed packages"
        raise DatasetError(
            f"the feature kind '{name}' {what} (there: {there}): install the package that has it among its "
            f"entry points {GROUP} where the model service runs, or take it out of features.also"
        )
    try:
        kind = found[0].load()()
    except Exception as exc:  # the code is a user's: whatever it raises is the reason
        raise DatasetError(
            f"the feature kind '{name}' cannot be loaded: {type(exc).__name__}: {exc}"
        ) from exc
    if not isinstance(kind, FeatureKind):
        raise DatasetError(f"the feature kind '{name}' is no {FeatureKind.__module__}.{FeatureKind.__name__}")
    return kind


def lacking(specs: Sequence[FeatureSpec]) -> list[str]:
    """Why columns that are of packages cannot be computed here; empty: they can."""
    reasons = {}
    for spec in specs:
        if spec.sources and not spec.built_in:
            try:
                kind_of(spec)
            except DatasetError as exc:
                reasons[str(exc)] = spec.kind
    return list(reasons)


def kind_of(spec: FeatureSpec) -> FeatureKind:
    """The kind behind a column that is of a package.

    Raises:
        DatasetError: It is not installed here, or takes another number of channels.
    """
    kind, given = kind_named(spec.kind), len(spec.sources)
    if not kind.least_channels <= given <= kind.most_channels:
        wanted = f"{kind.least_channels} to {kind.most_channels}"
        raise DatasetError(
            f"the feature kind '{spec.kind}' takes {wanted} channels, and {spec.name} has {given}"
        )
    return kind


def computed(spec: FeatureSpec, windows: Array) -> Array:
    """Values of a package's kind for windows (n, W, C) of its channels, shape (n,).

    Raises:
        DatasetError: It raised, or gave another shape or infinities.
    """
    kind = kind_of(spec)
    try:
        values = np.asarray(kind.compute(windows), dtype=np.float64)
    except Exception as exc:  # the code is a user's: whatever it raises is the reason
        raise DatasetError(f"the feature kind '{spec.kind}': {type(exc).__name__}: {exc}") from exc
    if values.shape != (len(windows),) or np.isinf(values).any():
        raise DatasetError(
            f"the feature kind '{spec.kind}' gives shape {values.shape} for {len(windows)} windows, or "
            "infinities: it must give one number a window, NaN where there is none"
        )
    return values


def written(spec: FeatureSpec, writer: GraphWriter, window: str) -> str:
    """Name of the (B, 1) tensor of a package's kind, added to a graph.

    Raises:
        DatasetError: It raised.
    """
    kind = kind_of(spec)
    try:
        found = kind.write(writer, window)
    except Exception as exc:  # the code is a user's: whatever it raises is the reason
        raise DatasetError(f"the feature kind '{spec.kind}': {type(exc).__name__}: {exc}") from exc
    return writer.op("Reshape", found, writer.ints(-1, 1))


def written_each(specs: Sequence[FeatureSpec], writer: GraphWriter, windows: str) -> str | None:
    """Name of the (B, n) tensor of a package's kind of n channels; None: it is to be written one by one.

    Raises:
        DatasetError: It raised.
    """
    kinds = [kind_of(spec) for spec in specs]
    try:
        return kinds[0].write_each(writer, windows)
    except Exception as exc:  # the code is a user's: whatever it raises is the reason
        raise DatasetError(f"the feature kind '{specs[0].kind}': {type(exc).__name__}: {exc}") from exc

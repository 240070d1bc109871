"""What a bundle is made of: a model of features, in numpy, as parameters and as operators of a graph."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from model_service.models.graph import GraphWriter
from schemas.errors import DatasetError
from schemas.manifest import Calibration
from schemas.output_names import PRIMARY
from schemas.profile import Profile

Array = NDArray[np.float64]


class ScoreWriter(Protocol):
    """Whatever can be written behind the feature graph."""

    def write(self, writer: GraphWriter, features: str) -> str:
        """Adds it to a graph: (B, F) features to (B,) score; returns the score's name."""
        ...


class ScoresRows(Protocol):
    """Whatever scores rows of features in numpy."""

    def score(self, features: Array) -> Array:
        """Score in [0, 1] of each row of (n, F); NaN where a feature is missing."""
        ...


@runtime_checkable
class GivesOutputs(Protocol):
    """A model with further outputs, those that the profile names, in its order."""

    def further(self, features: Array) -> Array:
        """Further outputs of each row of (n, F), shape (n, O), in [0, 1]; NaN: none."""
        ...

    def write_all(self, writer: GraphWriter, features: str) -> tuple[str, ...]:
        """As ``ScoreWriter.write``; behind the score come the names of the further outputs, each (B,)."""
        ...


@runtime_checkable
class ReadsHistory(GivesOutputs, Protocol):
    """A model some of whose outputs are made of the graph's input ``history``; its score is not.

    ``further`` computes with ``golden_history``: rows of a lake have no hours before them.
    """

    @property
    def history_sums(self) -> dict[str, tuple[str, ...]]:
        """Features by the name of their sum."""
        ...


class LearntModel(ScoreWriter, ScoresRows, Protocol):
    """A model of features."""

    @property
    def calibration(self) -> Calibration:
        """From distance to score."""
        ...

    def parameters(self) -> dict[str, tuple[float, ...]]:
        """Everything but the calibration, as a manifest holds it."""
        ...


def sums_read(model: object) -> dict[str, tuple[str, ...]]:
    """Sums of features whose hours before a model reads; empty: none."""
    return model.history_sums if isinstance(model, ReadsHistory) else {}


def score_names(profile: Profile) -> tuple[str, ...]:
    """Names of a graph's scores: ``score``, and one for each further output."""
    return (PRIMARY, *profile.model.output_columns)


def write_scores(profile: Profile, model: ScoreWriter, writer: GraphWriter, features: str) -> tuple[str, ...]:
    """Adds a model to a graph; returns its scores in the order of ``score_names``.

    Raises:
        DatasetError: The profile names outputs, and the model gives none.
    """
    if not profile.model.outputs:
        return (model.write(writer, features),)
    return with_outputs(model, profile).write_all(writer, features)


def with_outputs(model: object, profile: Profile) -> GivesOutputs:
    """The model, where it gives the further outputs that a profile names.

    Raises:
        DatasetError: It gives none.
    """
    if not isinstance(model, GivesOutputs):
        names = ", ".join(profile.model.outputs)
        raise DatasetError(
            f"profile {profile.name} names the outputs {names}, which detectors of ours do not give: name a "
            "trainer of your own in [training], or import a model"
        )
    return model

"""A feature kind over two channels, and a gate, of one's own."""

import numpy as np

from model_service.gates.verdict import GateVerdict
from model_service.models.feature_kind import FeatureKind
from model_service.models.score_stage import ScoreStage
from model_service.models.training_rows import feature_matrix, part_of

LARGEST = 3.4e38
MOST = 0.3


class Imbalance(FeatureKind):
    meaning = "difference of two channels' means over the sum of their sizes"
    least_channels = most_channels = 2

    def unit(self, units):
        return "1"

    def edges(self, ranges):
        return np.linspace(-0.9, 0.9, 10)

    def compute(self, windows):
        valid = np.isfinite(windows)
        count = np.where(valid.any(axis=1), valid.sum(axis=1), np.nan)
        first, second = (np.where(valid, windows, 0.0).sum(axis=1) / count).T
        size = np.abs(first) + np.abs(second)
        return np.where(size == 0, 0.0, (first - second) / np.where(size == 0, 1.0, size))

    def write(self, writer, window):
        valid = writer.op("LessOrEqual", writer.op("Abs", window), writer.floats(LARGEST))
        filled = writer.op("Where", valid, window, writer.floats(0.0))
        count = writer.op("ReduceSum", writer.op("Cast", valid, to=1), writer.ints(1), keepdims=0)
        means = writer.op("Div", writer.op("ReduceSum", filled, writer.ints(1), keepdims=0), count)
        first = writer.op("Gather", means, writer.integer(0), axis=1)
        second = writer.op("Gather", means, writer.integer(1), axis=1)
        size = writer.op("Add", writer.op("Abs", first), writer.op("Abs", second))
        ratio = writer.op("Div", writer.op("Sub", first, second), size)
        nothing = writer.op("Equal", size, writer.floats(0.0))
        return writer.op("Where", nothing, writer.floats(0.0), ratio)


class Quiet:
    """Rows of the holdout score low on average: whoever looks at the score sees no restless curve."""

    def judge(self, inputs):
        names, manifest = inputs.profile.feature_names, inputs.candidate.manifest
        rows = feature_matrix(part_of(inputs.rows, "holdout"), names)
        score = ScoreStage(inputs.candidate.model, len(names), manifest.version).score
        mean = float(np.nanmean(score(rows)))
        says = f"rows of the holdout score {mean:.2f} on average; at most {MOST}"
        return GateVerdict("quiet", mean <= MOST, mean, MOST, detail={"says": says})

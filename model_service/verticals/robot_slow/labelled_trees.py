"""A classifier of labelled windows as an ONNX file for `edgeloop model import`: a score for each kind.

The graph computes what the trees see from the raw window: the samples themselves, moments of each channel,
and how fast the arm moves in all. The fit runs the same graph, so that there is one definition of it. A kind
of fault has trees of its own (Geurts, Ernst and Wehenkel, 2006: extremely randomised trees). Its probability
is bent so that 0.5 is the threshold which held best on blocks of the recording that its trees had not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import ExtraTreesClassifier

from model_service.models.graph import IR_VERSION, ML_DOMAIN, ML_OPSET, OPSET
from model_service.models.runtime import OrtGraph

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

TREES, LEAST_IN_LEAF, MOST_LEAVES, FEATURE_SHARE = 100, 3, 128, 0.3
BLOCKS = 6
"""Blocks of consecutive windows, each scored by trees that saw none of it."""
THRESHOLDS = np.round(np.arange(0.2, 0.81, 0.05), 2)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledTrees:
    """A fitted file.

    Attributes:
        data: ONNX: input ``window`` (n, W, C), outputs ``score`` and ``score_<kind>``, each of shape (n,).
        thresholds: Probability from which a kind's score is 0.5 or more.
        unseen: By kind, the score of each window by trees that had not seen its block, shape (n,).
    """

    data: bytes
    thresholds: Mapping[str, float]
    unseen: Mapping[str, Array]


def fit_labelled_trees(
    windows: NDArray[np.floating],
    labels: Mapping[str, Flags],
    channels: Sequence[str],
    judged: Sequence[str],
    moving: Sequence[str],
    quality: Mapping[str, Callable[[Flags], float]] | None = None,
    seed: int = 0,
) -> LabelledTrees:
    """Fits trees for each kind of fault.

    Args:
        windows: Shape (n, W, C), in the order of time; what is not finite is missing.
        labels: By kind, windows whose newest sample is labelled, shape (n,).
        channels: Names of the C channels.
        judged: Those that the trees see.
        moving: Those whose sizes are summed: speeds.
        quality: By kind, how good it is to call these windows faulty, shape (n,); F1 over windows by default.
        seed: Of the trees.

    Raises:
        ValueError: A kind has no labelled window in one half or the other of the recording.
    """
    front = _front(windows.shape[1], channels, judged, moving)
    rows = _rows(front, _filled(windows))
    blocks = np.arange(len(rows)) * BLOCKS // len(rows)
    models, thresholds, unseen = {}, {}, {}
    for kind, flags in labels.items():
        if not (flags[blocks < BLOCKS // 2].any() and flags[blocks >= BLOCKS // 2].any()):
            raise ValueError(f"{kind}: labelled windows are needed in both halves of the recording")
        given = _out_of_block(rows, flags, blocks, windows.shape[1], seed)
        judge = (quality or {}).get(kind) or partial(window_f1, flags)
        thresholds[kind] = best_threshold(given, judge)
        unseen[kind] = bent(given, thresholds[kind])
        models[kind] = _fitted(rows, flags, seed)
    return LabelledTrees(_whole(front, models, thresholds, rows.shape[1]), thresholds, unseen)


def window_f1(labelled: Flags, said: Flags) -> float:
    """F1 over windows."""
    return float(2 * (said & labelled).sum() / max(said.sum() + labelled.sum(), 1))


def best_threshold(probability: Array, quality: Callable[[Flags], float]) -> float:
    """The threshold of the highest quality; of equal ones the middle.

    >>> probability = np.array([0.1, 0.3, 0.62, 0.9])
    >>> best_threshold(probability, lambda said: window_f1(probability > 0.5, said))
    0.5
    """
    found = [quality(probability >= threshold) for threshold in THRESHOLDS]
    best = np.flatnonzero(np.isclose(found, max(found)))
    return float(THRESHOLDS[best[len(best) // 2]])


def bent(probability: Array, threshold: float) -> Array:
    """The score: 0 at 0, 0.5 at the threshold, 1 at 1, straight between."""
    above, below = np.maximum(probability - threshold, 0), np.maximum(threshold - probability, 0)
    return np.asarray(0.5 + 0.5 * above / (1 - threshold) - 0.5 * below / threshold)


def _out_of_block(rows: Array, flags: Flags, blocks: NDArray[np.int_], window: int, seed: int) -> Array:
    """Probabilities of each block by trees fitted to the others, less the windows that overlap it."""
    found = np.zeros(len(rows))
    for block in range(BLOCKS):
        mine = np.flatnonzero(blocks == block)
        apart = np.ones(len(rows), dtype=bool)
        apart[max(mine[0] - window, 0) : mine[-1] + window + 1] = False
        found[mine] = _fitted(rows[apart], flags[apart], seed).predict_proba(rows[mine])[:, 1]
    return found


def _fitted(rows: Array, flags: Flags, seed: int) -> ExtraTreesClassifier:
    trees = ExtraTreesClassifier(
        TREES,
        min_samples_leaf=LEAST_IN_LEAF,
        max_leaf_nodes=MOST_LEAVES,
        max_features=FEATURE_SHARE,
        class_weight="balanced",
        random_state=seed,
    )
    return trees.fit(rows, flags)


def _filled(windows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Missing samples replaced by their channel's mean in the window, as an import does; 0 without any."""
    finite = np.isfinite(windows)
    total = np.where(finite, windows, 0.0).sum(axis=1, keepdims=True)
    means = total / np.maximum(finite.sum(axis=1, keepdims=True), 1)
    return np.where(finite, windows, means).astype(np.float32)


def _front(window: int, channels: Sequence[str], judged: Sequence[str], moving: Sequence[str]) -> Any:
    """The graph from ``window`` (n, W, C) to ``rows`` (n, F)."""
    constants = {
        "judged": np.array([channels.index(name) for name in judged], dtype=np.int64),
        "moving": np.array([channels.index(name) for name in moving], dtype=np.int64),
        "flat": np.array([0, window * len(judged)], dtype=np.int64),
        "last": np.array([2], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["window", "judged"], ["seen"], axis=2),
        helper.make_node("Gather", ["window", "moving"], ["moved"], axis=2),
        helper.make_node("Reshape", ["seen", "flat"], ["samples"]),
        helper.make_node("ReduceMean", ["seen"], ["middle"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["seen", "middle"], ["off"]),
        helper.make_node("Mul", ["off", "off"], ["squared"]),
        helper.make_node("ReduceMean", ["squared"], ["variance"], axes=[1], keepdims=0),
        helper.make_node("Sqrt", ["variance"], ["spread"]),
        helper.make_node("ReduceMean", ["seen"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Abs", ["seen"], ["sizes"]),
        helper.make_node("ReduceMax", ["sizes"], ["largest"], axes=[1], keepdims=0),
        helper.make_node("Abs", ["moved"], ["speeds"]),
        helper.make_node("ReduceSum", ["speeds", "last"], ["motion"], keepdims=0),
        helper.make_node("Concat", ["samples", "mean", "spread", "largest", "motion"], ["rows"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info("window", TensorProto.FLOAT, [None, window, len(channels)])]
    width = window * len(judged) + 3 * len(judged) + window
    outputs = [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, width])]
    initial = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return helper.make_graph(nodes, "labelled_trees", inputs, outputs, initial)


def _rows(front: Any, windows: NDArray[np.float32]) -> Array:
    session = OrtGraph(_bytes(front), "of what the trees see")
    return np.asarray(session.run(("rows",), {"window": windows})[0], dtype=np.float64)


def _whole(
    front: Any, models: Mapping[str, ExtraTreesClassifier], thresholds: Mapping[str, float], width: int
) -> bytes:
    nodes, initial, names = list(front.node), list(front.initializer), []
    for kind, model in models.items():
        trees = convert_sklearn(
            model,
            name=kind,
            initial_types=[("rows", FloatTensorType([None, width]))],
            options={id(model): {"zipmap": False}},
            target_opset={"": OPSET, ML_DOMAIN: ML_OPSET},
        )
        added = onnx.compose.add_prefix(trees, f"{kind}/").graph
        nodes += [helper.make_node("Identity", ["rows"], [f"{kind}/rows"]), *added.node]
        initial += [*added.initializer, *_constants(kind, thresholds[kind])]
        nodes += _bending(kind, added.output[1].name)
        names.append(f"score_{kind}")
    nodes.append(helper.make_node("Max", names, ["score"]))
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None]) for n in ("score", *names)]
    return _bytes(helper.make_graph(nodes, "labelled_trees", list(front.input), outputs, initial))


def _constants(kind: str, threshold: float) -> list[Any]:
    values = {
        "threshold": np.float32(threshold),
        "rise": np.float32(0.5 / (1 - threshold)),
        "fall": np.float32(0.5 / threshold),
        "half": np.float32(0.5),
        "low": np.float32(0.0),
        "high": np.float32(1.0),
        "second": np.array(1, dtype=np.int64),
    }
    return [numpy_helper.from_array(np.asarray(v), f"{kind}/at_{name}") for name, v in values.items()]


def _bending(kind: str, probabilities: str) -> list[Any]:
    """``bent`` as nodes, from the trees' (n, 2) to the kind's score (n,)."""

    def node(what: str, given: Sequence[str], made: str, **attributes: Any) -> Any:
        named = [g if g == probabilities else f"{kind}/at_{g}" for g in given]
        return helper.make_node(what, named, [f"{kind}/at_{made}"], **attributes)

    clip = [f"{kind}/at_{name}" for name in ("raw", "low", "high")]
    return [
        node("Gather", [probabilities, "second"], "p", axis=1),
        node("Sub", ["p", "threshold"], "over"),
        node("Neg", ["over"], "under"),
        node("Relu", ["over"], "above"),
        node("Relu", ["under"], "below"),
        node("Mul", ["above", "rise"], "gained"),
        node("Mul", ["below", "fall"], "lost"),
        node("Add", ["half", "gained"], "most"),
        node("Sub", ["most", "lost"], "raw"),
        helper.make_node("Clip", clip, [f"score_{kind}"]),
    ]


def _bytes(graph: Any) -> bytes:
    sets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML_DOMAIN, ML_OPSET)]
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=sets)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))

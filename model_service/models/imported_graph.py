"""A graph that somebody else made: checked, and written into a graph of ours. Pure.

It takes rows of features (n, F) or raw windows (n, W, C), one float tensor, and gives one number a window.
Everything that a device could not run is refused here, with what to do about it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, version_converter

from model_service.models.graph import FLOAT, IR_VERSION, ML_DOMAIN, ML_OPSET, OPSET, GraphWriter
from model_service.models.graph_parts import graphs_of, tensors_of
from model_service.models.runtime import OrtGraph
from model_service.models.score_stage import parsed
from schemas.errors import BundleError
from schemas.profile import Profile
from schemas.score_range import ROUNDING

Reads = Literal["features", "window"]

MAX_BYTES = 8 * 1024**2
_EXTERNAL = 1  # TensorProto.DataLocation
_FLOATS = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_NESTED = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_PREFIX = "given/"


@dataclass(frozen=True, slots=True, eq=False)
class ImportedGraph:
    """A checked graph.

    Attributes:
        model: ``ModelProto`` of our operator sets, its tensors renamed.
        source, output: Names of its input and output there.
        reads: What its input is.
        double: Whether it computes in float64.
        data: The file as it was given.
        given_source, given_output: The names in the file.
        further: Names of the further outputs that the profile names, in its order, as in the file.
    """

    model: Any
    source: str
    output: str
    reads: Reads
    double: bool
    data: bytes
    given_source: str
    given_output: str
    further: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.data).hexdigest()

    def write(self, writer: GraphWriter, tensor: str) -> str:
        """Adds the graph to another; returns the name of its number a window, shape (B,)."""
        return self.write_all(writer, tensor)[0]

    def write_all(self, writer: GraphWriter, tensor: str) -> tuple[str, ...]:
        """As ``write``; behind its number come the further outputs, each of shape (B,)."""
        kind = TensorProto.DOUBLE if self.double else FLOAT
        writer.op("Cast", tensor, output=self.source, to=kind)
        writer.adopt(self.model.graph)
        names = (self.output, *(_PREFIX + name for name in self.further))
        return tuple(writer.op("Reshape", writer.op("Cast", n, to=FLOAT), writer.ints(-1)) for n in names)

    def runner(self) -> ImportedRunner:
        """The file as it was given, loaded: a computation that does not use our graph."""
        return ImportedRunner(self)


class ImportedRunner:
    """Runs the given file.

    Raises:
        BundleError: onnxruntime cannot load it.
    """

    def __init__(self, graph: ImportedGraph) -> None:
        self._graph = graph
        self._session = OrtGraph(graph.data, "of the file")

    def run(self, given: NDArray[np.floating]) -> NDArray[np.float64]:
        """One number for each of (n, F) or (n, W, C).

        Raises:
            BundleError: It does not take them, or gives another shape.
        """
        return self.run_all(given)[:, 0]

    def run_all(self, given: NDArray[np.floating]) -> NDArray[np.float64]:
        """The number, and the further outputs behind it, for each of (n, F) or (n, W, C), shape (n, 1 + O).

        Raises:
            BundleError: As ``run``; or a further output lies outside [0, 1], and is not NaN.
        """
        graph = self._graph
        kind = np.float64 if graph.double else np.float32
        inputs = {graph.given_source: np.asarray(given, dtype=np.float32).astype(kind)}
        names = (graph.given_output, *graph.further)
        values = [np.asarray(f, dtype=np.float64) for f in self._session.run(names, inputs)]
        for name, found in zip(names, values, strict=True):
            if found.size != len(given):
                raise BundleError(
                    f"its output '{name}' has the shape {found.shape} for {len(given)} windows: it must give "
                    "one number a window. Name another one with --score-output, or export one that does"
                )
        every = np.stack([found.reshape(-1) for found in values], axis=1)
        further = every[:, 1:]
        if further.size and np.nanmax(np.maximum(further - 1.0, -further), initial=0.0) > ROUNDING:
            low, high = np.nanmin(further), np.nanmax(further)
            raise BundleError(
                f"its outputs {', '.join(graph.further)} reach from {low:.4g} to {high:.4g}: each lies "
                "between 0 and 1, or is NaN: end the graph with a Sigmoid or a Clip"
            )
        every[:, 1:] = np.clip(further, 0.0, 1.0)
        return every


def imported_graph(data: bytes, profile: Profile, output: str = "") -> ImportedGraph:
    """The graph of an ONNX file, for a profile.

    Args:
        data: The file.
        profile: Gives features, channels and window.
        output: Name of the output to take; empty: the only one, or ``score``.

    Raises:
        BundleError: A device could not run it, or it does not fit; the message says what to do.
    """
    if len(data) > MAX_BYTES:
        raise BundleError(f"the file has {len(data):,} bytes: {MAX_BYTES:,} at most. Export a smaller model")
    model = parsed(data, "of the file")
    if not model.graph.node:
        raise BundleError("the file holds no ONNX graph")
    _refuse_operators(model)
    source, reads, double = _input(model, profile)
    further = profile.model.output_columns
    chosen = _output(model, output, further)
    converted = _converted(model)
    renamed = onnx.compose.add_prefix(converted, _PREFIX)
    names = (_PREFIX + source, _PREFIX + chosen)
    return ImportedGraph(renamed, *names, reads, double, data, source, chosen, further)


def _refuse_operators(model: Any) -> None:
    graphs = list(graphs_of(model.graph))
    nodes = [node for graph in graphs for node in graph.node]
    known = ("", "ai.onnx", ML_DOMAIN)
    wrong = sorted({f"{n.domain}.{n.op_type}"[:60] for n in nodes if n.domain not in known})
    if wrong or model.functions:
        named = ", ".join(wrong) or "functions of its own"
        raise BundleError(f"it needs {named}: a device has ONNX's own operators only. Export without them")
    if found := sorted({n.op_type for n in nodes} & _NESTED):
        raise BundleError(f"it branches or loops ({', '.join(found)}): export it without control flow")
    if found := sorted({n.op_type for n in nodes} & _RANDOM):
        raise BundleError(f"it draws random numbers ({', '.join(found)}): a score must be repeatable")
    if any(t.data_location == _EXTERNAL or t.external_data for t in tensors_of(graphs)):
        raise BundleError("its weights are in another file: export it with all of them inside")
    sets = {("" if o.domain == "ai.onnx" else o.domain): int(o.version) for o in model.opset_import}
    for domain, highest in (("", OPSET), (ML_DOMAIN, ML_OPSET)):
        if sets.get(domain, 0) > highest:
            name = domain or "ai.onnx"
            raise BundleError(
                f"it uses operator set {sets[domain]} of {name}; devices know {highest} at most. Export it "
                f"with operator set {highest}"
            )


def _input(model: Any, profile: Profile) -> tuple[str, Reads, bool]:
    """Name of the input, what it is, and whether it is float64."""
    constants = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1:
        named = ", ".join(i.name for i in inputs) or "none"
        raise BundleError(f"it has the inputs {named}: it must have one, features or the raw window")
    kind = inputs[0].type.tensor_type
    if kind.elem_type not in _FLOATS:
        raise BundleError(f"its input '{inputs[0].name}' is no tensor of floats: export it with float32")
    dims = [d.dim_value if d.HasField("dim_value") else 0 for d in kind.shape.dim]
    width, channels = len(profile.feature_names), len(profile.channels)
    window = profile.sampling.window_samples
    wanted: dict[int, tuple[Reads, tuple[int, ...]]] = {
        2: ("features", (width,)),
        3: ("window", (window, channels)),
    }
    if len(dims) not in wanted:
        raise BundleError(
            f"its input '{inputs[0].name}' has {len(dims)} dimensions. It may take features, shape "
            f"(n, {width}), or the raw window, shape (n, {window}, {channels})"
        )
    reads, shape = wanted[len(dims)]
    if any(have not in (0, want) for have, want in zip(dims[1:], shape, strict=True)):
        names = ", ".join(profile.feature_names if reads == "features" else profile.channel_names)
        raise BundleError(
            f"its input '{inputs[0].name}' has the shape (n, {', '.join(map(str, dims[1:]))}); profile "
            f"{profile.name} gives (n, {', '.join(map(str, shape))}), the last dimension in the order {names}"
        )
    if dims[0] > 0:
        raise BundleError(
            f"its input '{inputs[0].name}' takes {dims[0]} windows only: export it with a free first size"
        )
    return str(inputs[0].name), reads, kind.elem_type == TensorProto.DOUBLE


def _output(model: Any, wanted: str, further: Sequence[str]) -> str:
    floats = [o.name for o in model.graph.output if o.type.tensor_type.elem_type in _FLOATS]
    every = ", ".join(o.name for o in model.graph.output) or "none"
    if lacking := [name for name in further if name not in floats]:
        raise BundleError(
            f"it has no output {', '.join(lacking)} of floats, which the profile names in model.outputs; its "
            f"outputs are {every}"
        )
    floats = [name for name in floats if name not in further]
    if wanted:
        if wanted not in floats:
            raise BundleError(f"it has no output '{wanted}' of floats; its outputs are {every}")
        return wanted
    if len(floats) == 1:
        return str(floats[0])
    if "score" in floats:
        return "score"
    raise BundleError(f"its outputs are {every}: name the one that is the score with --score-output")


def _converted(model: Any) -> Any:
    """The same graph in our operator sets."""
    own = next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), OPSET)
    try:
        onnx.checker.check_model(model)
        made = model if own == OPSET else version_converter.convert_version(model, OPSET)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as exc:
        said = str(exc).strip().splitlines()[0][:200]
        raise BundleError(f"it is no sound ONNX model of operator set {OPSET}: {said}") from exc
    sets = [helper.make_opsetid("", OPSET)]
    if any(node.domain == ML_DOMAIN for node in made.graph.node):
        sets.append(helper.make_opsetid(ML_DOMAIN, ML_OPSET))
    return helper.make_model(made.graph, ir_version=IR_VERSION, opset_imports=sets)

"""The part of a model's graph behind its features: it scores rows with the model's own operators.

Nothing is trained or written anew: the operators are those of the bytes that devices run. A device has no
onnx package, so a subset of the format (`schemas/proto/onnx_subset.proto`) is read; what that does not name
is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from schemas.errors import BundleError
from schemas.output_names import PRIMARY

if TYPE_CHECKING:
    from schemas.proto import onnx_subset_pb2 as onnx

ROWS = "features_given"
"""Input of the part: rows of features, shape (rows, F)."""
_FLOAT = 1


def score_part(
    model: bytes, width: int, name: str, also: Collection[str] = (), outputs: Sequence[str] = (PRIMARY,)
) -> bytes:
    """The part of the graph behind its features.

    Args:
        model: The whole graph, raw window to ``features`` and ``score``.
        width: Number of features.
        name: Of the model, for messages.
        also: Further inputs of the graph that the score may depend on.
        outputs: Outputs of the graph that the part is to give.

    Raises:
        BundleError: Not such a graph, or its score depends on more than its features.
    """
    # Heavy: a device loads it in the trial's process alone.
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    from schemas.proto import onnx_subset_pb2 as onnx  # noqa: PLC0415

    whole = onnx.ModelProto()
    try:
        whole.ParseFromString(model)
    except DecodeError as exc:
        raise BundleError(f"model {name}: not an ONNX model") from exc
    graph = whole.graph
    producers = {output: node for node in graph.node for output in node.output}
    source = _source(producers, outputs, name)
    given = {i.name for i in graph.initializer} | set(also)
    needed = _needed(producers, source, given, outputs, name)
    nodes = [n for n in graph.node if n.output and n.output[0] in needed]
    for node in nodes:
        for at, taken in enumerate(node.input):
            if taken == source:
                node.input[at] = ROWS
    used = {taken for node in nodes for taken in node.input}
    _keep(graph, nodes, used, also, outputs)
    tensor = graph.input.add(name=ROWS).type.tensor_type
    tensor.elem_type = _FLOAT
    tensor.shape.dim.add(dim_param="rows")
    tensor.shape.dim.add(dim_value=width)
    data: bytes = whole.SerializeToString(deterministic=True)
    return data


def _keep(
    graph: onnx.GraphProto,
    nodes: list[onnx.NodeProto],
    used: Collection[str],
    also: Collection[str],
    wanted: Collection[str],
) -> None:
    """Leave in the graph what the outputs need, in the order in which it stood there."""
    constants = sorted((c for c in graph.initializer if c.name in used), key=lambda c: c.name)
    inputs = [i for i in graph.input if i.name in used and i.name in also]
    outputs = [o for o in graph.output if o.name in wanted]
    kept = type(graph)(node=nodes, initializer=constants, input=inputs, output=outputs)
    for field in ("node", "initializer", "input", "output"):
        graph.ClearField(field)
    graph.MergeFrom(kept)


def _source(producers: Mapping[str, onnx.NodeProto], outputs: Sequence[str], name: str) -> str:
    """Name of the tensor that the outputs are computed from: ``features`` is an Identity of it."""
    node = producers.get("features")
    if node is None or not all(output in producers for output in outputs):
        raise BundleError(f"model {name}: the graph has no outputs features and {' and '.join(outputs)}")
    return str(node.input[0]) if node.op_type == "Identity" else "features"


def _needed(
    producers: Mapping[str, onnx.NodeProto],
    source: str,
    given: Collection[str],
    outputs: Sequence[str],
    name: str,
) -> set[str]:
    """First outputs of the operators between features and the outputs."""
    needed: set[str] = set()
    todo = list(outputs)
    while todo:
        wanted = todo.pop()
        if wanted in ("", source) or wanted in given:
            continue
        node = producers.get(wanted)
        if node is None:
            raise BundleError(f"model {name}: its score depends on '{wanted}', not on features alone")
        if node.output[0] not in needed:
            needed.add(node.output[0])
            todo += list(node.input)
    return needed

"""Refuses graphs that are unsafe to load: weights in other files, operators that are not ONNX's own.

Reads a subset of the format (`schemas/proto/onnx_subset.proto`), so that a device needs no onnx package and
the runtime never opens a graph that names other files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError

from schemas.errors import TrustError
from schemas.proto import onnx_subset_pb2 as onnx
from schemas.updates import Attack

RUNTIME_OPSETS = {"": 28, "ai.onnx.ml": 5}
"""Newest operator sets by domain that onnxruntime 1.32 loads (tried one by one)."""
MAX_OPSET = RUNTIME_OPSETS[""]
MAX_DEPTH = 16
"""Deepest nesting of graphs inside nodes."""


def check_graph(data: bytes, version: str) -> int:
    """The operator set that a graph needs; refuses a graph that is unsafe to load.

    Args:
        data: An ONNX model.
        version: Named in errors.

    Raises:
        TrustError: Not an ONNX model; external data, local functions or training graphs; operators of
            unknown domains, or of operator sets that the runtime does not know.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as exc:
        raise _unsafe(version, "is no ONNX model") from exc
    if model.functions or model.training_info:
        raise _unsafe(version, "brings its own functions or training graphs")
    sets = {_domain(o.domain): o.version for o in model.opset_import}
    for domain, number in sets.items():
        if domain not in RUNTIME_OPSETS:
            raise _unsafe(version, f"wants operators of '{domain[:60]}', which are no standard ones")
        if number > RUNTIME_OPSETS[domain]:
            known = RUNTIME_OPSETS[domain]
            raise _unsafe(version, f"wants operator set {number} of '{domain}'; the runtime knows {known}")
    # Branches and loop bodies hold graphs of their own, and attributes hold tensors: check all of them.
    for graph in _graphs(model.graph, version, 0):
        _check_nodes(graph, version)
        tensors: list[onnx.TensorProto] = [*graph.initializer, *_dense(graph.sparse_initializer)]
        tensors += [t for node in graph.node for a in node.attribute for t in _tensors(a)]
        if any(t.external_data or t.data_location for t in tensors):
            raise _unsafe(version, "has weights in another file")
    return int(sets.get("", 0))


def _check_nodes(graph: onnx.GraphProto, version: str) -> None:
    strange = {n.domain for n in graph.node if _domain(n.domain) not in RUNTIME_OPSETS}
    if strange:
        raise _unsafe(version, f"uses custom operators of {sorted(d[:60] for d in strange)}")


def _graphs(graph: onnx.GraphProto, version: str, depth: int) -> Iterator[onnx.GraphProto]:
    """A graph and all graphs inside its nodes."""
    if depth > MAX_DEPTH:
        raise _unsafe(version, f"nests more than {MAX_DEPTH} graphs")
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(inner, version, depth + 1)


def _tensors(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    yield attribute.t
    yield from attribute.tensors
    yield from _dense([attribute.sparse_tensor, *attribute.sparse_tensors])


def _dense(sparse: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _unsafe(version: str, what: str) -> TrustError:
    return TrustError(f"model {version}: the graph {what}", Attack.UNSAFE_CONTENT)

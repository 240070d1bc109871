"""What an ONNX graph is made of, at every depth. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def graphs_of(graph: Any) -> Iterator[Any]:
    """A graph and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else []
            for part in (*inner, *attribute.graphs):
                yield from graphs_of(part)


def tensors_of(graphs: Sequence[Any]) -> Iterator[Any]:
    """All constants of graphs, whether they have names or stand in a node."""
    for graph in graphs:
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                yield attribute.t
                yield from attribute.tensors

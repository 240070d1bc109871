"""Mutation operators that cosmic-ray lacks: membership and augmented assignment turned."""

from collections.abc import Iterable, Iterator

import parso
from cosmic_ray.operators.operator import Example, Operator
from parso.tree import NodeOrLeaf

TURNED = {"+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "|=": "&=", "&=": "|="}
Position = tuple[tuple[int, int], tuple[int, int]]


class ReplaceMembership(Operator):
    """Turns ``in`` into ``not in`` and back."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Position]:
        for i in _memberships(node):
            yield node.children[i].start_pos, node.children[i].end_pos

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        i = _memberships(node)[index]
        turned = " not in" if _text(node.children[i]) == "in" else " in"
        node.children[i] = parso.parse(turned)
        return node

    @classmethod
    def examples(cls) -> Iterable[Example]:
        return (Example("x in y", "x not in y"), Example("x not in y", "x in y"))


class ReplaceAugmentedAssignment(Operator):
    """Turns ``+=`` into ``-=`` and ``|=`` into ``&=``, and back."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Position]:
        if node.type == "operator" and node.value in TURNED:
            yield node.start_pos, node.end_pos

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        node.value = TURNED[node.value]
        return node

    @classmethod
    def examples(cls) -> Iterable[Example]:
        return (Example("x += y", "x -= y"), Example("x |= y", "x &= y"))


def _memberships(node: NodeOrLeaf) -> list[int]:
    """Indexes of the children of a comparison that are ``in`` or ``not in``."""
    if node.type != "comparison":
        return []
    return [i for i, child in enumerate(node.children) if i % 2 and _text(child) in ("in", "not in")]


def _text(node: NodeOrLeaf) -> str:
    return " ".join(node.get_code().split())

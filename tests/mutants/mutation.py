"""Which mutants a module has: one operator applied at one place, as cosmic-ray makes them."""

import ast
import difflib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider

from tests.mutants.further_operators import ReplaceAugmentedAssignment, ReplaceMembership

REACHED = "__reached__"
"""The function that ``telling`` has called."""

FURTHER = {op.__name__: op for op in (ReplaceMembership, ReplaceAugmentedAssignment)}


@dataclass(frozen=True)
class Mutant:
    """One small change of one module.

    Attributes:
        place: Qualified name of the function or method changed; empty outside of functions.
        was: The lines that the change replaced, white space normalised; with ``now`` and ``place`` it
            names the mutant, so that the name survives when lines move.
        source: The whole module with the change.
    """

    module: str
    place: str
    was: str
    now: str
    original: str = field(repr=False, compare=False)
    source: str = field(repr=False)

    @property
    def name(self) -> tuple[str, str, str, str]:
        return self.module, self.place, self.was, self.now

    def diff(self) -> str:
        lines = difflib.unified_diff(self.original.splitlines(), self.source.splitlines(), n=2, lineterm="")
        return "\n".join([f"--- {self.module}", *list(lines)[2:]])


def mutants(root: Path, module: str, operators: list[str], seed: int) -> Iterator[Mutant]:
    """Every mutant of a module in an order drawn by the seed; none that only changes an annotation."""
    original = (root / module).read_text(encoding="utf-8")
    candidates = [(op, n) for op in map(_operator, operators) for n in range(_occurrences(original, op))]
    random.Random(f"{seed} {module}").shuffle(candidates)
    seen = {_meaning(original)}
    for operator, occurrence in candidates:
        source = mutate_code(original, operator, occurrence)
        meaning = None if source is None else _meaning(source)
        if source is None or meaning is None or meaning in seen:
            continue
        seen.add(meaning)
        yield _named(module, original, source)


def replaced(root: Path, module: str, was: str, now: str) -> Mutant:
    """A mutant written by hand: one passage of a module replaced.

    Raises:
        ValueError: The module does not hold the passage exactly once.
    """
    original = (root / module).read_text(encoding="utf-8")
    if original.count(was) != 1:
        raise ValueError(f"{module} no longer holds exactly once the passage {was!r}")
    return _named(module, original, original.replace(was, now))


def telling(source: str) -> str:
    """A module's source whose outermost functions call ``__reached__`` with their place first."""
    tree = ast.parse(source)
    todo: list[tuple[str, ast.stmt]] = [("", node) for node in tree.body]
    for within, node in todo:
        if isinstance(node, ast.ClassDef):
            todo += [(f"{within}{node.name}.", child) for child in node.body]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body.insert(0, ast.parse(f"{REACHED}({within + node.name!r})").body[0])
    return ast.unparse(tree)


def _operator(name: str) -> Operator:
    return FURTHER[name]() if name in FURTHER else OperatorProvider()[name]()


def _occurrences(source: str, operator: Operator) -> int:
    return sum(1 for node in ast_nodes(get_ast(source)) for _ in operator.mutation_positions(node))


def _named(module: str, original: str, source: str) -> Mutant:
    before, after = original.splitlines(), source.splitlines()
    was, now, first = [], [], None
    for tag, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            first = a + 1 if first is None else first
            was += before[a:b]
            now += after[c:d]
    place = _place(ast.parse(original), first or 1)
    return Mutant(module, place, _one_line(was), _one_line(now), original, source)


def _one_line(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def _place(tree: ast.AST, line: int) -> str:
    """The outermost function around a line, with its classes; empty in a signature or outside of any."""
    names, node = [], tree
    while True:
        for child in getattr(node, "body", []):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
                child.lineno <= line <= (child.end_lineno or child.lineno)
            ):
                names.append(child.name)
                if not isinstance(child, ast.ClassDef):
                    return ".".join(names) if line >= child.body[0].lineno else ""
                node = child
                break
        else:
            return ""


class _WithoutChecks(ast.NodeTransformer):
    """Takes away what the code that is written cannot see.

    Annotations, doc strings and how arguments may be passed decide nothing. That a class is frozen, and that
    ``zip`` is strict, are checks of ourselves: they change what a mistake does, not what a decision is.
    """

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        given = dict(zip(reversed(node.args), reversed(node.defaults), strict=False))
        given |= dict(zip(node.kwonlyargs, node.kw_defaults, strict=True))
        every = [*node.posonlyargs, *node.args, *node.kwonlyargs]
        defaults = [self.visit(d) for a in every if (d := given.get(a)) is not None]
        return ast.arguments(
            [], [ast.arg(a.arg) for a in every], node.vararg, [], [], node.kwarg, defaults
        )  # fmt: skip

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list = []
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in ("zip", "ConfigDict"):
            node.keywords = [k for k in node.keywords if k.arg not in ("strict", "frozen")]
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(0)
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant):
            return ast.Pass()
        return self.generic_visit(node)


def _meaning(source: str) -> str | None:
    """What tells one mutant from another; None for one that is no Python."""
    try:
        return ast.dump(_WithoutChecks().visit(ast.parse(source)))
    except SyntaxError:
        return None

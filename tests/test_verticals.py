"""Nothing outside a vertical's own folders knows of it: no literal names it, no module imports it."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path

import pytest

from schemas.profile_file import builtin_profiles, load_profile

ROOT = Path(__file__).parent.parent
ROOMS = ("schemas", "feature_store", "edge_producer", "stream_processors", "model_service", "infra")
NAMED = {
    ("infra/cli/demo_command.py", "machine"): "the profile that `edgeloop demo` plays where none is named",
    ("infra/demo/stage.py", "machine_demo"): "the same",
    ("infra/demo/demo_run.py", "machine"): "the same",
}
"""What may be named elsewhere, and why."""


def verticals() -> list[str]:
    """Folders of verticals, in any room."""
    return sorted({path.parent.name for path in ROOT.glob("*/verticals/*/__init__.py")})


def names_of(vertical: str) -> set[str]:
    """What would tell code that it deals with this vertical: profile, family, generator, entry points."""
    own = [load_profile(p) for n, p in builtin_profiles().items() if n in (vertical, f"{vertical}_demo")]
    generators = {p.simulate.generator for p in own if p.simulate}
    families = {p.model.family for p in own} - {"robust"}
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    plugged = {n for group in points.values() for n, at in group.items() if f".verticals.{vertical}." in at}
    return {vertical, f"{vertical}_demo"} | generators | families | plugged


def modules_elsewhere(vertical: str) -> list[Path]:
    paths = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]
    return [p for p in paths if f"/verticals/{vertical}/" not in p.as_posix()]


@cache
def said(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Modules that a module imports from, and texts in it that are not for readers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    texts = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # for readers
    modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    values = {node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in texts}
    return frozenset(modules), frozenset(value for value in values if isinstance(value, str))


@pytest.mark.parametrize("vertical", verticals())
def test_only_its_own_folders_name_a_vertical(vertical):
    names, found = names_of(vertical), []
    for path in modules_elsewhere(vertical):
        modules, values = said(path)
        where = path.relative_to(ROOT).as_posix()
        found += [(where, module) for module in modules if f".verticals.{vertical}" in module]
        found += [(where, value) for value in values & names]
    assert sorted(set(found) - set(NAMED)) == []


def test_there_are_verticals_and_what_is_excused_is_there():
    assert "machine" in verticals()
    for where, name in NAMED:
        assert (
            f'"{name}"' in (ROOT / where).read_text(encoding="utf-8")
            or f' {name}"' in (ROOT / where).read_text()
        )

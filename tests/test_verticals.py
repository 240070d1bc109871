"""Nothing outside a vertical's own folders knows of it: no literal names it, no module imports it.

And each of the four has what the others have: profiles, generator, model, faults, demo, page with a picture.
"""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from edge_producer.bundle import BUNDLES
from edge_producer.sources.sensor_generator import GROUP as GENERATORS
from edge_producer.sources.sensor_generator import load_generator
from infra.demo.story import GROUP as DEMOS
from infra.factory_recipe import recipes
from model_service.models.fault_bank import shipped_bank
from schemas.plug_ins import plug_in_names
from schemas.profile_file import builtin_profiles, find_profile, load_profile

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
    families |= {config.family for p in own for config in p.configs}
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    plugged = {n for group in points.values() for n, at in group.items() if f".verticals.{vertical}." in at}
    return {vertical, f"{vertical}_demo", f"{vertical}_"} | generators | families | plugged


def modules_elsewhere(vertical: str) -> list[Path]:
    paths = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]
    return [p for p in paths if f"/verticals/{vertical}/" not in p.as_posix()]


@cache
def said(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Modules that a module imports from, and texts in it that are not for readers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    texts = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # for readers
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    modules = {node.module or "" for node in froms}
    modules |= {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
    modules |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    values = {node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in texts}
    return frozenset(modules), frozenset(value for value in values if isinstance(value, str))


@pytest.mark.parametrize("vertical", verticals())
def test_only_its_own_folders_name_a_vertical(vertical):
    names, found = names_of(vertical), []
    for path in modules_elsewhere(vertical):
        modules, values = said(path)
        where = path.relative_to(ROOT).as_posix()
        found += [
            (where, module) for module in modules if re.search(rf"\.verticals\.{vertical}(\.|$)", module)
        ]
        found += [(where, value) for value in values & names]
    assert sorted(set(found) - set(NAMED)) == []


FOUR = ("machine", "traffic", "wearable", "robot")
COMMAND = re.compile(r"`(?:make judge|python -m) [^`]+`")
PICTURE = re.compile(r"!\[[^\]]+\]\(([a-z-]+\.svg)\)")


@pytest.mark.parametrize("name", FOUR)
def test_each_of_the_four_ships_the_same_parts(name):
    profile, demo = find_profile(name), find_profile(f"{name}_demo")
    assert profile.model.family == demo.model.family == name
    assert profile.simulate.generator == demo.simulate.generator
    assert profile.simulate.generator in plug_in_names(GENERATORS)
    assert profile.simulate.generator in plug_in_names(DEMOS)
    assert recipes()[name].known_faults is not None
    assert shipped_bank(profile) is not None
    assert (BUNDLES / name / "model.onnx").is_file()
    assert profile.decision.rules
    assert profile.decision.fail_safe != profile.decision.idle


@pytest.mark.parametrize("name", FOUR)
def test_each_page_says_how_to_play_it_how_to_judge_it_and_how_to_draw_its_pictures(name):
    page = ROOT / "docs" / "verticals" / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    assert f"edgeloop demo --profile {name}" in text
    assert f"make judge JUDGES={name}" in text
    pictures, paragraphs = PICTURE.findall(text), text.split("\n\n")
    assert pictures
    for picture in pictures:
        assert (page.parent / picture).is_file()
        told = [p for p in paragraphs if f"`{picture}`" in p and COMMAND.search(p)]
        assert told, f"the page does not say which command draws {picture}"


def test_the_page_of_profiles_names_every_generator_that_ships_and_what_it_can_inject():
    text = (ROOT / "docs" / "profiles.md").read_text(encoding="utf-8")
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    named = {name: load_generator(name).kinds for name in points[GENERATORS]}
    lacking = {n for name, kinds in named.items() for n in (name, *kinds) if f"`{n}`" not in text}
    assert lacking == set()


def test_there_are_verticals_and_what_is_excused_is_there():
    assert "machine" in verticals()
    for where, name in NAMED:
        assert (
            f'"{name}"' in (ROOT / where).read_text(encoding="utf-8")
            or f' {name}"' in (ROOT / where).read_text()
        )

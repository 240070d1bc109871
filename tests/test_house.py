"""The house keeps its words: one class a name, one idea a module name, one owner a word; and stays short."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

import edge_producer
import model_service

ROOT = Path(__file__).parent.parent
ROOMS = ("schemas", "feature_store", "edge_producer", "stream_processors", "model_service", "infra")
GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")

LONGEST_FUNCTION, LONGEST_MODULE = 61, 397

SAME_CLASS_NAME: dict[str, str] = {}
"""Public class names that two classes may share, each with its reason."""

SAME_MODULE_NAME = {
    "settings": "one idea in each room that is deployed: the one object that holds what an operator can set",
}
"""Module basenames that may occur more than once, each with its reason."""

ENTRY = re.compile(r"^\| ([^|]+) \| ([^|]+) \| `([^`]+)` \|$", re.MULTILINE)


def sources() -> list[Path]:
    """Every module of the product that a person wrote."""
    return sorted(
        p for room in ROOMS for p in (ROOT / room).rglob("*.py")
        if not GENERATED.search(p.name) and "migrations" not in p.parts
    )  # fmt: skip


def public_classes() -> dict[str, list[str]]:
    """Where each public class name is defined."""
    found = defaultdict(list)
    for path in sources():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def entries() -> list[tuple[str, str, str]]:
    """Word, meaning and owner of each line of the glossary."""
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    return [e for e in ENTRY.findall(text) if e[0] != "word"]


def test_a_public_class_name_names_one_class():
    twice = {n: where for n, where in public_classes().items() if len(where) > 1}
    assert {n: w for n, w in twice.items() if n not in SAME_CLASS_NAME} == {}
    assert set(SAME_CLASS_NAME) <= set(twice), "take what is unique again off the list"


def test_a_module_name_names_one_idea():
    where = defaultdict(list)
    for path in sources():
        if path.stem not in ("__init__", "__main__"):
            where[path.stem].append(str(path.relative_to(ROOT)))
    twice = {n: w for n, w in where.items() if len(w) > 1}
    assert {n: w for n, w in twice.items() if n not in SAME_MODULE_NAME} == {}
    assert set(SAME_MODULE_NAME) <= set(twice), "take what is unique again off the list"


def test_the_glossary_says_each_word_once_and_its_owner_uses_it():
    found = entries()
    words = [word for word, _, _ in found]
    assert len(words) >= 60
    assert sorted(words) == sorted(set(words))
    for word, _, owner in found:
        path = ROOT / owner
        assert path.is_file(), f"{word}: no module {owner}"
        text = re.sub(r"[\W_]+", "", path.read_text(encoding="utf-8").lower())
        assert re.sub(r"[\W_]+", "", word.lower()) in text, f"{owner} does not use the word {word!r}"


def test_no_line_of_the_glossary_is_broken():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| word ")]
    assert len(rows) == len(entries())


def test_functions_and_modules_stay_short():
    long = []
    for path in sources():
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > LONGEST_MODULE:
            long.append(f"{path.relative_to(ROOT)}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines")
    assert long == []


@pytest.mark.parametrize("room", [edge_producer, model_service])
def test_the_face_of_a_room_says_the_same_to_the_type_checker_and_to_the_loader(room):
    tree = ast.parse((ROOT / room.__name__ / "__init__.py").read_text(encoding="utf-8"))
    [checked] = [n for n in tree.body if isinstance(n, ast.If)]
    typed = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }  # fmt: skip
    assert typed == {name: ".".join(filter(None, home)) for name, home in room._LOADED_FROM.items()}
    assert sorted(typed) == sorted(room.__all__)
    for name in room.__all__:
        assert getattr(room, name) is not None

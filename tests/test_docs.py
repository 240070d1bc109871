"""What the documents promise: links resolve, commands exist, every error that wants a person has an entry."""

from __future__ import annotations

import ast
import re
import shlex
import sys
import tomllib
import types
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
import typer.main

from infra.cli.app import build_app
from model_service.gates import evaluate
from schemas import errors

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        ROOT / "examples" / "README.md",
        ROOT / "tests" / "README.md",
    ]
)
ROOMS = ("schemas", "feature_store", "edge_producer", "stream_processors", "model_service", "infra")
PROSE_LENGTH = 110
NUMBERS = {11: "eleven", 12: "twelve", 13: "thirteen", 14: "fourteen", 15: "fifteen", 16: "sixteen"}
OF_THE_READER = {"attention.py", "test_attention.py", "load_average.py"}
"""Files that docs/writing-a-job.md and docs/sources.md have their readers write."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as the usual Markdown renderers make them."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def links(page: Path) -> list[str]:
    """Targets of a page's links that stay inside the checkout."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose)
    return [t for t in targets if not re.match(r"[a-z]+:", t)]


def code_lines(page: Path) -> list[str]:
    """Lines of fenced and of indented code."""
    text = page.read_text(encoding="utf-8")
    fenced = [line for _, code in FENCE.findall(text) for line in code.splitlines()]
    return fenced + [line.strip() for line in FENCE.sub("", text).splitlines() if line.startswith("    ")]


def prose_lines(page: Path) -> list[str]:
    """Lines that are neither code nor tables; the module map, which the code writes, is left out."""
    text = FENCE.sub("", page.read_text(encoding="utf-8")).partition("\n## Module map\n")[0]
    return [line for line in text.splitlines() if not line.startswith(("    ", "|"))]


def names_a_module(path: str, page: Path) -> bool:
    """Whether a file that a page mentions exists: from the root, beside the page, or anywhere in a room."""
    if "/" in path:
        return any((folder / path).is_file() for folder in (ROOT, page.parent))
    return any(found for folder in (*ROOMS, "examples", "tests") for found in (ROOT / folder).rglob(path))


def resolves(dotted: str) -> bool:
    """Whether a dotted name leads to a package, to a module, or to a word of the last one that it reaches."""
    reached = ROOT
    for name in dotted.split("."):
        if (reached / name / "__init__.py").is_file():
            reached = reached / name
        elif reached.is_dir() and (reached / f"{name}.py").is_file():
            reached = reached / f"{name}.py"
        else:
            source = reached / "__init__.py" if reached.is_dir() else reached
            return bool(re.search(rf"\b{name}\b", source.read_text(encoding="utf-8")))
    return True


def blocks(page: str, language: str) -> list[str]:
    """Fenced blocks of one language, in order."""
    return [
        code for lang, code in FENCE.findall((ROOT / page).read_text(encoding="utf-8")) if lang == language
    ]


def parse(app: Any, words: list[str]) -> None:
    """Parse a command line down to its command, running nothing; raises what a user would be told.

    Typer carries a click of its own, so its groups are known by what they can do.
    """
    context = app.make_context("edgeloop", list(words))
    while hasattr(context.command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, chosen, left = context.command.resolve_command(context, rest)
        context = chosen.make_context(name, left, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_its_heading(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


def test_every_anchor_in_code_is_a_heading():
    sources = [p for room in ROOMS for p in (ROOT / room).rglob("*.py")]
    named = {m for p in sources for m in re.findall(r"(docs/[\w./-]+\.md)(?:#([\w-]+))?", p.read_text())}
    assert ("docs/runbook.md", "log-made-anew") in named
    for file, anchor in named:
        assert (ROOT / file).exists()
        assert not anchor or anchor in anchors(ROOT / file), f"{file}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_edgeloop_line_is_a_command_that_exists(page):
    app = typer.main.get_command(build_app())
    for line in code_lines(page):
        if re.match(r"(\.venv/bin/)?edgeloop ", line):
            parse(app, shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_line_of_prose_is_longer_than_a_line_of_code(page):
    long = [line for line in prose_lines(page) if len(line) > PROSE_LENGTH]
    assert [line for line in long if not re.search(rf"\S{{{PROSE_LENGTH},}}", line)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_item_of_a_list_stands_twice(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    items = [" ".join(item.split()) for item in re.findall(r"^- .+(?:\n  .+)*", text, re.MULTILINE)]
    assert [item for item in set(items) if items.count(item) > 1 and len(item) > PROSE_LENGTH] == []


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_module_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8").partition("\n## Module map\n")[0]
    files = set(re.findall(r"(?<![\w/.*])((?:[\w-]+/)*\w+\.py)\b", text)) - OF_THE_READER
    assert [f for f in sorted(files) if not names_a_module(f, page)] == []
    dotted = set(re.findall(rf"(?<![\w/.-])((?:{'|'.join([*ROOMS, 'tests'])})(?:\.[A-Za-z_]\w*)+)", text))
    assert [d for d in sorted(dotted) if not d.endswith(".py") and not resolves(d)] == []


def test_readme_shows_the_first_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("make demo", "make test", "edgeloop profile init", "edgeloop replay", "edgeloop sql"):
        assert command in "\n".join(code_lines(ROOT / "README.md")), command
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z]+)\b", "\n".join(code_lines(ROOT / "README.md")))) <= targets
    assert "docs/architecture.md" in text


def test_every_error_that_wants_a_person_is_in_the_runbook():
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    classes = [
        c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.PipelineError)
    ]
    wanted = [c.__name__ for c in classes if "Operator action:" in (c.__doc__ or "")]
    assert len(wanted) >= 6
    for name in wanted:
        assert name.lower() in anchors(ROOT / "docs" / "runbook.md") or re.search(
            rf"^#+ .*{name}", text, re.M
        ), name
    for kind in [c for c in classes if issubclass(c, errors.MessageError)]:
        assert kind.__name__ in text, kind


def fixed_parts(message: ast.expr) -> list[str]:
    """Constant pieces of a text or f-string."""
    pieces = message.values if isinstance(message, ast.JoinedStr) else [message]
    texts = [p.value for p in pieces if isinstance(p, ast.Constant) and isinstance(p.value, str)]
    return [" ".join(t.lower().split()) for t in texts if re.search(r"[a-z]{2} |[a-z]{5}", t)]


def messages(kinds: set[str]) -> list[tuple[str, list[str]]]:
    """Where errors of these classes are raised, and the fixed pieces of each message."""
    found = []
    for path in sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
                parts = [part for argument in node.args[:1] for part in fixed_parts(argument)]
                found += [(f"{path.relative_to(ROOT)}:{node.lineno}", parts)] if parts else []
    return found


def test_every_message_that_wants_a_person_is_quoted_in_the_runbook():
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    quoted = {" ".join(q.lower().split()) for q in re.findall(r"\*([^*\n]{6,})\*", text)}
    spool = {"SpoolError", "SpoolInUseError", "SpoolOwnerError", "SpoolUnavailableError", "SpoolDamagedError"}
    every = messages({"OperatorError", "StackError", "DamagedLakeError", *spool})
    assert len(every) > 40
    missing = [f"{w}: {parts}" for w, parts in every if not any(q in part for q in quoted for part in parts)]
    assert not missing, "quote a few words of these in docs/runbook.md:\n" + "\n".join(missing)


def test_the_module_map_is_complete():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, _, module_map = text.partition("## Module map")
    for room in ROOMS:
        section = module_map.partition(f"### {room}\n")[2].partition("\n### ")[0]
        modules = {str(p.relative_to(ROOT / room)) for p in (ROOT / room).rglob("*.py")}
        wanted = {m for m in modules if not m.endswith("__init__.py")}
        assert set(re.findall(r"^\| `([^`]+)` \| \S", section, re.MULTILINE)) == wanted, room


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_the_number_of_gates_on_a_page_is_that_of_the_code(page):
    [word] = re.findall(r"pass (\w+) (?:tests, called )?\*gates\*", (ROOT / page).read_text(encoding="utf-8"))
    gates = [name for name in vars(evaluate) if name.startswith("judge_")]
    assert word == NUMBERS[len(gates)]


def test_the_rigs_of_the_tests_are_where_their_page_says():
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    rigs = re.findall(r"^\| `([\w/]+\.py)` \| ([^|]+) \| \S", text, re.MULTILINE)
    assert len(rigs) > 20
    for file, names in rigs:
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        defined = {n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        assert set(re.findall(r"`(\w+)`", names)) <= defined, file


def test_every_direct_dependency_has_its_reason():
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[\[<>=~! ]", r)[0] for group in groups for r in group} - {"edgeloop"}
    assert not [n for n in sorted(names) if not re.search(rf"\b{re.escape(n)}\b", text)]


def test_the_job_in_the_documents_keeps_its_own_tests(monkeypatch):
    job, its_tests = blocks("docs/writing-a-job.md", "python")
    module = module_from_spec(spec_from_loader("attention", loader=None))
    exec(compile(job, "docs/writing-a-job.md", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, "attention", module)
    ran = types.ModuleType("test_attention")
    exec(compile(its_tests, "docs/writing-a-job.md", "exec"), vars(ran))
    laws = [law for name, law in vars(ran).items() if name.startswith("test_")]
    assert len(laws) == 2
    for law in laws:
        law()


def test_the_package_in_the_documents_names_its_job():
    [text] = blocks("docs/writing-a-job.md", "toml")
    project = tomllib.loads(text)["project"]
    assert project["entry-points"]["edgeloop.jobs"] == {"attention": "attention:Attention"}

"""What a fresh clone relies on: the lock, the targets, the direction of imports, the public surface."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from infra import doctor

ROOT = Path(__file__).parent.parent
ROOMS = ("schemas", "feature_store", "edge_producer", "stream_processors", "model_service", "infra")
PIN = re.compile(r"[a-z0-9][a-z0-9._-]*==[^\s;]+( ; [^\\]+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


def locked() -> list[str]:
    return (ROOT / "requirements.txt").read_text().splitlines()


def test_every_line_of_the_lock_is_a_pin_or_a_hash():
    """So it names no index, no path and no option."""
    assert [line for line in locked() if not (PIN.fullmatch(line) or HASH.fullmatch(line))] == []


def test_every_pin_of_the_lock_has_a_hash():
    lines = locked()
    assert [a for a, b in zip(lines, [*lines[1:], ""], strict=True) if "==" in a and "--hash" not in b] == []


def test_the_lock_holds_every_direct_dependency_and_the_build_backend():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *(d for group in extras.values() for d in group)]
    names = {re.split(r"[\[<>=]", d)[0].lower() for d in wanted} - {"edgeloop"}
    assert names | {"hatchling"} <= {line.split("==")[0] for line in locked()}


def test_exact_requirements_are_locked_as_written():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    exact = {re.sub(r"\[.*?\]", "", d) for group in extras.values() for d in group if "==" in d}
    assert exact <= {re.split(r"[ ;]", line)[0] for line in locked()}


def test_imports_flow_one_way():
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


def test_a_device_needs_neither_lake_nor_stream_packages():
    code = "import sys, edge_producer; print(sorted({m.split('.')[0] for m in sys.modules}))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"duckdb", "deltalake", "faust", "aiokafka", "river", "feature_store"} & set(
        re.findall(r"\w+", output)
    )


@pytest.mark.parametrize("room", ROOMS)
def test_public_surface_is_what_it_says(room: str):
    module = importlib.import_module(room)
    assert (module.__doc__ or "").strip()
    missing = [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]
    assert missing == []


@pytest.mark.parametrize("target", ["help", "setup", "demo", "test", "lint", "bench", "clean"])
def test_make_knows_the_target(target: str):
    result = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


PYTHONS = ["3.11", "3.12", "3.13"]


def stated_pythons() -> dict[str, str]:
    """By place: the text that says which Python versions are supported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = {
        "README.md": "^You need .*",
        "CONTRIBUTING.md": "^You need .*",
        ".ci/run": "^echo .*supported.*",
        "infra/setup.sh": "^pythons=.*",
    }
    found = {n: re.search(p, (ROOT / n).read_text(), re.MULTILINE) for n, p in lines.items()}
    return {
        **{name: match.group() for name, match in found.items() if match},
        "classifiers": " ".join(project["classifiers"]),
        "doctor": doctor.python((3, 10, 1)).advice,
    }


def test_everybody_names_the_same_python_versions():
    assert {name: re.findall(r"\b3\.\d+", text) for name, text in stated_pythons().items()} == dict.fromkeys(
        ["README.md", "CONTRIBUTING.md", ".ci/run", "infra/setup.sh", "classifiers", "doctor"], PYTHONS
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"


def test_the_doctor_passes_these_versions_and_no_other():
    verdicts = {f"3.{minor}": doctor.python((3, minor, 0)).verdict for minor in range(9, 16)}
    assert [version for version, verdict in verdicts.items() if verdict == "ok"] == PYTHONS


def setup_with(folder: Path, versions: Mapping[str, str], **given: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of setup.sh where the named commands say that they are these Python versions."""
    for name in ("bash", "dirname", "mkdir", "flock", "cat", "sed", "awk"):
        (folder / name).symlink_to(Path("/usr/bin") / name)
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name, version in versions.items():
        (folder / name).write_text(f"#!/bin/bash\n[[ $2 != *version_info* ]] || echo {version}\n")
        (folder / name).chmod(0o755)
    (folder / "infra").mkdir()
    (folder / "infra" / "setup.sh").write_bytes((ROOT / "infra" / "setup.sh").read_bytes())
    return subprocess.run(
        ["/bin/bash", folder / "infra" / "setup.sh"],
        env={"PATH": str(folder), **given},
        capture_output=True,
        text=True,
        check=False,
    )


INSTALL = "apt-get install python3 python3-venv"


@pytest.mark.parametrize(
    ("versions", "given", "told"),
    [
        ({}, "", f"Python 3.11, 3.12 or 3.13 is not installed: {INSTALL}"),
        ({"python3": "3.10"}, "", f"Python 3.11, 3.12 or 3.13 is not installed (python3 is 3.10): {INSTALL}"),
        ({"python3": "3.14"}, "", f"Python 3.11, 3.12 or 3.13 is not installed (python3 is 3.14): {INSTALL}"),
        (
            {"python3": "3.12", "mine": "3.14"},
            "mine",
            "PYTHON=mine is Python 3.14; Python 3.11, 3.12 or 3.13 is needed",
        ),
        (
            {"python3": "3.12"},
            "mine",
            "PYTHON=mine is no Python that runs here; Python 3.11, 3.12 or 3.13 is needed",
        ),
        (
            {"python3": "3.12", ".venv/bin/python": "3.14"},
            "",
            ".venv has Python 3.14, which is not supported: make clean, then make setup",
        ),
    ],
    ids=[
        "none",
        "too old",
        "too new",
        "the wished one is too new",
        "the wished one is not there",
        "made before",
    ],
)
def test_setup_without_a_python_that_fits_says_what_to_do(tmp_path: Path, versions, given: str, told: str):
    result = setup_with(tmp_path, versions, PYTHON=given)
    assert result.returncode != 0
    assert result.stderr == f"error: {told}\n"


@pytest.mark.parametrize(
    ("versions", "given"),
    [
        *(({"python3": version}, "") for version in PYTHONS),
        *(({"python3": "3.14", f"python{version}": version}, "") for version in PYTHONS),
        ({"python3": "3.14", "mine": "3.12"}, "mine"),
    ],
)
def test_setup_takes_whichever_python_fits(tmp_path: Path, versions, given: str):
    """It comes as far as the next thing that this bare machine has not got."""
    result = setup_with(tmp_path, versions, PYTHON=given)
    assert result.stderr == "error: java is not installed: apt-get install openjdk-17-jre-headless\n"


def test_setup_names_each_of_its_steps_and_says_when_it_is_done():
    script = (ROOT / "infra" / "setup.sh").read_text(encoding="utf-8")
    assert all(f"{step}/4 " in script for step in (1, 2, 3, 4))
    assert script.splitlines()[-1].startswith('say "done: ')


def ci_with_make(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of .ci/run whose `make` is the given script."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_bytes((ROOT / ".ci" / "run").read_bytes())
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text(f"#!/bin/bash\n{body}\n")
    make.chmod(0o755)
    env = {**os.environ, "PATH": f"{make.parent}:{os.environ['PATH']}"}
    command = ["/bin/bash", str(tmp_path / ".ci" / "run")]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


PASSED = "=== 3 passed in 0.10s ==="


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (f'[ $1 = lint ] || echo "{PASSED}"', 0),
        (f'[ $1 = lint ] && exit 1; echo "{PASSED}"', 1),
        ('[ $1 = lint ] || { echo "=== 1 failed, 3 passed in 0.10s ==="; exit 2; }', 1),
        ('[ $1 = lint ] || { echo "=== no tests ran in 0.10s ==="; exit 5; }', 1),
        ('[ $1 = lint ] || echo "=== 9 skipped in 0.10s ==="', 1),
        ("exit 0", 1),
    ],
    ids=["all well", "lint fails", "a test fails", "none collected", "all skipped", "no pytest at all"],
)
def test_ci_passes_only_when_lint_and_at_least_one_test_pass(tmp_path: Path, body: str, code: int):
    assert ci_with_make(tmp_path, body).returncode == code


def test_ci_ends_with_the_closing_line_of_pytest(tmp_path: Path):
    result = ci_with_make(tmp_path, f'[ $1 = lint ] || {{ echo "{PASSED}"; echo more; }}')
    assert result.stdout.splitlines()[-1] == PASSED


def test_ci_says_which_python_it_runs_on(tmp_path: Path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/bash\necho Python 3.12.1\n")
    python.chmod(0o755)
    result = ci_with_make(tmp_path, f'[ $1 = lint ] || echo "{PASSED}"')
    assert "ci: Python 3.12.1; supported are 3.11, 3.12 and 3.13" in result.stdout.splitlines()


def test_no_product_file_names_this_machine_or_a_registry():
    """Nothing the private machine has, nothing that pins users to one registry."""
    forbidden = re.compile(
        "|".join(["/" + "work/", "/" + "root/", "py" + r"pi\.org", r"repo1\.maven", "pythonhosted"])
    )
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout
    texts = [ROOT / n.decode() for n in listed.split(b"\0") if n and not n.startswith(b"tests/")]
    found = [
        str(p) for p in texts if p.is_file() and forbidden.search(p.read_bytes().decode(errors="ignore"))
    ]
    assert found == []


EXTRA_OF = {"mqtt_connection.py": "mqtt", "opcua_session.py": "opcua"}
"""Modules that are loaded only by those who installed an extra of their own."""


def test_what_a_device_may_import_is_in_the_edge_extra_or_its_modules_own():
    """Each import of a module that the edge room loads, those within functions too."""
    listed = (
        "import importlib, pkgutil, sys, edge_producer\n"
        "for m in pkgutil.walk_packages(edge_producer.__path__, 'edge_producer.'):\n"
        "    m.name.endswith('__main__') or importlib.import_module(m.name)\n"
        "ours = ('edge_producer', 'schemas')\n"
        "print(*(m.__file__ for name, m in sys.modules.items() if name.split('.')[0] in ours))"
    )
    found = subprocess.run(
        [sys.executable, "-c", listed], capture_output=True, text=True, check=True, cwd=ROOT
    )
    named = {m: {d.lower().replace("_", "-") for d in ds} for m, ds in packages_distributions().items()}
    undeclared = set()
    for file in map(Path, found.stdout.split()):
        imported: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.partition(".")[0] for name in names}
        declared = _declared("edge") | (_declared(EXTRA_OF[file.name]) if file.name in EXTRA_OF else set())
        undeclared |= {m for m in imported - set(ROOMS) if m in named and not named[m] & declared}
    assert undeclared == set()


def _declared(extra: str) -> set[str]:
    """Distributions that are installed with this extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = (*project["dependencies"], *project["optional-dependencies"][extra])
    return {re.split(r"[\[<>=]", d)[0].lower() for d in named}

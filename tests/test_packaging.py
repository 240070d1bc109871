"""What a fresh clone relies on: the lock, the targets, the direction of imports, the public surface."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

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


def test_setup_without_python_says_what_to_install(tmp_path: Path):
    for name in ("bash", "dirname", "mkdir", "flock", "cat", "sed", "awk"):
        (tmp_path / name).symlink_to(Path("/usr/bin") / name)
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra" / "setup.sh").write_bytes((ROOT / "infra" / "setup.sh").read_bytes())
    result = subprocess.run(
        ["/bin/bash", tmp_path / "infra" / "setup.sh"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert (
        result.stderr
        == "error: Python 3.11 or newer is not installed: apt-get install python3 python3-venv\n"
    )


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

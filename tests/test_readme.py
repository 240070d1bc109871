"""Every block of commands in README.md, run as it stands there in a fresh state folder."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.cli import Edgeloop

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent
ELSEWHERE = {
    "make demo": "tests/infra/test_demo_run.py",
    "edgeloop model gates VERSION": "tests/infra/test_model_command.py",
    "edgeloop rollout start VERSION --group default": "tests/model_service/test_rollout_cli.py",
    "edgeloop rollout back --group default": "tests/model_service/test_rollout_cli.py",
    "edgeloop profile push pump.toml": "tests/test_pushed_profile.py",
}
"""Lines that want more than an empty state folder, and the tests that run them."""
BY_HAND = {
    "make test": "this is a part of it",
    "source .venv/bin/activate": "the tests run in an environment",
}
"""Lines that no test runs, and why."""
JOURNEY = "Your own machines, in six steps"
"""Has a state folder and a test of its own: ``test_readme_journey.py``."""
MAY_FIND_FAULTS = {"edgeloop doctor"}
"""Its exit code tells about the machine."""


def sections() -> dict[str, list[list[str]]]:
    """Blocks of code by section, each as its lines without comments."""
    found = {}
    for part in (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        blocks = re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE)
        found[title] = [[re.sub(r"\s+#.*", "", line.strip()) for line in b.splitlines()] for b in blocks]
    return found


class Reader:
    """Somebody who types what the page says, in a folder that holds the examples."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.edgeloop = folder, Edgeloop(folder / "state")
        shutil.copytree(ROOT / "examples", folder / "examples")

    def environment(self) -> dict[str, str]:
        return {**self.edgeloop.environment({}), "PYTHONPATH": str(ROOT)}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )

    def types(self, line: str) -> None:
        done = self.run(sys.executable, "-m", "infra", *shlex.split(line)[1:])
        assert done.returncode == 0 or line in MAY_FIND_FAULTS, f"{line}\n{done.stderr}"


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """In a fresh state folder, whose pipeline is up, as most of the page supposes."""
    made = Reader(tmp_path_factory.mktemp("reader"))
    try:
        made.types("edgeloop up")
        yield made
    finally:
        done = made.edgeloop("down")
    assert done.returncode == 0, done.stderr


def typed(blocks: list[list[str]]) -> list[str]:
    """Commands of a section that a test types; the stack is shared, and goes down after the last one."""
    lines = [line for block in blocks for line in block if line.startswith(("edgeloop ", "make"))]
    return [line for line in lines if line not in {*ELSEWHERE, *BY_HAND, "edgeloop down"}]


@pytest.mark.parametrize("title", [t for t, blocks in sections().items() if t != JOURNEY and typed(blocks)])
def test_every_command_of_the_page_does_what_it_says(reader, title):
    for line in typed(sections()[title]):
        reader.types(line)


def test_every_line_of_python_runs_beside_the_pipeline(reader):
    blocks = [b for blocks in sections().values() for b in blocks if b[0].startswith("import ")]
    assert len(blocks) >= 2
    for block in blocks:
        program = "\n".join(block).replace("STATE", str(reader.edgeloop.state_dir))
        done = reader.run(sys.executable, "-c", program)
        assert done.returncode == 0, done.stderr


def test_what_is_left_out_here_is_still_on_the_page():
    lines = {line for blocks in sections().values() for block in blocks for line in block}
    assert {*ELSEWHERE, *BY_HAND} <= lines


@pytest.mark.parametrize("line", ELSEWHERE)
def test_what_another_test_is_said_to_run_stands_in_it(line):
    """The page's own lines were excused with a test that runs none of them."""
    words = [f'"{word}"' for word in line.split()[1:] if word.islower()]
    command = words[: 2 if line.startswith("edgeloop") else 1]
    assert ", ".join(command) in (ROOT / ELSEWHERE[line]).read_text(encoding="utf-8")

"""Tests that notice: what ``make mutants`` tries in full, here for each safeguard and for a few mutants.

``tests/mutants/mutants.toml`` declares both: the safeguards of the pipeline (mutants written by hand), and
the modules that decide, with their own fast tests.
"""

import os
import subprocess
import sys

import pytest

from tests.mutants.declared import read
from tests.mutants.mutation import mutants, replaced
from tests.mutants.replaced_module import ROOT

DECLARED = read()

pytestmark = pytest.mark.timeout(600)  # of a mutant that never ends: see PATIENCE in tests/mutants/trials.py


def run_mutants(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """The command in a process of its own: it forks, and a test's process may have threads."""
    command = [sys.executable, "-m", "tests.mutants", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=550, cwd=ROOT, env=env
    )


def every_mutant(module: str) -> list:
    return list(mutants(ROOT, module, DECLARED.operators, seed=0))


@pytest.fixture(scope="module")
def tried() -> dict[str, str]:
    """What became of each safeguard that was switched off."""
    lines = run_mutants("--safeguards").stdout.splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line)


@pytest.mark.parametrize("name", DECLARED.safeguards)
def test_a_switched_off_safeguard_turns_a_test_red(name, tried):
    assert tried[name] == "noticed"


def test_the_fast_tests_kill_a_few_mutants_of_each_kind_of_decision():
    modules = ("stream_processors/ingest/marks.py", "edge_producer/decider.py", "feature_store/weights.py")
    ran = run_mutants(*modules, SEED="11", SAMPLE="4")
    assert ran.returncode == 0, ran.stdout
    assert "12 of 12 killed" in ran.stdout


def test_a_module_and_its_tests_that_the_table_names_are_there():
    for module, tests in DECLARED.modules.items():
        assert (ROOT / module).is_file()
        assert tests
        assert [t for t in tests if not (ROOT / t).is_file()] == []


@pytest.mark.parametrize("module", sorted({name[0] for name in DECLARED.equivalent}))
def test_a_mutant_listed_as_equivalent_is_one_of_its_module_and_has_a_reason(module):
    listed = {name: why for name, why in DECLARED.equivalent.items() if name[0] == module}
    assert set(listed) - {m.name for m in every_mutant(module)} == set(), "the code changed: look at it again"
    assert all(len(why) > 20 for why in listed.values())


def test_the_name_of_a_mutant_survives_when_lines_move(tmp_path):
    code = "def least(a, b):\n    return a if a < b else b\n"
    (tmp_path / "one.py").write_text(code)
    before = {m.name for m in mutants(tmp_path, "one.py", DECLARED.operators, seed=0)}
    (tmp_path / "one.py").write_text(f'"""Text."""\n\nOTHER = 3\n\n\n{code}')
    assert {m.name for m in mutants(tmp_path, "one.py", DECLARED.operators, seed=0)} == before
    assert ("one.py", "least", "return a if a < b else b", "return a if a <= b else b") in before


def test_a_mutant_changes_what_a_call_can_see_and_not_an_annotation_alone(tmp_path):
    (tmp_path / "one.py").write_text("def f(a: int | None, *, b: int = 1) -> int | None:\n    return a\n")
    assert list(mutants(tmp_path, "one.py", DECLARED.operators, seed=0)) == []


def test_the_seed_alone_draws_the_sample():
    module = "stream_processors/ingest/marks.py"
    first, again, other = (
        [m.name for m in mutants(ROOT, module, DECLARED.operators, seed)] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other)


def test_a_passage_that_is_gone_or_not_alone_is_no_safeguard(tmp_path):
    (tmp_path / "one.py").write_text("a = 1\na = 1\n")
    with pytest.raises(ValueError, match="exactly once"):
        replaced(tmp_path, "one.py", "a = 1", "a = 2")
    with pytest.raises(ValueError, match="exactly once"):
        replaced(tmp_path, "one.py", "b = 1", "b = 2")

"""Tests that notice: what ``make mutants`` tries in full, here for each safeguard and for a few mutants.

``tests/mutants/mutants.toml`` declares both: the safeguards of the pipeline (mutants written by hand), and
the modules that decide, with their own fast tests.
"""

import os
import subprocess
import sys

import pytest

from tests.mutants.__main__ import verdict
from tests.mutants.campaign import Result
from tests.mutants.declared import read
from tests.mutants.mutation import mutants, one_line, replaced
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


@pytest.fixture(scope="module")
def tried() -> dict[str, str]:
    """What became of each safeguard that was switched off."""
    lines = run_mutants("--safeguards").stdout.splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line)


@pytest.mark.long
@pytest.mark.parametrize("name", DECLARED.safeguards)
def test_a_switched_off_safeguard_turns_a_test_red(name, tried):
    assert tried[name] == "noticed"


@pytest.mark.long
def test_the_fast_tests_notice_small_changes_of_a_seeded_few_decisions():
    """The whole of it takes minutes: ``make mutants``."""
    modules = (
        "edge_producer/trust/instruction.py",
        "edge_producer/decider.py",
        "stream_processors/windowing",
    )
    ran = run_mutants(*modules, SEED="11", SAMPLE="3")
    assert ran.returncode == 0, ran.stdout


def result(tmp_path, killed: int, survived: int, unfit: str = "") -> Result:
    (tmp_path / "one.py").write_text("def least(a, b):\n    return a if a < b else b\n")
    [first, *_] = mutants(tmp_path, "one.py", DECLARED.operators, seed=0)
    return Result("one.py", killed, [first] * survived, unfit=unfit)


def test_nine_in_ten_must_be_killed_in_all_and_where_all_are_tried_in_each_module(tmp_path, capsys):
    at, below, most = (result(tmp_path, k, s) for k, s in ((9, 1), (8, 1), (99, 1)))
    assert [verdict([r], each=True) for r in (at, below, most)] == [0, 1, 0]
    assert (verdict([most, below], each=False), verdict([most, below], each=True)) == (0, 1)
    assert verdict([], each=False) == 1, "nothing tried shows nothing"
    assert verdict([most, result(tmp_path, 0, 0, unfit="ImportError")], each=False) == 1
    printed = capsys.readouterr().out
    assert "107 of 109 killed: 98.2%" in printed
    assert "-    return a if a < b else b" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_a_module_and_its_tests_that_the_table_names_are_there():
    for module, tests in DECLARED.modules.items():
        assert (ROOT / module).is_file()
        assert tests
        assert [t for t in tests if not (ROOT / t).is_file()] == []


def test_a_mutant_listed_as_equivalent_changes_code_that_is_there_and_has_a_reason():
    for (module, _place, was, now), why in DECLARED.equivalent.items():
        assert module in DECLARED.modules
        text = one_line((ROOT / module).read_text(encoding="utf-8").splitlines())
        assert was in text, "the code changed: look at it again"
        assert now != was
        assert len(why) > 20


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


def test_the_seed_alone_draws_the_sample(tmp_path):
    (tmp_path / "one.py").write_text("def f(a, b):\n    return a < b and a + b > 2 * a or not b\n")
    first, again, other = (
        [m.name for m in mutants(tmp_path, "one.py", DECLARED.operators, seed)] for seed in (1, 1, 2)
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

"""A seeded slice of `make guarding`: the real judge lets right models through, and stops wrong ones."""

import pytest

from benchmarks.guarding.cell_result import CellResult, Journal
from benchmarks.guarding.one_rollout import Ending, run
from benchmarks.guarding.page import BEGIN, END, write
from benchmarks.guarding.simulated_fleet import Cell
from model_service.rollout.guard_statistics import could_be_worse


def ended(kind, devices, rate, rollouts=6):
    return [run(Cell(kind, devices, rate), seed) for seed in range(rollouts)]


@pytest.mark.parametrize("kind", ["unchanged", "recalibrated"])
def test_a_right_model_is_never_aborted_and_mostly_needs_nobody(kind):
    found = ended(kind, 20, 10.0)
    assert not [e for e in found if e.how == "aborted"]
    assert sum(e.how == "completed" for e in found) >= 5


@pytest.mark.parametrize("kind", ["noisy", "deaf", "slow"])
def test_a_wrong_model_is_stopped_before_a_quarter_of_twenty_devices_runs_it(kind):
    for ending in ended(kind, 20, 10.0):
        assert ending.how in ("aborted", "asked")
        assert (ending.phase, ending.share < 0.25) == (0, True)


def test_among_five_devices_a_wrong_model_does_not_pass_its_canaries():
    assert {e.phase for kind in ("noisy", "deaf", "slow") for e in ended(kind, 5, 10.0, 3)} == {0}


def test_a_quiet_fleet_soaks_longer_than_a_busy_one():
    quiet, busy = (ended("unchanged", 20, rate, 1)[0] for rate in (1.0, 10.0))
    assert (quiet.how, busy.how) == ("completed", "completed")
    assert quiet.days > 2 * busy.days


def test_the_same_seed_gives_the_same_rollout():
    cell = Cell("noisy", 20, 10.0)
    assert run(cell, 3) == run(cell, 3)
    assert run(cell, 3) != run(cell, 4)


# The journal and the page

CELL = Cell("noisy", 20, 1.0)
ENDINGS = [Ending("aborted", 0.2, 1.0, 0), Ending("asked", 0.2, 2.0, 0), Ending("completed", 1.0, 3.0, 2)]


def test_a_result_counts_what_got_past_a_quarter_and_past_the_canaries():
    found = CellResult.of(CELL, ENDINGS, 1.0)
    assert (found.aborted, found.asked, found.completed, found.early, found.in_canary) == (1, 1, 1, 2, 2)
    assert (found.median_days, found.late_days) == (2.0, 3.0)
    assert found.upper(1) == could_be_worse(1, 3, 0.05)


def test_cells_that_are_done_are_not_simulated_again_unless_with_another_number(tmp_path):
    journal = Journal(tmp_path / "deep" / "journal.jsonl")
    assert journal.read(3) == {}
    made = CellResult.of(CELL, ENDINGS, 1.0)
    journal.add(CELL, made)
    assert journal.read(3) == {CELL.name: made}
    assert journal.read(4) == {}


def test_cells_of_other_code_count_for_nothing(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path).add(CELL, CellResult.of(CELL, ENDINGS, 1.0))
    path.write_text(path.read_text().replace('"code": "', '"code": "x'))
    assert Journal(path).read(3) == {}


def test_the_page_gets_its_figures_and_keeps_the_rest():
    page = write(f"before\n{BEGIN}\nold\n{END}\nafter\n", {CELL.name: CellResult.of(CELL, ENDINGS, 1.0)})
    assert page.startswith("before\n")
    assert page.endswith(f"{END}\nafter\n")
    assert "old" not in page
    assert "| noisy | 20 | 1 | 1 of 3 | 1 | 1 |" in page
    assert "| deaf | 5 | 10 | not simulated |" in page

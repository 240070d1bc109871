"""The tables of docs/drift.md: a slice of each is made anew."""

import re
from pathlib import Path

import pytest

from tests.edge_producer.recordings import recording
from tests.stream_processors.drift_recordings import RECORDINGS, verdicts
from tests.stream_processors.drift_table import COHORTS, DRIFTS, QUIET, line, outcome, series

PAGE = (Path(__file__).parents[2] / "docs" / "drift.md").read_text(encoding="utf-8")
FIRST, SEEDS = 4000, 2
"""The table's first seed, and how many of its twenty are tried here."""
DRAFTED = {"min_effect": 1.0}


def published(name: str) -> list[str]:
    """Cells of a row of the page."""
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in row.strip("|").split("|")[1:]]


def test_the_page_has_a_row_for_every_kind_of_series():
    assert all(len(published(case.name)) == len(COHORTS) for case in (*DRIFTS, *QUIET))


@pytest.mark.parametrize("case", [DRIFTS[1], DRIFTS[3]], ids=lambda case: case.name)
@pytest.mark.parametrize("devices", COHORTS[:2])
def test_what_the_page_says_is_found_in_every_series_is_found_as_soon(case, devices):
    found, delay, false = re.fullmatch(
        r"(20 of 20), (\d+) windows; (\d+)", published(case.name)[COHORTS.index(devices)]
    ).groups()
    assert (found, false) == ("20 of 20", "0")
    for seed in range(FIRST, FIRST + SEEDS):
        seen = outcome(case, series(case, seed), devices, **DRAFTED)
        assert (seen.delay, seen.false[0]) == (int(delay), 0)


def test_a_quiet_series_gives_the_false_verdicts_that_the_page_says():
    [case] = [c for c in QUIET if c.name == "season of a day, 2 sd, 1 h, `seasonal_s`"]
    assert (
        line(case, range(FIRST, FIRST + 1), **DRAFTED)
        == f"| {case.name} | {' | '.join(published(case.name))} |"
    )


@pytest.mark.recordings
def test_a_cobot_that_warms_up_from_its_first_window_has_no_verdict():
    """The page says none; the other recordings take longer."""
    [cobot] = [r for r in RECORDINGS if r.name.startswith("cobot")]
    assert verdicts(recording(cobot.path).parents[1], cobot) == []

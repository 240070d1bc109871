"""The tables of docs/drift.md: a slice of each is made anew."""

import re
from pathlib import Path

import pytest

from benchmarks.drift import recorded_drifts, simulated_fleets
from benchmarks.drift.retrain_rules import RULES, Alarm
from tests.edge_producer.recordings import recording
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
    [cobot] = [r for r in recorded_drifts.RECORDED if r.name.startswith("cobot")]
    cells = recorded_drifts.samples(recording(cobot.path).parents[1], cobot)
    _, windows = recorded_drifts.windows_of(cobot, cells)
    assert RULES["edgeloop"]([windows], recorded_drifts.profile_of(cobot, cells)) == []


def test_only_the_first_alarm_of_a_series_that_has_drifted_is_right():
    case = simulated_fleets.FleetCase("one drifts", 0.0, drifting=1)
    at = simulated_fleets.ONSET
    alarms = [
        Alarm(0, "c0_last", at - 1, at - 1),
        Alarm(0, "c0_last", at + 3, at),
        Alarm(0, "c0_last", at + 9, at, retrains=False),
        Alarm(1, "c0_last", at + 3, at),
    ]
    assert simulated_fleets.score(case, alarms) == (4, 3 / 4, 2, 1, [4])
    assert simulated_fleets.score(case, []) == (0, 0.0, 0, 0, [])


def test_of_a_small_fleet_each_rule_makes_what_it_is_there_to_make():
    """Always: in every window; never: in none; ours: every drift of this size, and nothing else."""
    case = simulated_fleets.FleetCase("one drifts", 0.9, drifting=1, size=3.0)
    fleet, profile = simulated_fleets.fleet(case, 3), simulated_fleets.profile()
    got = {n: simulated_fleets.score(case, RULES[n](fleet, profile)) for n in ("edgeloop", "always", "never")}
    assert (got["edgeloop"].false_share, got["edgeloop"].found) == (0.0, simulated_fleets.FEATURES)
    assert got["always"].alarms == simulated_fleets.COHORTS * simulated_fleets.WINDOWS
    assert got["never"].alarms == 0


def test_an_alarm_on_a_recording_counts_for_the_span_that_it_is_about():
    recorded = recorded_drifts.RecordedDrift(
        "r", "", "", ("v",), 3600, (("1970-01-02 00:00", "1970-01-02 06:00"),)
    )
    alarms = [
        Alarm(0, "c0_last", 21, 20),
        Alarm(0, "c0_last", 30, 26),
        Alarm(0, "c0_last", 90, 80, retrains=False),
    ]
    assert recorded_drifts.score(recorded, 0, alarms) == (1, [0], 1, 0)
    assert recorded_drifts.score(recorded, 24, []) == (0, [], 0, 0)

"""First windows that devices reached in part: they set no baseline and no phase, and hide no drift."""

import pytest

from stream_processors.drift.cohort_judge import ANY_MODEL
from tests.stream_processors.test_cohort_verdicts import (
    SEASON,
    SEP,
    WARMUP,
    Judged,
    first_phase,
    phases,
    season_of,
    seasonal,
    share,
    stepped,
    wobble,
)


@pytest.mark.parametrize("begun", [(20,), (10, 45)])
@pytest.mark.parametrize("sign", [1, -1])
def test_first_windows_that_devices_reached_in_part_hide_no_drift_and_delay_none(begun, sign):
    """A fleet begins within a window, or over two; what it showed of them lies 20 units off."""
    whole = list(stepped(size=5.0 * sign, step_at=10 + len(begun), windows=40))[len(begun) :]
    parts = [(n, {"temperature_mean": share(50.0 + 3 * sign, n=rows)}) for n, rows in enumerate(begun)]
    [found] = Judged().run([*parts, *whole])
    [expected] = Judged().run(whole)
    assert found == expected


def test_a_first_window_in_which_each_device_lacks_one_row_is_of_the_baseline():
    judge = Judged()
    for n in range(WARMUP):
        judge.window(n, {"temperature_mean": share(wobble(n), n=80 if n == 0 else 100)})
    assert judge.state[SEP.join(("watch", ANY_MODEL, "temperature_mean"))]["series"]["level"]["base"]


def test_windows_of_irregularly_many_rows_still_make_a_baseline():
    counts = [100, 55, 90, 60, 95, 50]
    judge = Judged()
    for n in range(WARMUP):
        judge.window(n, {"temperature_mean": share(wobble(n), n=counts[n])})
    assert judge.state[SEP.join(("watch", ANY_MODEL, "temperature_mean"))]["series"]["level"]["base"]


def test_a_state_from_before_rows_were_kept_goes_on_with_its_windows():
    judge, key = Judged(), SEP.join(("watch", ANY_MODEL, "temperature_mean"))
    judge.window(0, {"temperature_mean": share(wobble(0))})
    for of in judge.state[key]["series"].values():
        of["warm"] = [reading[:3] for reading in of["warm"]]
    for n in range(1, WARMUP):
        judge.window(n, {"temperature_mean": share(wobble(n))})
    assert judge.state[key]["series"]["level"]["base"]


def test_a_phase_does_not_expect_what_a_part_of_its_first_window_showed():
    judge = seasonal()
    for n in range(SEASON):
        judge.window(n, {"temperature_mean": share(season_of(n) + 9.0 * (n == 0), n=30 if n == 0 else 100)})
    assert first_phase() not in phases(judge)
    judge.window(SEASON, {"temperature_mean": share(season_of(SEASON))})
    assert phases(judge)[first_phase()] == (1, season_of(SEASON))

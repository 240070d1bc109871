"""Laws of the period that a profile has without saying so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.profile import Profile
from schemas.profile_file import builtin_profiles, find_profile, load_profile, parse_profile
from schemas.summary_period import LEAST_S, PERIODS_S, WINDOWS, period_for

TEXT = """
name = "slow"
[sampling]
rate_hz = {rate}
window_samples = 1
hop_samples = 1
[[channels]]
name = "load"
unit = "1"
min = 0
max = 1
[features]
set = "slow"
[[features.compute]]
channel = "load"
kinds = ["last"]
"""


def profile(hop_s: float, more: str = "") -> Profile:
    return parse_profile(TEXT.format(rate=1 / hop_s) + more, "slow")


@given(st.floats(0.001, 1e6))
def test_a_period_holds_enough_windows_and_is_the_shortest_that_does(hop_s):
    period_s = period_for(hop_s)
    assert period_s >= min(WINDOWS * hop_s, PERIODS_S[-2])
    shorter = [p for p in PERIODS_S if LEAST_S <= p < period_s]
    assert not shorter or shorter[-1] < WINDOWS * hop_s


@pytest.mark.parametrize(
    ("hop_s", "period_s", "window_s"),
    [(0.1, 60, 300), (1, 60, 300), (5, 60, 300), (10, 300, 300), (60, 1800, 9000), (3600, 86400, 432000)],
)
def test_periods_and_drift_windows_follow_the_sampling_rate(hop_s, period_s, window_s):
    drafted = profile(hop_s)
    assert (drafted.summaries.period_s, drafted.drift.window_s) == (period_s, window_s)


def test_what_a_profile_states_holds():
    stated = profile(60, "[summaries]\nperiod_s = 60\n[drift]\nwindow_s = 120\n")
    assert (stated.summaries.period_s, stated.drift.window_s) == (60, 120)
    assert profile(60, "[summaries]\nperiod_s = 60\n").drift.window_s == 300
    assert profile(1, "[summaries]\nperiod_s = 7\n").drift.window_s == 35


def test_a_period_fits_into_a_drift_window_that_is_stated_alone():
    """Profiles of 0.2.0 that state it were valid with a period of a minute, and stay so."""
    assert profile(60, "[drift]\nwindow_s = 3600\n").summaries.period_s == 1800
    assert profile(60, "[drift]\nwindow_s = 300\n").summaries.period_s == 300
    assert profile(60, "[drift]\nwindow_s = 420\n").summaries.period_s == 60
    with pytest.raises(Exception, match="whole multiple"):
        profile(60, "[drift]\nwindow_s = 50\n")


def test_a_profile_that_was_written_out_is_the_same_again():
    slow = profile(60)
    assert Profile.model_validate_json(slow.model_dump_json()) == slow


def test_a_profile_without_younger_keys_has_the_digest_that_0_2_0_gave_it(tmp_path):
    text = builtin_profiles()["machine_demo"].read_text()
    for today, then in (
        ('name = "machine_demo"', 'name = "machine"'),
        (
            "Rotating machine as `machine`, with the short timings of a demo.",
            "Rotating machine: bearing vibration, housing temperature, motor current.",
        ),
    ):
        assert text.count(today) == 1
        text = text.replace(today, then)
    lines, of_0_2_0 = text.splitlines(keepends=True), tmp_path / "machine.toml"
    younger = ("longest_soak_s", "no_holdout", "renewals")
    of_0_2_0.write_text("".join(line for line in lines if not line.startswith(younger)))
    assert load_profile(of_0_2_0).digest() == "84d524be96ddc475"
    asked = profile(1, "[summaries]\nsketches = true\n")
    assert asked.digest() != profile(1).digest()


@pytest.mark.parametrize("name", builtin_profiles())
def test_nobody_gets_a_sketch_or_moments_without_asking(name):
    summaries = find_profile(name).summaries
    assert (summaries.sketches, summaries.moments) == (False, False)


def test_rows_may_wait_only_where_windows_come_once_a_minute_or_less_often():
    assert profile(60, "[filter]\ndelay_s = 600\n").filter.delay_s == 600
    with pytest.raises(Exception, match="once a minute"):
        profile(59, "[filter]\ndelay_s = 600\n")

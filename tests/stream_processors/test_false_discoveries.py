"""How sure a verdict must be, so that few of a fleet's verdicts are false."""

import json
import math

import numpy as np
import pytest

from schemas.topics import DEVICE_PARTITIONS
from stream_processors.drift.false_discoveries import RATE, FleetTests, VerdictCounts, period_us
from stream_processors.drift.series import KEPT
from tests.stream_processors.drift_evaluation import profile_with

HOURLY = profile_with(window_s=3600.0).drift
SHORT = profile_with(window_s=5.0).drift
DAY_US = 86_400_000_000


def test_the_rate_is_held_over_a_quarter_or_4096_windows():
    assert period_us(HOURLY) == 91 * DAY_US
    assert period_us(SHORT) == 4096 * 5_000_000


@pytest.mark.parametrize("policy", [HOURLY, SHORT])
@pytest.mark.parametrize("series", [1, 40, 5000])
def test_the_shares_of_all_tests_of_a_period_add_up_to_half(policy, series):
    """The other half is for tests that begin after a verdict."""
    tests = 1 + period_us(policy) / (policy.window_s * 1e6 * KEPT / 2)
    level = math.exp(-FleetTests(series).needed(policy))
    assert level * series * tests * DEVICE_PARTITIONS == pytest.approx(RATE / 2)


def test_more_series_need_surer_verdicts_and_earlier_verdicts_pay_for_later_ones():
    needed = FleetTests(10).needed(HOURLY)
    assert FleetTests(20).needed(HOURLY) == pytest.approx(needed + math.log(2))
    assert FleetTests(10, found=3).needed(HOURLY) == pytest.approx(needed - math.log(4))
    assert FleetTests(0).needed(HOURLY) == FleetTests(1).needed(HOURLY)


@pytest.mark.parametrize("drifting", [0, 3, 30])
@pytest.mark.parametrize("alike", [False, True])
def test_of_a_fleets_verdicts_few_are_false_even_if_all_series_fail_together(drifting, alike):
    """As many tests as a period may hold; what has not drifted is told as often as its level allows."""
    tests = int(DEVICE_PARTITIONS * (1 + period_us(HOURLY) / (HOURLY.window_s * 1e6 * KEPT / 2)))
    rng, shares = np.random.default_rng(11), []
    for _ in range(2000):
        found = wrong = 0
        shared = rng.uniform()
        for number in rng.permutation(tests):
            chance = shared if alike else rng.uniform()
            is_told = number < drifting or chance < math.exp(-FleetTests(1, found).needed(HOURLY))
            found, wrong = found + is_told, wrong + (is_told and number >= drifting)
        shares.append(wrong / max(found, 1))
    assert np.mean(shares) <= RATE
    assert drifting or alike or np.mean(shares) > RATE / 4, "the level would be needlessly strict"


def test_verdicts_are_counted_by_period_and_old_periods_are_forgotten():
    counts, quarter = VerdictCounts({}), period_us(HOURLY)
    for period in range(6):
        counts.add((period + 1) * quarter, HOURLY, period + 1)
    counts.add(3 * period_us(SHORT), SHORT, 9)
    known = VerdictCounts(json.loads(json.dumps(counts.to_state())))
    assert [known.at(n * quarter, HOURLY) for n in range(1, 8)] == [0, 0, 3, 4, 5, 6, 0]
    assert known.at(5 * quarter + 1, HOURLY) == 6
    assert known.at(3 * period_us(SHORT), SHORT) == 9

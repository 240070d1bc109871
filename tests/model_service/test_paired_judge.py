"""Alarms gained and lost, recall and lateness are held to the gate's prediction, however often one looks."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from model_service.count_bounds import count_lower, count_upper, upper_tail
from model_service.rollout.observed import LabelledWindows, PairedAlarms, PairedShadow
from model_service.rollout.paired_judge import (
    ALPHA,
    DEAF,
    alarms_gained,
    alarms_lost,
    late_scores,
    measures,
    recall_lost,
    scores_raised,
)
from model_service.rollout.paired_statistics import (
    DEVICE_SPREAD,
    MeanLoss,
    evidence_of_absence,
    evidence_of_excess,
    holm,
)
from model_service.rollout.predicted_alarms import (
    PredictedAlarms,
    PredictedMean,
    PredictedShare,
    read_prediction,
)

DAY = 86400
PREDICTED = PredictedAlarms(
    old=PredictedShare(1e-4, 5e6), new=PredictedShare(1e-4, 5e6), gained=PredictedShare(3e-5, 5e6),
    lost=PredictedShare(3e-5, 5e6), recall=PredictedMean(0.02, 0.05, 20),
)  # fmt: skip


def pair(windows=DAY, gained=0, lost=0, both=0, **changes):
    """One device's comparison; every alarm lasts two windows."""
    alarms = PairedAlarms(
        2 * (both + lost), 2 * (both + gained), 2 * gained, 2 * lost, gained_runs=gained, lost_runs=lost
    )
    return replace(PairedShadow(windows, 0.0, 0, alarms), **changes)


def known(old, new, windows=50):
    return PairedShadow(30, 0.0, 0, labelled=LabelledWindows(windows, old, new))


# Counts and their bounds


@pytest.mark.parametrize("events", [0.0, 0.5, 1.0, 7.0, 120.0, 4000.0])
@pytest.mark.parametrize("alpha", [0.025, 0.0015])
def test_bounds_of_a_count_are_those_of_the_gamma_distribution(events, alpha):
    assert count_upper(events, alpha) == pytest.approx(stats.gamma.ppf(1 - alpha, events + 1), rel=1e-9)
    exact = stats.gamma.ppf(alpha, events) if events else 0.0
    assert count_lower(events, alpha) == pytest.approx(exact, rel=1e-9)


def test_the_tail_of_a_count_is_that_of_poisson():
    for events, mean in ((1, 0.0), (1, 0.3), (3, 3.0), (40, 12.5), (12, 40.0)):
        assert upper_tail(events, mean) == pytest.approx(stats.poisson.sf(events - 1, mean), abs=1e-12)


def test_a_look_after_every_run_seldom_finds_an_excess_that_is_none():
    rng, found = np.random.default_rng(5), 0
    for _ in range(2000):
        times = np.cumsum(rng.exponential(1.0, 60))  # at the largest allowed rate: the hardest case
        found += any(evidence_of_excess(n, float(t)) >= 20 for n, t in enumerate(times, 1))
    assert found / 2000 <= 1 / 20


def test_a_rate_that_is_too_much_is_seldom_taken_for_the_expected_one_however_few_devices_differ():
    rng, passed = np.random.default_rng(6), 0
    for _ in range(2000):
        calm = rng.gamma(1 / DEVICE_SPREAD**2, DEVICE_SPREAD**2, 4).mean()
        times = np.cumsum(rng.exponential(1 / (3 * calm), 60))
        looks = ((n - 1, float(t)) for n, t in enumerate(times, 1))
        passed += any(evidence_of_absence(n, t, 3 * t, 4) >= 20 for n, t in looks)
    assert passed / 2000 <= 1 / 20


def test_holms_correction_is_that_of_the_literature():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


# Alarms gained


def test_a_model_that_alarms_as_predicted_is_shown_and_no_sooner_than_three_times_could_be_ruled_out():
    few = [pair(windows=DAY // 10)] * 4
    assert alarms_gained(few, PREDICTED).answer == "open"
    as_predicted = [pair(windows=DAY, gained=1, both=3)] * 4
    assert alarms_gained(as_predicted, PREDICTED).answer == "shown"


def test_alarms_beyond_the_prediction_are_harmful_only_if_two_devices_show_it():
    loud = [pair(gained=20)] * 2
    found = alarms_gained([*loud, pair(), pair()], PREDICTED)
    assert (found.answer, found.p <= ALPHA) == ("harmful", True)
    assert "predicted" in found.text
    alone = alarms_gained([pair(gained=60), pair(), pair(), pair()], PREDICTED)
    assert alone.answer != "harmful", "it may be that device"


def test_a_few_alarms_more_are_open_and_three_times_as_many_are_for_a_person():
    assert alarms_gained([pair(gained=3, both=3)] * 4, PREDICTED).suspect is False
    vague = replace(PREDICTED, gained=PredictedShare(3e-5, 1e5), new=PredictedShare(1e-4, 1e5))
    found = alarms_gained([pair(gained=10, both=3)] * 4, vague)
    assert (found.answer, found.suspect, found.leans) == ("open", True, True)


def test_busier_devices_may_gain_more():
    busy = [pair(gained=4, both=60)] * 4
    assert alarms_gained([pair(gained=6)] * 4, PREDICTED).answer == "harmful"
    assert alarms_gained([pair(gained=6, both=60)] * 4, PREDICTED).answer != "harmful"
    assert alarms_gained(busy, PREDICTED).answer != "harmful"


def test_long_runs_are_fewer_events():
    long = PairedAlarms(0, 48, 48, 0, 1, 0)
    assert alarms_gained([PairedShadow(DAY, 0.0, 0, long)] * 4, PREDICTED).answer != "harmful"
    short = PairedAlarms(0, 48, 48, 0, 48, 0)
    assert alarms_gained([PairedShadow(DAY, 0.0, 0, short)] * 4, PREDICTED).answer == "harmful"


# Alarms lost


def test_alarms_lost_beyond_the_predicted_part_are_harmful():
    assert alarms_lost([pair(lost=3, both=7)] * 4, PREDICTED).answer == "within"
    found = alarms_lost([pair(lost=40, both=2)] * 4, PREDICTED)
    assert (found.answer, round(found.value, 2)) == ("harmful", 0.95)


def test_a_recalibration_that_was_predicted_to_lose_nearly_all_alarms_may():
    right = replace(PREDICTED, old=PredictedShare(0.2, 1e4), lost=PredictedShare(0.19, 1e4))
    assert alarms_lost([pair(lost=4000, both=200)] * 4, right).answer == "within"
    assert alarms_lost([pair(lost=4000, both=200)] * 4, PREDICTED).answer == "harmful"


def test_where_the_old_model_never_alarmed_none_can_be_lost():
    assert alarms_lost([pair()] * 4, PREDICTED).text == "the old model has raised no alarm that could be lost"


# Recall on windows that are known to be faulty


def test_thirty_points_less_recall_on_four_devices_are_harm_and_none_less_are_shown():
    deaf = [known(46, 29), known(44, 31), known(45, 29), known(45, 30)]
    assert recall_lost(deaf, PREDICTED.recall).answer == "harmful"
    sound = [known(45, 44), known(46, 45), known(44, 45), known(45, 43)]
    assert recall_lost(sound, PREDICTED.recall).answer == "shown"


def test_without_a_prediction_four_devices_do_not_condemn_but_do_not_pass_a_deaf_model_either():
    deaf = [known(46, 29), known(44, 31), known(45, 29), known(45, 30)]
    found = recall_lost(deaf, None)
    assert (found.answer, found.leans, found.grows) == ("open", True, False)


def test_a_predicted_loss_of_recall_is_not_held_against_a_model():
    less = [known(45, 33), known(45, 34), known(45, 32), known(45, 33)]
    assert recall_lost(less, PREDICTED.recall).answer == "harmful"
    assert recall_lost(less, PredictedMean(0.22, 0.05, 20)).answer == "shown"


def test_a_deaf_model_passes_no_more_often_than_promised():
    rng, passed = np.random.default_rng(9), 0
    for _ in range(400):
        losses = DEAF + 0.02 + 0.08 * rng.standard_normal(4)
        passed += (
            recall_lost([known(50, round(50 * (1 - x))) for x in losses], PREDICTED.recall).answer == "shown"
        )
    assert passed <= 3


def test_a_known_spread_weighs_by_its_freedom():
    found = MeanLoss.of([0.0, 0.2], 0.1, 9)
    assert (found.mean, found.freedom) == (0.1, 10)
    assert found.spread == pytest.approx(np.sqrt((9 * 0.01 + 0.02) / 10))


# Scores


def scored(old, new, windows=1000):
    """A device's comparison in which all scores of a model lie in one tenth."""
    counts = [tuple(windows * (i == tenth) for i in range(10)) for tenth in (old, new)]
    return pair(old_scores=counts[0], new_scores=counts[1])


SCORES = replace(PREDICTED, score=PredictedMean(0.25, 0.05, 20), rise=PredictedMean(-0.2, 0.1, 20))
"""A recalibration: the new model scores 0.25, a fifth below the old one."""


def test_scores_far_above_those_predicted_are_harmful_if_two_devices_show_it():
    found = scores_raised([scored(4, 8)] * 4, SCORES)
    assert (found.answer, found.value) == ("harmful", pytest.approx(0.4))
    assert "predicted -0.20" in found.text
    assert scores_raised([scored(4, 9), *[scored(4, 2)] * 3], SCORES).answer == "within", (
        "it may be that device"
    )


def test_scores_that_rise_on_devices_whose_old_model_rises_too_are_no_harm():
    """They are in another condition than the gate's devices, or less drifted; the model is not worse."""
    assert scores_raised([scored(9, 7)] * 8, SCORES).answer == "within"
    assert scores_raised([scored(2, 2)] * 8, SCORES).answer == "within"


def test_lower_scores_than_predicted_are_no_harm_by_themselves():
    assert scores_raised([scored(9, 0)] * 20, SCORES).answer == "within"


def test_a_model_that_scores_as_predicted_is_seldom_held_for_one_that_raises_scores():
    rng, found = np.random.default_rng(8), 0
    for _ in range(400):
        devices = []
        for _ in range(8):  # a look after each device, with the largest rise that is allowed
            old, new = (np.clip(rng.normal(mean, 0.05), 0, 0.99) for mean in (0.45, 0.35))
            devices.append(scored(int(old * 10), int(new * 10)))
            found += scores_raised(devices, SCORES).answer == "harmful"
    assert found == 0


def test_without_counts_or_prediction_of_scores_they_are_not_compared():
    assert scores_raised([pair()], SCORES).answer == "not_compared"
    assert scores_raised([scored(4, 9)], PREDICTED).answer == "not_compared"


# Lateness, and what cannot be compared


def test_more_late_windows_than_the_old_model_has_are_harmful():
    def late(new, old):
        return pair(
            windows=400, late=new, old_took=(400 - old, *[0] * 6, old), new_took=(400 - new, *[0] * 6, new)
        )

    assert late_scores([late(120, 0)] * 4).answer == "harmful"
    assert late_scores([late(120, 110)] * 4).answer == "within", "the device is busy under both"
    assert late_scores([late(8, 0)] * 4).answer == "within"


def test_what_devices_or_gate_do_not_say_is_not_compared_and_named():
    old_release = {"d": PairedShadow(20, 0.0, 0)}
    found = measures(old_release, {}, PREDICTED)
    assert {m.answer for m in found} == {"not_compared"}
    assert all(m.text for m in found)
    assert alarms_gained([pair()], None).text == "the gate predicted nothing"


def test_a_stored_prediction_that_cannot_be_read_is_none():
    share = {"value": 0.1, "windows": 100.0}
    good = dict.fromkeys(("old", "new", "gained", "lost"), share)
    assert read_prediction(good).recall is None
    assert (
        read_prediction({**good, "recall": {"value": 0.1, "spread": 0.0, "devices": 5}}).recall.devices == 5
    )
    for bad in (
        None,
        "x",
        {},
        {**good, "old": {"value": 2.0, "windows": 9.0}},
        {**good, "new": {"value": 0.1}},
    ):
        assert read_prediction(bad) is None

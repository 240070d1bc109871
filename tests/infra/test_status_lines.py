"""Laws of what `edgeloop status` says of samples and scores that cannot be."""

from infra.cli.status_command import unfit_samples


def test_a_device_that_loses_too_much_is_named_with_its_channel_and_share():
    process = {"name": "p", "absurd_shares": {"d-1": {"temp": 0.253}}, "counters": {"scores_outside": 0}}
    assert unfit_samples([process]) == ["d-1: 25% of temp outside min..max: mend the range or the sensor"]


def test_scores_that_were_not_used_are_counted():
    assert unfit_samples([{"name": "p", "counters": {"scores_outside": 12}}]) == [
        "p: 12 scores outside [0, 1] not used"
    ]


def test_a_status_file_of_before_says_nothing_of_it():
    assert unfit_samples([{"name": "p"}, {"name": "q", "counters": None, "absurd_shares": None}]) == []

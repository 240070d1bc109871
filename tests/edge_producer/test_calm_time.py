"""Laws of what keeps the sensing loop's hands free: when it hands over, and what it leaves to the writer."""

import pytest

from edge_producer.calm_time import LONGEST_HOP_S, SHORTEST_HOP_S, STOPPED_HOPS, TOO_SLOW, CalmTime
from edge_producer.metering import Meters
from edge_producer.sending.reporter import FEATURE_BYTES, Reporter
from edge_producer.spool.update_backlog import UNMERGED, UNWEIGHED, BacklogLimits, UpdateBacklog
from schemas.profile import Sampling
from tests.edge_producer.spool_rig import bench_profile

HOP_S = 0.01


def calm_time(hop_s=HOP_S, hop_samples=5, devices=1):
    sampling = Sampling(rate_hz=hop_samples / hop_s, window_samples=2 * hop_samples, hop_samples=hop_samples)
    return CalmTime(sampling, devices)


def test_between_windows_of_one_fast_device_other_work_waits_for_the_next_one():
    calm = calm_time()
    assert calm.wait_s(5.0, window=False) == 0.0, "before the first window nothing is expected"
    assert calm.wait_s(5.0, window=True) == 0.0
    assert calm.wait_s(5.002, window=False) > 0.0
    assert calm.wait_s(5.0 + HOP_S, window=True) == 0.0


def test_where_windows_stop_other_work_is_done_all_the_same():
    calm = calm_time()
    calm.wait_s(5.0, window=True)
    waited = calm.wait_s(5.001, window=False)
    assert calm.wait_s(5.001 + waited + 1e-9, window=False) == 0.0
    assert waited <= STOPPED_HOPS * HOP_S


def test_several_devices_slow_windows_and_very_fast_ones_have_no_calm_time():
    for hop_s, devices in ((HOP_S, 2), (2 * LONGEST_HOP_S, 1), (SHORTEST_HOP_S / 2, 1)):
        calm = calm_time(hop_s, devices=devices)
        calm.wait_s(5.0, window=True)
        assert calm.wait_s(5.0, window=False) == 0.0
        assert not calm.rehearses()


def test_each_window_is_prepared_for_once():
    calm = calm_time()
    for _ in range(3):
        calm.wait_s(5.0, window=True)
        assert [calm.rehearses() for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize(("hop_s", "hop_samples"), [(HOP_S, 1), (0.1, 5)])
def test_what_would_be_forgotten_again_before_the_last_sample_is_not_rehearsed(hop_s, hop_samples):
    calm = calm_time(hop_s, hop_samples)
    calm.wait_s(5.0, window=True)
    assert not calm.rehearses()


def test_a_rehearsal_that_does_not_fit_between_two_samples_comes_no_more_and_one_slip_changes_nothing():
    calm, step_s = calm_time(), HOP_S / 5

    def asked(took_s: float) -> bool:
        calm.wait_s(5.0, window=True)
        due = calm.rehearses()
        if due:
            calm.rehearsed(took_s)
        return due

    assert all(asked(3 * step_s if k % TOO_SLOW else step_s / 9) for k in range(5 * TOO_SLOW))
    assert asked(step_s / 9)
    assert [asked(0.95 * step_s) for _ in range(TOO_SLOW + 2)] == [True] * TOO_SLOW + [False] * 2


def sensed(rigs, tmp_path, n):
    rig = rigs(tmp_path, bench_profile(p=0.0001, p_min=0.0001))
    rig.sense([0.1] * n)
    [device] = rig.devices.values()
    return Meters(rig.profile), device.take_update()


def test_what_sending_every_row_would_take_is_weighed_by_who_has_time(rigs, tmp_path):
    meters, update = sensed(rigs, tmp_path, 7)
    assert (len(update.sensed), FEATURE_BYTES in update.meters) == (7, False)
    reporter = Reporter.__new__(Reporter)
    reporter._meters = meters
    weighed = reporter.weighed(update)
    expected = meters.unfiltered_bytes(update.device_id, update.sensed)
    assert (len(weighed.sensed), weighed.meters[FEATURE_BYTES]) == (0, expected)
    assert reporter.weighed(weighed) == weighed


def test_rows_that_nobody_weighs_are_bounded_and_counted(rigs, tmp_path):
    _, update = sensed(rigs, tmp_path, 20)
    backlog = UpdateBacklog(BacklogLimits(rows=10))
    for _ in range(20):
        backlog.add([update])
    kept = backlog.take()
    waiting = sum(len(one.sensed) for one in kept)
    assert waiting <= 10 + UNMERGED * 20
    assert sum(one.meters.get(UNWEIGHED, 0) for one in kept) + waiting == 20 * 20

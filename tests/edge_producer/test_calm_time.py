"""Laws of what keeps the sensing loop's hands free: when it hands over, and what it leaves to the writer."""

from edge_producer.calm_time import LONGEST_HOP_S, SHORTEST_HOP_S, STOPPED_HOPS, CalmTime
from edge_producer.metering import Meters
from edge_producer.sending.reporter import FEATURE_BYTES, Reporter
from edge_producer.spool.update_backlog import UNMERGED, UNWEIGHED, BacklogLimits, UpdateBacklog
from tests.edge_producer.spool_rig import bench_profile

HOP_S = 0.01


def test_between_windows_of_one_fast_device_other_work_waits_for_the_next_one():
    calm = CalmTime(HOP_S, 1)
    assert calm.wait_s(5.0, window=False) == 0.0, "before the first window nothing is expected"
    assert calm.wait_s(5.0, window=True) == 0.0
    assert calm.wait_s(5.002, window=False) > 0.0
    assert calm.wait_s(5.0 + HOP_S, window=True) == 0.0


def test_where_windows_stop_other_work_is_done_all_the_same():
    calm = CalmTime(HOP_S, 1)
    calm.wait_s(5.0, window=True)
    waited = calm.wait_s(5.001, window=False)
    assert calm.wait_s(5.001 + waited + 1e-9, window=False) == 0.0
    assert waited <= STOPPED_HOPS * HOP_S


def test_several_devices_slow_windows_and_very_fast_ones_have_no_calm_time():
    for hop_s, devices in ((HOP_S, 2), (2 * LONGEST_HOP_S, 1), (SHORTEST_HOP_S / 2, 1)):
        calm = CalmTime(hop_s, devices)
        calm.wait_s(5.0, window=True)
        assert calm.wait_s(5.0, window=False) == 0.0
        assert not calm.rehearses()


def test_each_window_is_prepared_for_once():
    calm = CalmTime(HOP_S, 1)
    for _ in range(3):
        calm.wait_s(5.0, window=True)
        assert [calm.rehearses() for _ in range(3)] == [True, False, False]


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

"""Real workers on a real broker: kills, pauses and rebalances under load, and every row exactly once."""

import signal

import pytest

from tests.simulators.cloud import Feed

pytestmark = [pytest.mark.kafka, pytest.mark.faults]


def assert_exactly_once(cloud, feed):
    cloud.await_landed(feed.rows)
    assert cloud.landed() == (feed.rows, feed.rows)


def test_rows_of_many_devices_land_once_and_repeats_are_dropped(cloud):
    feed = Feed(cloud)
    cloud.start()
    feed.send(4, repeat=2)
    assert_exactly_once(cloud, feed)


@pytest.mark.long
def test_what_is_lost_between_fetch_and_buffer_is_fetched_again_the_newest_too(cloud):
    feed = Feed(cloud)
    losing = cloud.start("tests.simulators.losing_worker")
    cloud.await_settled(losing)
    for _ in range(3):
        feed.send(2)
        cloud.await_landed(feed.rows)
    assert_exactly_once(cloud, feed)
    assert losing.log_path.read_text().count("LOST") >= 3


@pytest.mark.sliced(one_of=4)
@pytest.mark.parametrize("step", ["stage", "decide", "apply", "conclude"])
def test_a_worker_killed_after_any_step_is_replaced_without_loss(cloud, step):
    feed = Feed(cloud)
    dying = cloud.start("tests.simulators.dying_worker", step, "3")
    cloud.await_settled(dying)
    sent = 0
    while dying.exit_code is None and sent < 400:
        feed.send(1)
        sent += 1
        dying.wait(0.1)
    assert dying.exit_code == -signal.SIGKILL
    cloud.start()
    feed.send(2)
    assert_exactly_once(cloud, feed)


@pytest.mark.long
def test_two_workers_share_kills_pauses_and_joins_under_load(cloud):
    feed = Feed(cloud)
    first = cloud.start()
    cloud.await_settled(first)
    feed.send(5)
    second = cloud.start()
    cloud.await_settled(second)
    feed.send(5)
    second.kill()
    feed.send(5)
    third = cloud.start()
    cloud.await_settled(third)
    feed.send(5)
    first.stop()
    feed.send(5)
    cloud.await_landed(feed.rows)
    fourth = cloud.start()
    cloud.await_settled(fourth)
    feed.send(5, repeat=2)
    assert_exactly_once(cloud, feed)


@pytest.mark.long
def test_a_paused_worker_that_wakes_after_its_tasks_moved_repeats_nothing(cloud):
    feed = Feed(cloud)
    paused = cloud.start()
    cloud.await_settled(paused)
    feed.send(3)
    cloud.await_landed(feed.rows)
    feed.send(3)
    paused.signal(signal.SIGSTOP)
    other = cloud.start()
    cloud.await_settled(other)
    feed.send(3)
    cloud.await_landed(feed.rows)
    paused.signal(signal.SIGCONT)
    cloud.await_settled(paused, times=2)
    feed.send(3)
    assert_exactly_once(cloud, feed)
    assert (paused.exit_code, other.exit_code) == (None, None)


@pytest.mark.long
def test_a_broker_that_is_killed_loses_nothing_that_it_acknowledged(cloud, broker):
    feed = Feed(cloud)
    cloud.supervise()
    feed.send(3)
    cloud.await_landed(feed.rows)
    feed.send(3)
    broker.kill()
    broker.start()
    feed.send(3)
    assert_exactly_once(cloud, feed)

"""A damaged file stops one task: the worker lives, the other tasks go on, and a repair needs no restart."""

import pytest

from feature_store.commit_log import CommitLog
from feature_store.stopped_tasks import StoppedTasks
from schemas.topics import partition_for
from stream_processors.engine.task_loading import task_name
from tests.simulators.cloud import Cloud, Feed
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka]


def rows_of(cloud, devices) -> int:
    """Rows of these devices that queries return."""
    from feature_store import connect

    with connect(cloud.lake.root, comments=False) as con:
        query = "SELECT count(*) FROM telemetry_machine WHERE list_contains($1, device_id)"
        return con.execute(query, [[d.device_id for d in devices]]).fetchone()[0]


def test_a_damaged_record_stops_its_task_alone_until_it_is_restored(broker, namespace, tmp_path):
    with Cloud(broker.bootstrap_servers, namespace, tmp_path) as cloud:
        feed = Feed(cloud)
        first = cloud.start()
        feed.send(2)
        cloud.await_landed(feed.rows)
        first.terminate()
        partition = partition_for(feed.devices[0].device_id)
        record = CommitLog(cloud.lake.root).path(task_name(partition), 0)
        kept = record.read_bytes()
        record.write_bytes(kept[: len(kept) // 2])

        worker = cloud.start()
        feed.send(3)
        others = [d for d in feed.devices if partition_for(d.device_id) != partition]
        each = feed.rows // len(feed.devices)
        assert 0 < len(others) < len(feed.devices)
        wait_until(lambda: rows_of(cloud, others) == len(others) * each, 60, "rows of the other tasks")
        stopped = StoppedTasks(cloud.lake.root).all()
        assert list(stopped) == [task_name(partition)]
        assert record.name in stopped[task_name(partition)]
        assert worker.exit_code is None
        assert worker.log_path.read_text().count(f"{task_name(partition)} is stopped") == 1
        assert "Traceback" not in worker.log_path.read_text()

        record.write_bytes(kept)
        cloud.await_landed(feed.rows)
        assert cloud.landed() == (feed.rows, feed.rows)
        assert StoppedTasks(cloud.lake.root).all() == {}
        assert worker.exit_code is None

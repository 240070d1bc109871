"""Users' jobs beside a real worker on a real broker: whatever one does, the rows of devices land."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from datetime import UTC, datetime

import duckdb
import psutil
import pytest

from feature_store import connect
from feature_store.cut_store import CutStore
from feature_store.job_status import RUNNING, STOPPED, JobStatusFiles
from tests.simulators.cloud import Cloud, Feed
from tests.simulators.installed_jobs import LISTENING, NUMBERING, install, remove
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

GOOD, WAYWARD = "steady", "wayward"


class Jobs:
    """One stack with users' jobs installed, and what a test asks of them."""

    def __init__(self, cloud, folder):
        self.cloud, self.folder = cloud, folder
        self.feed = Feed(cloud, devices=4, rows=2)
        self.statuses = JobStatusFiles(cloud.lake.root)

    def fault(self, kind):
        """Let the wayward job misbehave from its next rows on; None: not any more."""
        path = self.folder / f"{WAYWARD}.fault"
        path.unlink(missing_ok=True)
        if kind is not None:
            path.write_text(kind)

    def resume(self, job=WAYWARD):
        """Let a stopped job try again now, as `edgeloop job resume` does."""
        self.statuses.retry(job, datetime.now(UTC))

    def states(self, job):
        return {s.task: s for s in self.statuses.all() if s.job == job}

    def stopped(self, job=WAYWARD):
        return [s for s in self.states(job).values() if s.state == STOPPED]

    def numbers(self, job):
        """Rows that the job landed: by device, their numbers in order of seq."""
        cut = CutStore(self.cloud.lake).latest()
        if cut is None or f"{job}_rows" not in cut.tables:
            return {}
        with connect(self.cloud.lake.root, comments=False) as con:
            found = con.execute(
                f"SELECT device_id, list(number ORDER BY seq), count(DISTINCT seq) FROM {job}_rows GROUP BY 1"
            ).fetchall()
        return {device: (numbers, distinct) for device, numbers, distinct in found}

    def expected(self):
        per_device = self.feed.rows // len(self.feed.devices)
        return {d.device_id: (list(range(1, per_device + 1)), per_device) for d in self.feed.devices}

    def has_all(self, job):
        return self.numbers(job) == self.expected()

    def await_all(self, job):
        wait_until(lambda: self.has_all(job), 60, f"every row in {job}'s table, once and in order")

    def child(self, job):
        """Process of the job; None while it does not run."""
        for process in psutil.Process(self.cloud.workers[-1].pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if job in process.cmdline():
                    return process
        return None


@pytest.fixture(scope="module")
def jobs(broker, admin, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    for name in (GOOD, WAYWARD):
        install(folder, name, NUMBERING.format(name=name))
    install(folder, "listening", LISTENING, entry_point="ears")
    install(folder, "unloadable", "raise ImportError('no module named numbers_of_mine')")
    install(folder, "clashing", NUMBERING.format(name="clashing").replace('"clashing_rows"', '"summaries"'))
    namespace = f"t{uuid.uuid4().hex[:10]}"
    admin.create_topics(namespace)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        "STREAM_JOB_TIMEOUT_S": "8",
        "STREAM_JOB_MEMORY_MB": "700",
    }
    with Cloud(
        broker.bootstrap_servers, namespace, tmp_path_factory.mktemp("cloud"), environment=environment
    ) as c:
        c.start()
        yield Jobs(c, folder)
    admin.delete_topics([t for t in admin.topics() if t.startswith(f"{namespace}.")])


def test_a_job_sees_every_row_once_and_in_order(jobs):
    jobs.feed.send(2)
    for job in (GOOD, WAYWARD):
        jobs.await_all(job)
        assert {s.package for s in jobs.states(job).values() if s.state == RUNNING} == {f"{job} 0.1.0"}


def test_a_plain_client_sees_a_jobs_newest_rows_although_no_device_sends(jobs):
    def shown():
        path = jobs.cloud.lake.root / "catalog.duckdb"
        with suppress(duckdb.CatalogException), duckdb.connect(path, read_only=True) as con:
            con.execute(f"SET file_search_path = '{path.parent}'")
            return con.execute(f"SELECT count(*) FROM {GOOD}_rows").fetchone()[0]
        return 0  # it is older than the job's table

    wait_until(lambda: shown() == jobs.feed.rows, 30, "the catalog to show the job's rows")


@pytest.mark.sliced(one_of=2)
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("raise", "ValueError: a sensor said \\x1b[31mno"),
        ("segfault", "signal SIGSEGV"),
        ("hang", "no answer within 8 s"),
        ("eat", "MemoryError"),
    ],
)
def test_a_job_that_fails_stops_alone_and_goes_on_where_it_stopped(jobs, fault, says):
    jobs.fault(fault)
    jobs.feed.send(1)
    jobs.cloud.await_landed(jobs.feed.rows)
    jobs.await_all(GOOD)
    wait_until(lambda: any(says in (s.error or "") for s in jobs.stopped()), 60, f"a status that says {says}")
    jobs.feed.send(1)
    jobs.cloud.await_landed(jobs.feed.rows)
    jobs.fault(None)
    jobs.resume()
    jobs.await_all(WAYWARD)
    wait_until(lambda: not jobs.stopped(), 30, "no task of the job to be stopped")


def test_a_job_that_reads_messages_gets_each_once_and_publishes_what_it_makes_of_them(jobs, admin):
    jobs.feed.send(1)
    topic = f"{jobs.cloud.namespace}.lifecycle.v1"

    def published():
        return sum(span.end for span in admin.spans([topic]).values())

    wait_until(lambda: published() >= jobs.feed.acked, 60, "a message for each message")
    assert published() == jobs.feed.acked
    with connect(jobs.cloud.lake.root, comments=False) as con:
        query = "SELECT count(*), count(DISTINCT (_partition, source_offset)) FROM listening_rows"
        assert con.execute(query).fetchone() == (jobs.feed.acked, jobs.feed.acked)
    assert {s.installed_as for s in jobs.states("listening").values()} == {"ears"}
    assert jobs.states("ears") == {}, "the job's own name counts"


def test_a_job_killed_by_hand_is_started_again_and_misses_nothing(jobs):
    wait_until(lambda: jobs.child(GOOD) is not None, 30, "the job's process")
    killed = jobs.child(GOOD)
    jobs.feed.send(1)
    killed.kill()
    jobs.feed.send(1)
    jobs.await_all(GOOD)
    assert jobs.child(GOOD) != killed


def test_a_job_that_cannot_be_loaded_stops_alone_and_misses_nothing_once_it_is_mended(jobs):
    wait_until(lambda: jobs.stopped("unloadable"), 30, "its status")
    assert {s.error for s in jobs.stopped("unloadable")} == {"ImportError: no module named numbers_of_mine"}
    (jobs.folder / "unloadable.py").write_text(NUMBERING.format(name="unloadable"))
    jobs.resume("unloadable")
    jobs.await_all("unloadable")


def test_a_job_that_takes_a_name_of_ours_for_its_table_is_refused_alone(jobs):
    wait_until(lambda: jobs.stopped("clashing"), 30, "its status")
    assert "table name 'summaries' is taken by edgeloop" in jobs.stopped("clashing")[0].error


def test_a_job_that_is_uninstalled_and_comes_back_has_missed_nothing(jobs):
    remove(jobs.folder, WAYWARD)
    jobs.child(WAYWARD).kill()
    jobs.feed.send(2)
    jobs.await_all(GOOD)
    wait_until(jobs.stopped, 30, "its status")
    assert "is not installed any more" in jobs.stopped()[0].error
    install(jobs.folder, WAYWARD, NUMBERING.format(name=WAYWARD))
    jobs.resume()
    jobs.await_all(WAYWARD)


@pytest.mark.long
def test_no_process_of_a_job_outlives_its_worker_not_even_one_that_hangs(jobs):
    jobs.fault("hang")
    jobs.feed.send(1)
    jobs.await_all(GOOD)
    children = [jobs.child(GOOD), jobs.child(WAYWARD)]
    jobs.cloud.workers[-1].kill()
    wait_until(lambda: not any(map(lives, children)), 10, "the end of the jobs' processes")
    jobs.fault(None)
    jobs.cloud.start()
    jobs.feed.send(1)
    jobs.await_all(GOOD)
    jobs.await_all(WAYWARD)


def lives(process):
    with suppress(psutil.NoSuchProcess):
        return process is not None and process.status() != psutil.STATUS_ZOMBIE
    return False

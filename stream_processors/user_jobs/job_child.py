"""The process of one user job: `python -m stream_processors job NAME`, which only a worker starts.

It ends with its worker, whatever ends that: the kernel kills it with the thread that started it, and it ends
by itself when the pipe from the worker closes. Its memory is bounded, and it yields the CPU to the others.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from importlib.metadata import version
from typing import Any

import orjson

from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.job_status import JobStatusFiles
from feature_store.lake import Lake
from feature_store.worker_keys import WorkerKeys
from schemas.errors import RetryableError
from schemas.instants import utc_now
from stream_processors.engine.checkpoint import CheckpointParts
from stream_processors.engine.kafka_log import KafkaLog
from stream_processors.engine.letters import Unpublished
from stream_processors.engine.records import CommitRecord
from stream_processors.engine.task_loading import task_name
from stream_processors.ingest.lake_directory import directory_of
from stream_processors.job import RawMessage
from stream_processors.settings import StreamSettings
from stream_processors.user_jobs.child_report import BUSY, CALLING, LOADED, LOADING, REFUSED, line_of
from stream_processors.user_jobs.declaration import UserJob, load_job, make_tables
from stream_processors.user_jobs.job_checkpoint import JobCheckpoint
from stream_processors.user_jobs.job_input import InputLimits, JobInput
from stream_processors.user_jobs.job_loop import JobLoop, LoopSettings
from stream_processors.user_jobs.job_points import InstalledPackage, find_point, installed_package
from stream_processors.user_jobs.job_source import JobSource

EXIT_AGAIN = 75  # EX_TEMPFAIL: a fresh process should go on
EXIT_REFUSED = 76  # EX_PROTOCOL: the job cannot be loaded; the report before says why
NICENESS = 5
_BEAT_S = 5.0


class WorkerLink:
    """The two pipes to the worker: which tasks this process owns, and what it is doing.

    Args:
        control: Descriptor that the worker writes to.
        report: Descriptor that it reads from.
    """

    def __init__(self, control: int, report: int) -> None:
        self._control, self._report = control, report
        self._changed = threading.Event()
        self._telling = threading.Lock()
        self._phase = LOADING
        self.owned: frozenset[int] = frozenset()
        for run in (self._listen, self._beat):
            threading.Thread(target=run, name="worker-link", daemon=True).start()

    def tell(self, phase: str, **more: Any) -> None:
        """Report what this process does from now on."""
        with self._telling:
            self._phase = phase
            self._write(line_of(phase, **more))

    def _write(self, line: bytes) -> None:
        try:
            os.write(self._report, line)
        except OSError:
            os._exit(0)  # the worker is gone

    def _beat(self) -> None:
        """Report every few seconds that our own work goes on: reading years of rows may take long."""
        while True:
            time.sleep(_BEAT_S)
            with self._telling:
                if self._phase == BUSY:
                    self._write(line_of(BUSY))

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until the tasks change."""
        self._changed.wait(seconds)
        self._changed.clear()

    def _listen(self) -> None:
        with os.fdopen(self._control, "rb") as lines:
            for line in lines:
                self.owned = frozenset(orjson.loads(line)["tasks"])
                self._changed.set()
        os._exit(0)


def run_job(name: str, link: WorkerLink, settings: StreamSettings) -> int:
    """Run the job on the tasks that the worker hands over, until a fresh process should go on.

    Returns:
        The process's exit code.
    """
    faulthandler.enable()
    link.tell(LOADING)
    lake = Lake.open(settings.lake_root)
    try:
        point = find_point(name)
        package = installed_package(point)  # before it is loaded: a later build must not pass for this one
        job = load_job(point, directory_of(lake))
        make_tables(lake, job)
    except RetryableError:
        raise
    except BaseException as exc:  # a SystemExit of the user's module too
        link.tell(
            REFUSED,
            error="".join(traceback.format_exception_only(exc)).strip()[:2000],
            traceback=traceback.format_exc()[-8000:],
        )
        logging.getLogger(__name__).exception("job %s cannot be loaded", name)
        return EXIT_REFUSED
    link.tell(LOADED, job=job.name)
    loop = _loop(job, name, package, lake, settings, link)
    while True:
        owned = link.owned
        link.tell(BUSY)
        more = loop.round(owned)
        if loop.wants_restart(owned):
            return EXIT_AGAIN
        if not more:
            link.wait(settings.job_poll_s)


class _LatePublisher:
    """Publishes derived messages; connects with the first."""

    def __init__(self, kafka: Callable[[], KafkaLog]) -> None:
        self._kafka = kafka

    def publish(
        self, record: CommitRecord, originals: Mapping[tuple[str, int, int], RawMessage]
    ) -> Sequence[Unpublished]:
        """Publish the record's messages and return once the log has them; those that it never takes."""
        return self._kafka().publish(record, originals)


def _loop(
    job: UserJob,
    installed_as: str,
    package: InstalledPackage,
    lake: Lake,
    settings: StreamSettings,
    link: WorkerLink,
) -> JobLoop:
    signer = WorkerKeys(lake.root).signer("worker")
    kafka = cache(lambda: KafkaLog(settings.bootstrap_servers, settings.namespace, settings.group_id, signer))
    cuts = CutStore(lake)
    parts = CheckpointParts(
        lake=lake,
        commits=CommitLog(lake.root),
        cuts=cuts,
        jobs=(),
        publisher=_LatePublisher(kafka),
        log_identity=lambda: kafka().identity(),
        clock=utc_now,
        code={"edgeloop": version("edgeloop"), f"job.{job.name}": str(job.version)},
    )
    limits = InputLimits(settings.job_batch_rows, settings.job_batch_bytes)
    memory_mb = max(64, settings.job_memory_mb // 4)

    def calling(task: int | None, given: JobInput) -> None:
        if task is None:
            link.tell(BUSY)
        else:
            link.tell(CALLING, task=task, upto=given.reached.get(task_name(task), 0) - 1)

    checkpoint = JobCheckpoint(
        parts,
        job,
        installed_as,
        lambda task: JobSource(lake, cuts, job, task, limits, kafka, memory_mb),
        calling,
    )
    loop_settings = LoopSettings(
        timedelta(seconds=settings.tick_s), settings.job_retention_s, installed_as, package
    )
    return JobLoop(checkpoint, job, JobStatusFiles(lake.root), loop_settings, utc_now)

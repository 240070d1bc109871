"""Wires one stream worker: jobs, checkpoint, Faust door, housekeeping."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version

from feature_store.catalog import refresh_catalog
from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.maintenance import compact, vacuum
from schemas.instants import utc_now
from schemas.topics import TASK_TOPICS
from stream_processors.engine.checkpoint import Checkpoint, CheckpointParts
from stream_processors.engine.faust_door import FaustDoor
from stream_processors.engine.job_trials import TrialLimits
from stream_processors.engine.kafka_log import KafkaLog
from stream_processors.engine.watchdog import Watchdog
from stream_processors.job import RawMessage
from stream_processors.lake_jobs import directory_of, installed_jobs, jobs_of_lake, senders_in
from stream_processors.settings import StreamSettings


class Housekeeping:
    """A task handler that also compacts, refreshes the catalog and vacuums between commits."""

    def __init__(self, checkpoint: Checkpoint, lake: Lake, cuts: CutStore, settings: StreamSettings) -> None:
        self._checkpoint, self._lake, self._cuts, self._settings = checkpoint, lake, cuts, settings
        self._commits = 0
        self._catalog_at = 0.0
        self._vacuumed_at = time.monotonic()
        self._catalog_stale = True

    def open(self, task: int) -> dict[str, int]:
        """Recover a task."""
        return self._checkpoint.open(task)

    def close(self, task: int) -> None:
        """Forget a task, and show what it landed last in the catalog."""
        self._checkpoint.close(task)
        self._refresh_catalog()

    def process(self, batches: Mapping[int, Sequence[RawMessage]]) -> None:
        """Commit, then compact, refresh or vacuum where it is due."""
        self._checkpoint.process(batches)
        if any(batches.values()):
            self._commits += 1
            self._catalog_stale = True
            if self._commits % self._settings.compact_every == 0:
                compact(self._lake, self._cuts)
        now = time.monotonic()
        if now - self._catalog_at >= self._settings.catalog_every_s:
            self._refresh_catalog()
        if now - self._vacuumed_at >= self._settings.vacuum_every_s:
            self._vacuumed_at = now
            vacuum(self._lake, self._cuts, utc_now())

    def _refresh_catalog(self) -> None:
        if self._catalog_stale:
            refresh_catalog(self._lake)
            self._catalog_at, self._catalog_stale = time.monotonic(), False


def build_worker(settings: StreamSettings, checkpoint_type: type[Checkpoint] = Checkpoint) -> FaustDoor:
    """A worker that is ready to run.

    Args:
        settings: Of this worker.
        checkpoint_type: Fault tests give a subclass that dies between two steps.
    """
    lake = Lake.open(settings.lake_root)
    lake.ensure_fixed_tables()
    cuts = CutStore(lake)
    directory = directory_of(lake)
    watchdog = Watchdog(settings.stall_timeout_s)
    jobs = installed_jobs(directory)
    kafka = KafkaLog(settings.bootstrap_servers, settings.namespace, settings.group_id, watchdog.progress)
    parts = CheckpointParts(
        lake=lake,
        commits=CommitLog(lake.root),
        cuts=cuts,
        jobs=jobs,
        publisher=kafka,
        log_identity=kafka.identity,
        clock=utc_now,
        code={"edgeloop": version("edgeloop"), **{f"job.{j.name}": str(j.version) for j in jobs}},
        sender_of=senders_in(directory),
        trial_jobs=partial(jobs_of_lake, lake.root),
        trial_limits=TrialLimits(settings.trial_memory_mb, settings.trial_timeout_s),
        reads=kafka,
        progress=watchdog.progress,
    )
    handler = Housekeeping(checkpoint_type(parts), lake, cuts, settings)
    topics = [t.base for t in TASK_TOPICS]
    return FaustDoor(
        settings,
        topics,
        handler,
        lambda: KafkaLog(settings.bootstrap_servers, settings.namespace, settings.group_id),
        watchdog,
    )

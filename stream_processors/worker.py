"""Wires one stream worker: jobs, checkpoint, Faust door, housekeeping."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from feature_store.catalog import refresh_catalog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRegistry, ProfileRegistry
from feature_store.maintenance import compact, vacuum
from schemas.instants import utc_now
from schemas.topics import TASK_TOPICS
from stream_processors.engine.checkpoint import Checkpoint, CheckpointParts
from stream_processors.engine.faust_door import FaustDoor
from stream_processors.engine.kafka_log import KafkaLog
from stream_processors.engine.pipeline import in_order
from stream_processors.ingest.lake_directory import LakeDirectory
from stream_processors.job import Job, RawMessage
from stream_processors.settings import StreamSettings
from stream_processors.user_jobs.declaration import built_in_points, user_points
from stream_processors.user_jobs.feed_log import FeedLog
from stream_processors.user_jobs.job_supervisor import JobSupervisor, WithUserJobs


def installed_jobs(directory: LakeDirectory) -> tuple[Job, ...]:
    """The built-in jobs, in order, built for this directory; users' jobs run in processes of their own."""
    return in_order([point.load()(directory) for point in built_in_points()])


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
    directory = LakeDirectory(ProfileRegistry(lake), DeviceRegistry(lake))
    jobs = installed_jobs(directory)
    kafka = KafkaLog(settings.bootstrap_servers, settings.namespace, settings.group_id)
    parts = CheckpointParts(
        lake=lake,
        commits=FeedLog(lake.root, utc_now),
        cuts=cuts,
        jobs=jobs,
        publisher=kafka,
        log_identity=kafka.identity,
        clock=utc_now,
        code={"edgeloop": version("edgeloop"), **{f"job.{j.name}": str(j.version) for j in jobs}},
    )
    checkpoint = checkpoint_type(parts)
    names = sorted({point.name for point in user_points()})
    topics = [t.base for t in TASK_TOPICS]
    return FaustDoor(
        settings,
        topics,
        WithUserJobs(
            Housekeeping(checkpoint, lake, cuts, settings),
            checkpoint,
            lake.root,
            names,
            JobSupervisor(names, settings),
        ),
        lambda: KafkaLog(settings.bootstrap_servers, settings.namespace, settings.group_id),
    )

"""Wires one stream worker: jobs, checkpoint, Faust door, housekeeping."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version

from feature_store.cut_store import CutStore
from feature_store.derived_trust import begin_signing
from feature_store.excerpt_retention import expire_excerpts
from feature_store.lake import Lake
from feature_store.maintenance import vacuum
from feature_store.scrub import Scrub
from feature_store.start_up import heal
from feature_store.stopped_tasks import StoppedTasks
from feature_store.worker_keys import WorkerKeys
from schemas.errors import DamagedLakeError, PipelineError, TasksStoppedError
from schemas.instants import utc_now
from schemas.topics import TASK_TOPICS
from stream_processors.catalog_thread import CatalogThread
from stream_processors.compaction_process import CompactionProcess
from stream_processors.engine.checkpoint import Checkpoint, CheckpointParts
from stream_processors.engine.faust_door import FaustDoor
from stream_processors.engine.job_trials import TrialLimits
from stream_processors.engine.kafka_log import KafkaLog
from stream_processors.engine.task_loading import task_name
from stream_processors.engine.watchdog import Watchdog
from stream_processors.ingest.lake_directory import directory_of
from stream_processors.job import RawMessage
from stream_processors.lake_jobs import installed_jobs, jobs_of_lake, senders_in
from stream_processors.refused_messages import LetterLimits
from stream_processors.settings import StreamSettings
from stream_processors.user_jobs.feed_log import FeedLog
from stream_processors.user_jobs.job_points import user_points
from stream_processors.user_jobs.job_supervisor import JobSupervisor, WithUserJobs

log = logging.getLogger(__name__)

HEAL_AGAIN_S = 10.0
"""Least time between two attempts to heal a lake that stops tasks."""


class Housekeeping:
    """A task handler that also vacuums and scrubs between commits.

    None of that is needed for a commit: what fails is logged, and tried again when it is due again. It asks
    for compactions, which another process does, and for the catalog, which a thread builds.

    Args:
        checkpoint: Commits.
        lake: What it commits to.
        cuts: Of the same lake.
        settings: Of the worker.
        compact: Asks for a compaction; returns at once.
        catalog: Shows what landed; None: nobody reads it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        lake: Lake,
        cuts: CutStore,
        settings: StreamSettings,
        compact: Callable[[], None] = lambda: None,
        catalog: CatalogThread | None = None,
    ) -> None:
        self._checkpoint, self._lake, self._cuts, self._settings = checkpoint, lake, cuts, settings
        self._compact, self._catalog = compact, catalog
        self._commits = 0
        self._vacuumed_at = self._scrubbed_at = time.monotonic()
        self._healed_at = 0.0
        self._scrub = Scrub(lake.root, cuts, settings.scrub_bytes)
        self._stopped = StoppedTasks(lake.root)
        self._warned: dict[str, str] = {}

    def open(self, task: int) -> dict[str, int]:
        """Recover a task; where a damaged file prevents it, heal the lake and try once more."""
        try:
            try:
                offsets = self._checkpoint.open(task)
            except DamagedLakeError:
                self._heal()
                offsets = self._checkpoint.open(task)
        except DamagedLakeError as exc:
            self._stopped.add(task_name(task), str(exc))
            raise
        self._stopped.remove(task_name(task))
        return offsets

    def close(self, task: int) -> None:
        """Forget a task, and show what it landed last in the catalog."""
        self._checkpoint.close(task)
        if self._catalog:
            self._catalog.show()

    def process(self, batches: Mapping[int, Sequence[RawMessage]]) -> None:
        """Commit, then ask for a compaction and the catalog, vacuum or scrub where it is due."""
        try:
            self._checkpoint.process(batches)
        except TasksStoppedError as exc:
            for task, reason in exc.reasons.items():
                self._stopped.add(task_name(task), reason)
            raise
        if any(batches.values()):
            self._commits += 1
            if self._commits % self._settings.compact_every == 0:
                self._compact()
        if self._catalog:
            self._catalog.ask()
        now = time.monotonic()
        if now - self._vacuumed_at >= self._settings.vacuum_every_s:
            self._vacuumed_at = now
            self._try("retention", lambda: expire_excerpts(self._lake, self._cuts, utc_now()))
            self._try("vacuum", lambda: vacuum(self._lake, self._cuts, utc_now()))
        if now - self._scrubbed_at >= self._settings.scrub_every_s:
            self._scrubbed_at = now
            self._try("scrub", lambda: self._scrub.turn(utc_now()))

    def _heal(self) -> None:
        now = time.monotonic()
        if now - self._healed_at >= HEAL_AGAIN_S:
            self._healed_at = now
            heal(self._lake, self._cuts)

    def _try(self, what: str, step: Callable[[], object]) -> None:
        try:
            step()
            self._warned.pop(what, None)
        except (PipelineError, OSError) as exc:
            if self._warned.get(what) != str(exc):
                log.warning("%s failed, and is tried again when it is due: %s", what, exc)
            self._warned[what] = str(exc)


def build_worker(settings: StreamSettings, checkpoint_type: type[Checkpoint] = Checkpoint) -> FaustDoor:
    """A worker that is ready to run.

    Args:
        settings: Of this worker.
        checkpoint_type: Fault tests give a subclass that dies between two steps.
    """
    lake = Lake.open(settings.lake_root)
    cuts = CutStore(lake)
    heal(lake, cuts)
    watchdog = Watchdog(settings.stall_timeout_s)
    kafka = KafkaLog(
        settings.bootstrap_servers,
        settings.namespace,
        settings.group_id,
        WorkerKeys(lake.root).signer("worker"),
        watchdog.progress,
    )
    begin_signing(lake.root, lambda topic, p: kafka.log_range(topic, p)[1])
    directory = directory_of(
        lake, LetterLimits(settings.letters_per_minute, settings.letter_bytes_per_minute)
    )
    jobs = installed_jobs(directory)
    parts = CheckpointParts(
        lake=lake,
        commits=FeedLog(lake.root, utc_now),
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
    checkpoint = checkpoint_type(parts)
    compaction = CompactionProcess(lake.root, settings.compact_memory_mb, settings.stall_timeout_s)
    catalog = CatalogThread(lake.root, settings.catalog_every_s)
    names = sorted({point.name for point in user_points()})
    topics = [t.base for t in TASK_TOPICS]
    return FaustDoor(
        settings,
        topics,
        WithUserJobs(
            Housekeeping(checkpoint, lake, cuts, settings, compaction.ask, catalog),
            checkpoint,
            lake.root,
            names,
            JobSupervisor(names, settings),
        ),
        lambda: KafkaLog(settings.bootstrap_servers, settings.namespace, settings.group_id),
        watchdog,
    )

"""The trainer's process: turns drift verdicts, schedules, labels and requests of people into candidates."""

from __future__ import annotations

import logging
import threading
from contextlib import closing

from feature_store.lake import Lake
from model_service.processes.process_loop import ProcessJob, ProcessLoop
from model_service.registry.database import Registry
from model_service.settings import ModelSettings
from model_service.training.config_scheduler import PAUSE_S, ConfigScheduler
from model_service.training.scheduler import PROPOSE_EVERY_S, TrainingScheduler
from schemas.instants import utc_now

log = logging.getLogger(__name__)


def run(settings: ModelSettings, stop: threading.Event) -> None:
    """Train until ``stop`` is set. After a kill, the next start continues where this one was.

    Args:
        settings: Settings of the model service.
        stop: Ends the loop after the current step.

    Raises:
        OperatorError: The lake or a key needs a person.
    """
    with closing(Registry.open(settings.database_url, settings.root)) as registry:
        scheduler = TrainingScheduler(settings, registry, Lake.open(settings.lake_root), utc_now)
        configs = ConfigScheduler(settings, registry, Lake.open(settings.lake_root), utc_now)
        log.info("trainer of %s", settings.root)
        jobs = (
            ProcessJob("reasons to train", scheduler.poll),
            ProcessJob("training runs", scheduler.work),
            ProcessJob("configurations", configs.step, PAUSE_S),
            ProcessJob("stale proposals", scheduler.renew_proposals, PROPOSE_EVERY_S),
        )
        ProcessLoop(jobs, settings.tick_s).run(stop)

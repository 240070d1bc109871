"""The guard evaluator's process, with a key of its own: examines one proposal at a time."""

from __future__ import annotations

import threading
import time
from contextlib import closing

from feature_store.lake import Lake
from model_service.fleet.known_profiles import KnownProfiles
from model_service.processes.process_loop import ProcessJob, ProcessLoop
from model_service.registry.database import Registry
from model_service.rollout.alarm_rates import LakeRates
from model_service.rollout.config_judges import LakeJudges
from model_service.rollout.guard_evaluator import GuardEvaluator
from model_service.settings import ModelSettings
from model_service.trust.keys import load_online_key
from model_service.trust.repository import TrustRepository
from model_service.trust.roles import GUARD
from schemas.channel_documents import BROAD_ROLE


def run(settings: ModelSettings, stop: threading.Event) -> None:
    """Run until ``stop`` is set.

    Args:
        settings: Settings of the model service.
        stop: Ends the loop after the current step.

    Raises:
        OperatorError: The key or the repository is missing, or a file was altered.
    """
    with closing(Registry.open(settings.database_url, settings.root)) as registry:
        guard = build_guard(settings, registry, Lake.open(settings.lake_root))
        ProcessLoop([ProcessJob("broad channels", guard.tick)], settings.tick_s).run(stop)


def build_guard(settings: ModelSettings, registry: Registry, lake: Lake) -> GuardEvaluator:
    """A guard with its key.

    Raises:
        OperatorError: The key is missing.
    """
    return GuardEvaluator(
        registry,
        TrustRepository(settings.repository, settings.proposals, settings.artifacts),
        load_online_key(settings.keys / GUARD, BROAD_ROLE),
        KnownProfiles(lake),
        LakeRates(settings.lake_root),
        settings.channel_s,
        time.time,
        LakeJudges(settings.lake_root),
    )

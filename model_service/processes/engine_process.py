"""The engine's process: issues certificates, publishes models, runs rollouts, ships lifecycle events."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime

from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRegistry
from feature_store.worker_keys import WorkerKeys
from model_service.fleet.known_profiles import KnownProfiles
from model_service.fleet.revocation_copies import RevocationCopies
from model_service.identity.issuer import PKI_S, Issuer
from model_service.identity.people import record_people
from model_service.lifecycle.event_shipper import EVERY_S, EventShipper
from model_service.lifecycle.lifecycle_topic import LifecycleTopic
from model_service.processes.process_loop import ProcessJob, ProcessLoop
from model_service.registry.database import Registry
from model_service.rollout.alarm_rates import LakeRates
from model_service.rollout.channel_publisher import ChannelPublisher
from model_service.rollout.channel_renewal import ChannelRenewal
from model_service.rollout.config_judges import LakeJudges
from model_service.rollout.engine import Engine
from model_service.rollout.launch import RolloutLauncher
from model_service.rollout.release_outcomes import EVERY_S as OUTCOMES_S
from model_service.rollout.release_outcomes import ReleaseOutcomes
from model_service.settings import ModelSettings
from model_service.trust.keys import load_online_key
from model_service.trust.online import OnlineSigner
from model_service.trust.profile_channels import publish_profile_channel
from model_service.trust.repository import TrustRepository
from model_service.trust.roles import ENGINE
from schemas.channel_documents import BROAD_ROLE, CANARY_ROLE
from schemas.durable import ABANDONED_S, DISK
from schemas.errors import DamagedFileError, OperatorError
from schemas.profile_channel import PROFILE_CHANNEL_ROLE, ProfileChannel

_RENEW_EVERY_S = 30.0
_REVOCATIONS_S = 2.0
_CHECK_FILES_S, _CHECK_BUNDLES_S = 60.0, 3600.0
"""Pauses between two looks at all metadata, and at all bundles, that are published."""

_KEY_BESIDE = ".*.key." + "[0-9a-f]" * 32
"""Pattern of the file that release 0.2.0 left if it crashed while it wrote a key."""


def run(settings: ModelSettings, stop: threading.Event) -> None:
    """Run until ``stop`` is set.

    Args:
        settings: Settings of the model service.
        stop: Ends the loop after the current step.

    Raises:
        OperatorError: A key or the repository is missing, or a file was altered.
    """
    with ExitStack() as opened:
        registry = opened.enter_context(closing(Registry.open(settings.database_url, settings.root)))
        DISK.sweep(settings.root, time.time() - ABANDONED_S, (_KEY_BESIDE,), deep=True)
        topic = None
        if settings.bootstrap_servers:
            signer = WorkerKeys(settings.lake_root).signer("engine")
            topic = LifecycleTopic(settings.bootstrap_servers, settings.namespace, signer)
            opened.enter_context(closing(topic))
        loop = _loop(settings, registry, topic)
        loop.run(stop)
        loop.turn()  # what arrived during the last step


def _loop(settings: ModelSettings, registry: Registry, topic: LifecycleTopic | None) -> ProcessLoop:
    """The loop of the process, its jobs in the order of their turns."""
    lake = Lake.open(settings.lake_root)
    repo = TrustRepository(settings.repository, settings.proposals, settings.artifacts)
    issuer = Issuer(settings, registry, DeviceRegistry(lake))
    shipper = EventShipper(registry, lake, topic)
    copies = RevocationCopies(settings.root)
    outcomes = ReleaseOutcomes(registry, settings.lake_root, KnownProfiles(lake), time.time)
    jobs = (
        ProcessJob("certificate requests", issuer.step),
        ProcessJob("people's certificates", lambda: record_people(settings, registry), PKI_S),
        ProcessJob("revocations", lambda: copies.reconcile(registry), _REVOCATIONS_S),
        ProcessJob("published files", repo.check_files, _CHECK_FILES_S),
        ProcessJob("published bundles", repo.check_bundles, _CHECK_BUNDLES_S),
        *_signing_jobs(settings, registry, lake, repo),
        ProcessJob("outcomes of rollouts", outcomes.step, OUTCOMES_S),
        ProcessJob("ship events", lambda: shipper.step(datetime.now(UTC)), EVERY_S),
    )
    return ProcessLoop(jobs, settings.tick_s)


def _signing_jobs(
    settings: ModelSettings, registry: Registry, lake: Lake, repo: TrustRepository
) -> tuple[ProcessJob, ...]:
    """Jobs that need the trust keys; while one is damaged, a job that waits for it: the others go on."""
    try:
        online = OnlineSigner.load(settings)
        engine = build_engine(settings, registry, lake, repo, online)
    except DamagedFileError:

        def await_keys() -> None:
            build_engine(settings, registry, lake, repo, OnlineSigner.load(settings))
            raise OperatorError("the signing keys are whole again: this process starts anew with them")

        return (ProcessJob("signing keys", await_keys),)
    renewal = ChannelRenewal(registry, repo, settings.channel_s, engine.channel_publisher.highest_seq)
    return (
        ProcessJob("renew metadata", lambda: online.renew_if_due(repo, datetime.now(UTC)), _RENEW_EVERY_S),
        ProcessJob("renew channels", lambda: renewal.step(time.time()), _RENEW_EVERY_S),
        ProcessJob("rollouts", engine.tick),
    )


def build_engine(
    settings: ModelSettings,
    registry: Registry,
    lake: Lake,
    repo: TrustRepository,
    online: OnlineSigner,
) -> Engine:
    """An engine with its keys.

    Raises:
        OperatorError: A key is missing.
    """
    folder = settings.keys / ENGINE
    profiles = KnownProfiles(lake)

    def publish_profiles(document: ProfileChannel) -> None:
        # The key is made with the first version that is signed, which may be while this process runs.
        signer = load_online_key(folder, PROFILE_CHANNEL_ROLE)
        publish_profile_channel(repo, document, signer, online, settings.lake_root)

    channel_publisher = ChannelPublisher(
        registry,
        repo,
        load_online_key(folder, CANARY_ROLE),
        load_online_key(folder, BROAD_ROLE),
        online,
        time.time,
        publish_profiles,
    )
    launcher = RolloutLauncher(registry, repo, online, profiles)
    rates = LakeRates(settings.lake_root)
    judges = LakeJudges(settings.lake_root)
    return Engine(
        registry, channel_publisher, launcher, profiles, rates, judges, settings.channel_s, time.time
    )

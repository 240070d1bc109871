"""The cloud's half of the loop: training, gates, registry, signing, rollouts, enrolment and the gRPC service.

`infra` imports the names below and nothing else of this room. Each is loaded when it is first used, so that
a command which needs only the settings does not import scikit-learn or gRPC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_service import model_catalog as model_catalog
    from model_service import trust_catch_up as trust_catch_up
    from model_service.address import Address as Address
    from model_service.address import read_address as read_address
    from model_service.detectors import bank_store as bank_store
    from model_service.detectors import first_model as first_model
    from model_service.detectors import imported_model as imported_model
    from model_service.detectors import labelled_bank as labelled_bank
    from model_service.detectors import lake_fit as lake_fit
    from model_service.fleet.known_profiles import KnownProfiles as KnownProfiles
    from model_service.fleet.revocation_copies import RevocationCopies as RevocationCopies
    from model_service.gates import user_gates as user_gates
    from model_service.identity import authority as authority
    from model_service.identity.invitation import DeviceNeeds as DeviceNeeds
    from model_service.identity.invitation import invite as invite
    from model_service.identity.invitation import join_bundle as join_bundle
    from model_service.identity.tokens import Invitation as Invitation
    from model_service.identity.tokens import invitation_of_gateway as invitation_of_gateway
    from model_service.models import bundle_files as bundle_files
    from model_service.models import factory_models as factory_models
    from model_service.models import fault_bank as fault_bank
    from model_service.models import feature_kind as feature_kind
    from model_service.models.bundle_files import BundleFiles as BundleFiles
    from model_service.models.features import compute as compute_features
    from model_service.models.features import logged_features as logged_features
    from model_service.processes import PROCESSES as PROCESSES
    from model_service.refusal_counts import RefusalCounts as RefusalCounts
    from model_service.refusal_counts import read_refusals as read_refusals
    from model_service.registry import announced_changes as announced_changes
    from model_service.registry import bundle_store as bundle_store
    from model_service.registry import candidates as candidates
    from model_service.registry import registry_tables as registry_tables
    from model_service.registry.candidates import Candidate as Candidate
    from model_service.registry.candidates import CandidateState as CandidateState
    from model_service.registry.database import Registry as Registry
    from model_service.registry.registry_moment import require_registry as require_registry
    from model_service.rollout import loop_times as loop_times
    from model_service.rollout import paired_quality as paired_quality
    from model_service.rollout import profile_push as profile_push
    from model_service.rollout import release_gain as release_gain
    from model_service.rollout import rollout_store as rollout_store
    from model_service.rollout import rollout_summary as rollout_summary
    from model_service.rollout.profile_push import ProfilePush as ProfilePush
    from model_service.service import delivery as delivery
    from model_service.service import fleet_reads as fleet_reads
    from model_service.service import server as server
    from model_service.service.access import AccessList as AccessList
    from model_service.service.door import CallDoor as CallDoor
    from model_service.service.door import ServiceCall as ServiceCall
    from model_service.service.stream_wakeup import StreamWakeup as StreamWakeup
    from model_service.service.workers import WorkerThreads as WorkerThreads
    from model_service.settings import PREFIX as SETTINGS_PREFIX
    from model_service.settings import ModelSettings as ModelSettings
    from model_service.training import announced_change as announced_change
    from model_service.training import run_store as run_store
    from model_service.training.run_states import UNFINISHED as UNFINISHED
    from model_service.training.run_states import RunState as RunState
    from model_service.training.signed_announcement import ChangeDocument as ChangeDocument
    from model_service.training.signed_announcement import SignedAnnouncement as SignedAnnouncement
    from model_service.training.signed_announcement import sign_announcement as sign_announcement
    from model_service.training.training_run import TrainingRun as TrainingRun
    from model_service.trust import ceremony as ceremony
    from model_service.trust import model_targets as model_targets
    from model_service.trust import profile_signing as profile_signing
    from model_service.trust.keyring import Keyring as Keyring
    from model_service.trust.keys import load_online_key as load_online_key
    from model_service.trust.keys import read_passphrase as read_passphrase
    from model_service.trust.online import OnlineSigner as OnlineSigner
    from model_service.trust.repository import TrustRepository as TrustRepository

_LOADED_FROM: dict[str, tuple[str, str | None]] = {
    "AccessList": ("model_service.service.access", "AccessList"),
    "Address": ("model_service.address", "Address"),
    "BundleFiles": ("model_service.models.bundle_files", "BundleFiles"),
    "CallDoor": ("model_service.service.door", "CallDoor"),
    "Candidate": ("model_service.registry.candidates", "Candidate"),
    "CandidateState": ("model_service.registry.candidates", "CandidateState"),
    "DeviceNeeds": ("model_service.identity.invitation", "DeviceNeeds"),
    "Invitation": ("model_service.identity.tokens", "Invitation"),
    "Keyring": ("model_service.trust.keyring", "Keyring"),
    "KnownProfiles": ("model_service.fleet.known_profiles", "KnownProfiles"),
    "ModelSettings": ("model_service.settings", "ModelSettings"),
    "OnlineSigner": ("model_service.trust.online", "OnlineSigner"),
    "PROCESSES": ("model_service.processes", "PROCESSES"),
    "ProfilePush": ("model_service.rollout.profile_push", "ProfilePush"),
    "RefusalCounts": ("model_service.refusal_counts", "RefusalCounts"),
    "RevocationCopies": ("model_service.fleet.revocation_copies", "RevocationCopies"),
    "Registry": ("model_service.registry.database", "Registry"),
    "RunState": ("model_service.training.run_states", "RunState"),
    "SETTINGS_PREFIX": ("model_service.settings", "PREFIX"),
    "ServiceCall": ("model_service.service.door", "ServiceCall"),
    "StreamWakeup": ("model_service.service.stream_wakeup", "StreamWakeup"),
    "UNFINISHED": ("model_service.training.run_states", "UNFINISHED"),
    "TrainingRun": ("model_service.training.training_run", "TrainingRun"),
    "TrustRepository": ("model_service.trust.repository", "TrustRepository"),
    "WorkerThreads": ("model_service.service.workers", "WorkerThreads"),
    "ChangeDocument": ("model_service.training.signed_announcement", "ChangeDocument"),
    "SignedAnnouncement": ("model_service.training.signed_announcement", "SignedAnnouncement"),
    "announced_change": ("model_service.training.announced_change", None),
    "announced_changes": ("model_service.registry.announced_changes", None),
    "authority": ("model_service.identity.authority", None),
    "bank_store": ("model_service.detectors.bank_store", None),
    "bundle_files": ("model_service.models.bundle_files", None),
    "bundle_store": ("model_service.registry.bundle_store", None),
    "candidates": ("model_service.registry.candidates", None),
    "ceremony": ("model_service.trust.ceremony", None),
    "compute_features": ("model_service.models.features", "compute"),
    "logged_features": ("model_service.models.features", "logged_features"),
    "delivery": ("model_service.service.delivery", None),
    "factory_models": ("model_service.models.factory_models", None),
    "fault_bank": ("model_service.models.fault_bank", None),
    "feature_kind": ("model_service.models.feature_kind", None),
    "user_gates": ("model_service.gates.user_gates", None),
    "first_model": ("model_service.detectors.first_model", None),
    "imported_model": ("model_service.detectors.imported_model", None),
    "fleet_reads": ("model_service.service.fleet_reads", None),
    "invitation_of_gateway": ("model_service.identity.tokens", "invitation_of_gateway"),
    "invite": ("model_service.identity.invitation", "invite"),
    "join_bundle": ("model_service.identity.invitation", "join_bundle"),
    "labelled_bank": ("model_service.detectors.labelled_bank", None),
    "lake_fit": ("model_service.detectors.lake_fit", None),
    "load_online_key": ("model_service.trust.keys", "load_online_key"),
    "loop_times": ("model_service.rollout.loop_times", None),
    "model_catalog": ("model_service.model_catalog", None),
    "model_targets": ("model_service.trust.model_targets", None),
    "paired_quality": ("model_service.rollout.paired_quality", None),
    "profile_push": ("model_service.rollout.profile_push", None),
    "profile_signing": ("model_service.trust.profile_signing", None),
    "read_address": ("model_service.address", "read_address"),
    "read_passphrase": ("model_service.trust.keys", "read_passphrase"),
    "trust_catch_up": ("model_service.trust_catch_up", None),
    "release_gain": ("model_service.rollout.release_gain", None),
    "read_refusals": ("model_service.refusal_counts", "read_refusals"),
    "registry_tables": ("model_service.registry.registry_tables", None),
    "require_registry": ("model_service.registry.registry_moment", "require_registry"),
    "rollout_store": ("model_service.rollout.rollout_store", None),
    "rollout_summary": ("model_service.rollout.rollout_summary", None),
    "run_store": ("model_service.training.run_store", None),
    "server": ("model_service.service.server", None),
    "sign_announcement": ("model_service.training.signed_announcement", "sign_announcement"),
}
"""Module and attribute that each name is loaded from; None: the module itself."""

__all__ = [
    "PROCESSES",
    "SETTINGS_PREFIX",
    "UNFINISHED",
    "AccessList",
    "Address",
    "BundleFiles",
    "CallDoor",
    "Candidate",
    "CandidateState",
    "ChangeDocument",
    "DeviceNeeds",
    "Invitation",
    "Keyring",
    "KnownProfiles",
    "ModelSettings",
    "OnlineSigner",
    "ProfilePush",
    "RefusalCounts",
    "Registry",
    "RevocationCopies",
    "RunState",
    "ServiceCall",
    "SignedAnnouncement",
    "StreamWakeup",
    "TrainingRun",
    "TrustRepository",
    "WorkerThreads",
    "announced_change",
    "announced_changes",
    "authority",
    "bank_store",
    "bundle_files",
    "bundle_store",
    "candidates",
    "ceremony",
    "compute_features",
    "delivery",
    "factory_models",
    "fault_bank",
    "feature_kind",
    "first_model",
    "fleet_reads",
    "imported_model",
    "invitation_of_gateway",
    "invite",
    "join_bundle",
    "labelled_bank",
    "lake_fit",
    "load_online_key",
    "logged_features",
    "loop_times",
    "model_catalog",
    "model_targets",
    "paired_quality",
    "profile_push",
    "profile_signing",
    "read_address",
    "read_passphrase",
    "read_refusals",
    "registry_tables",
    "release_gain",
    "require_registry",
    "rollout_store",
    "rollout_summary",
    "run_store",
    "server",
    "sign_announcement",
    "trust_catch_up",
    "user_gates",
]


def __getattr__(name: str) -> Any:
    """Load a public name (PEP 562)."""
    if name not in _LOADED_FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LOADED_FROM[name]
    loaded = importlib.import_module(module)
    return loaded if attribute is None else getattr(loaded, attribute)

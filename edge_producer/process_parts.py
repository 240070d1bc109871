"""What an edge process has before its runner: its folder, keys, fail-safe and models."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_producer.actions import ActionRunner, load_actions
from edge_producer.deciding.decision_parameters import HoldsParameters
from edge_producer.device_identity import DeviceKeys
from edge_producer.fail_safe import FailSafe
from edge_producer.model_switch import ModelSwitch
from edge_producer.realtime_class import REALTIME
from edge_producer.settings import EdgeSettings
from edge_producer.spool.spool_file import Connect
from edge_producer.spool.spool_set_aside import copies
from edge_producer.window import Predictor
from schemas.durable import ABANDONED_S, DISK, Disk
from schemas.profile import Profile

if TYPE_CHECKING:  # heavy (grpc, tuf), and only for devices that get their models from a service
    from edge_producer.updates.updater import Updater

log = logging.getLogger(__name__)

_STATUS_LEFT_BY_0_2 = "status.json.part"
"""Temporary file that a crash of release 0.2.0 left in the state folder; beside keys: ``<id>.pem.part``."""


@dataclass(frozen=True)
class ProcessParts:
    """What a process has before its runner, or what a test gives in its stead.

    Attributes:
        fail_safe: Commands the fail-safe when sensing ends, and runs the actions; None: made by the runner.
        keys: Identities of the devices; None: read by the runner.
        disk: Writes everything but the spool's database.
        connect: Opens that database; None: as usual.
        parameters: What holds the parameters of devices' decision functions, by device id; a device without
            one gets an empty one from the runner.
    """

    fail_safe: FailSafe | None = None
    keys: DeviceKeys | None = None
    disk: Disk = DISK
    connect: Connect | None = None
    parameters: Mapping[str, HoldsParameters] = field(default_factory=dict)


def make_state_dir(settings: EdgeSettings) -> None:
    """Make the process's folder; where the disk does not allow it, the process goes on without."""
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        log.error("%s cannot be made, going on without: %s", settings.state_dir, exc)  # noqa: TRY400


def make_fail_safe(settings: EdgeSettings, profile: Profile) -> FailSafe:
    """What commands the fail-safe. From here on threads join the real-time class as the settings say.

    Raises:
        ProfileError: The file of actions is malformed, or its actuator is not installed.
    """
    REALTIME.ask(settings.realtime_priority)
    actions, safe = ActionRunner(load_actions(settings.actions_file)), profile.decision.fail_safe
    numbers = profile.decision.numbers_of(safe)
    return FailSafe(actions, settings.devices, safe, settings.state_dir, numbers=numbers)


def read_keys(settings: EdgeSettings) -> DeviceKeys:
    """The devices' identities; keys are made only where no spool was before."""
    is_new = not settings.spool_path.exists() and not copies(settings.state_dir)
    return DeviceKeys(settings.keys_dir, settings.producers, settings.producers if is_new else ())


def require_function(device_id: str, profile: Profile) -> None:
    """Make sure that the decision function which a profile names can be used here.

    Raises:
        ProfileError: It is not installed, or cannot be loaded.
    """
    if profile.decision.function is not None:
        # Few devices have one, and it reads what is installed.
        from edge_producer.deciding.decision_function import load_decision_function  # noqa: PLC0415

        load_decision_function(profile.decision.function, device_id, profile)


def sweep(settings: EdgeSettings, disk: Disk) -> None:
    """Remove what crashed writers left. Only names of ours: a user's file may end in ``.part`` too."""
    before = time.time() - ABANDONED_S
    keys = [f"{device}.{kind}.part" for device in settings.producers for kind in ("pem", "secret")]
    with suppress(OSError):
        disk.sweep(settings.state_dir, before, (_STATUS_LEFT_BY_0_2,))
        disk.sweep(settings.keys_dir, before, keys)


def models_of(
    devices: Sequence[str], predictor: Predictor | None, updater: Updater | None
) -> Mapping[str, Predictor | ModelSwitch]:
    """What scores each device's windows: the updater's models, or one predictor for all."""
    if updater is not None:
        return updater.switches
    if predictor is None:
        raise ValueError("a runner needs a predictor or an updater")
    return dict.fromkeys(devices, predictor)

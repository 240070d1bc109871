"""Devices with an updater, driven in the test's thread: windows, then steps of the agents."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event

from edge_producer.bundle import BUNDLES
from edge_producer.config_switch import DeviceConfigs
from edge_producer.decider import LocalDecision
from edge_producer.device import Device, Host
from edge_producer.device_identity import load_or_create
from edge_producer.metering import Meters
from edge_producer.settings import EdgeSettings
from edge_producer.updates.agent import UpdateAgent
from edge_producer.updates.resources import UpdaterResources
from edge_producer.updates.trials import Trials
from edge_producer.updates.update_once import synthetic_windows
from edge_producer.updates.updater import Updater
from edge_producer.window import Window
from schemas.durable import DISK, Disk
from schemas.profile import Profile
from tests.quick_machine_profile import quick_machine_profile

_ROUND_S = 0.005
"""Pause between rounds: the processes that a device waits for need the machine more than its windows do."""


def quick_machine(**rollout: object) -> Profile:
    """The machine profile with short trials and watches."""
    machine = quick_machine_profile()
    short = {"trial_windows": 3, "watch_windows": 4, **rollout}
    policy = machine.rollout.model_validate({**machine.rollout.model_dump(), **short})
    return machine.model_copy(update={"rollout": policy})


def edge_settings(folder: Path, devices: Sequence[str] = ("m-1",), **given: object) -> EdgeSettings:
    fields = {"update_poll_s": 0.05, "join_dir": folder / "join", "profile": "machine", **given}
    return EdgeSettings(state_dir=folder / "edge", devices=tuple(devices), **fields)


class OneChild(Trials):
    """One process tries every artifact, as if it were the factory's: starting one takes a second."""

    def join(self, _key, bundle):
        return super().join("all", bundle)

    def leave(self, _key, child):
        super().leave("all", child)


@contextmanager
def one_child() -> Iterator[UpdaterResources]:
    """Resources for several rigs, so that one trial process serves them all."""
    profile = quick_machine()
    resources = replace(UpdaterResources.of(profile), trials=OneChild(profile))
    child = resources.trials.join("all", BUNDLES / "machine")
    try:
        yield resources
    finally:
        resources.trials.leave("all", child)
        child.end()  # a rig whose power was cut never left


class UpdaterRig:
    """Real devices and updaters of one process, without spool and broker."""

    def __init__(
        self,
        settings: EdgeSettings,
        profile: Profile,
        disk: Disk = DISK,
        resources: UpdaterResources | None = None,
    ) -> None:
        self.profile = profile
        resources = None if resources is None else replace(resources, profile=profile)
        self.updater = Updater(settings, profile, disk, resources)
        self.meters = Meters(profile)
        self.decisions: list[LocalDecision] = []
        held = {name: DeviceConfigs(self.updater.configs, name) for name in self.updater.switches}
        host = Host(lambda *_: None, self.meters, time.monotonic, parameters=held)
        self.devices = {
            name: Device(load_or_create(settings.keys_dir, name), profile, switch, host)
            for name, switch in self.updater.switches.items()
        }
        self.sources: dict[str, Iterator[Window]] = {
            name: synthetic_windows(profile, name) for name in self.devices
        }

    def __enter__(self) -> UpdaterRig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        try:
            for agent in self.updater.agents.values():
                agent.close()
        finally:
            self.updater.stop()

    @property
    def agent(self) -> UpdateAgent:
        return next(iter(self.updater.agents.values()))

    @property
    def state(self) -> str:
        return self.agent.installer.record.state

    @property
    def version(self) -> str:
        """What decides now."""
        return self.agent.switch.models.active.version

    def sense(self) -> None:
        """One window of each device."""
        for name, device in self.devices.items():
            self.decisions.append(device.process(next(self.sources[name])))

    def drive(
        self, until: Callable[[], object], timeout_s: float = 90.0, what: str = "", *, windows: bool = True
    ) -> None:
        """Windows and steps, in turn, until the predicate holds."""
        deadline = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > deadline:
                states = {n: a.status for n, a in self.updater.agents.items()}
                raise AssertionError(f"{what or 'the condition'} did not come true: {states}")
            if windows:
                self.sense()
            for agent in self.updater.agents.values():
                agent.step()
            Event().wait(_ROUND_S)

    def settle(self, version: str, timeout_s: float = 90.0) -> None:
        """Drive until every device runs the version, proven, and has reported it."""
        agents = self.updater.agents.values()
        self.drive(
            lambda: all(
                a.switch.models.active.version == version
                and a.installer.record.state in ("idle", "restored")
                and a.installer.pointer.proven
                and not a.status["unreported"]
                and a.checked.is_set()
                for a in agents
            ),
            timeout_s,
            f"{version} in force",
        )

"""Which configuration each device of a process decides by: updaters say it, the sensing loop takes it over.

A switch has one instant, the same for every device that got the same channel document. The loop takes it over
at the first window that ends at or after it, so that no window is decided by two configurations.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""The parameters of a device without a configuration."""
FEW_FAILURES = 3
"""Failures of the decision function under a new configuration, in a row, that take it back."""


@dataclass(frozen=True)
class RunningConfig:
    """One configuration as a device decides by it.

    Attributes:
        version: Of its bundle; ``<family>-0.00000000``: none.
        parameters: Values for this device, by name.
    """

    version: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Freeze the parameters: a decision function cannot change them for the windows after."""
        object.__setattr__(self, "parameters", _frozen(self.parameters))


@dataclass(frozen=True)
class PlannedConfig:
    """A configuration, and when it comes into force.

    Attributes:
        at: UTC; None: it is in force already.
    """

    config: RunningConfig
    at: datetime | None = None


def _frozen(value: Any) -> Any:
    """A JSON value that nobody can change: objects as read-only mappings, arrays as tuples."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(part) for key, part in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


@dataclass
class _Line:
    """One family of one device."""

    running: RunningConfig
    planned: PlannedConfig | None = None
    failures: int = 0


class ConfigSwitch:
    """What devices are told to decide by, and what they decide by. From any thread.

    Attributes:
        on_change: Called when the loop has taken something over, or has taken it back; must not block.
    """

    def __init__(self) -> None:
        self.on_change: list[Callable[[], None]] = []
        self._lines: dict[str, dict[str, _Line]] = {}
        self._merged: dict[str, Mapping[str, Any]] = {}
        self._lock = threading.Lock()

    # Of updaters -----------------------------------------------------------------------------------------

    def start(self, device_id: str, family: str, running: RunningConfig) -> None:
        """What a device decides by when its process starts."""
        with self._lock:
            self._lines.setdefault(device_id, {})[family] = _Line(running)
            self._merge(device_id)

    def plan(self, device_id: str, family: str, planned: PlannedConfig | None) -> None:
        """Have the loop take a configuration over when it is due; None: it keeps what it has."""
        with self._lock:
            line = self._lines.setdefault(device_id, {}).get(family)
            if line is None:
                raise ValueError(f"{device_id}: family {family} was not started")
            if planned is not None and planned.config.version == line.running.version:
                planned = None
            line.planned = planned

    def running(self, device_id: str, family: str) -> str:
        """Version that a device decides by; empty: the family was not started."""
        line = self._lines.get(device_id, {}).get(family)
        return "" if line is None else line.running.version

    def in_use(self, device_id: str) -> str:
        """Versions that a device decides by, of all families, joined by commas."""
        return ", ".join(line.running.version for line in self._lines.get(device_id, {}).values())

    def failed(self, device_id: str, family: str) -> bool:
        """Whether the decision function has failed so often in a row that what runs is taken back."""
        line = self._lines.get(device_id, {}).get(family)
        return line is not None and line.failures >= FEW_FAILURES

    # Of the sensing loop ---------------------------------------------------------------------------------

    def at_boundary(self, device_id: str, ends: datetime) -> Mapping[str, Any]:
        """The parameters for a window; between two windows, what is due is taken over first.

        Args:
            device_id: The device.
            ends: Event time of the window's end.

        Returns:
            Values by name, of all families together; empty without a configuration.
        """
        lines = self._lines.get(device_id)
        if not lines:
            return NOTHING
        if any(line.planned is not None for line in lines.values()):
            self._take_over(device_id, ends)
        return self._merged.get(device_id, NOTHING)

    def parameters(self, device_id: str) -> Mapping[str, Any]:
        """The parameters in force, by name; empty without a configuration."""
        return self._merged.get(device_id, NOTHING)

    def decided(self, device_id: str, *, well: bool) -> None:
        """What became of a call of the decision function under the parameters in force."""
        changed = False
        for line in self._lines.get(device_id, {}).values():
            line.failures = 0 if well else line.failures + 1
            changed |= line.failures == FEW_FAILURES
        if changed:
            self._notify()

    def _take_over(self, device_id: str, ends: datetime) -> None:
        changed = False
        with self._lock:
            for line in self._lines[device_id].values():
                planned = line.planned
                if planned is not None and (planned.at is None or planned.at <= ends):
                    line.running, line.planned, line.failures, changed = planned.config, None, 0, True
            if changed:
                self._merge(device_id)
        if changed:
            self._notify()

    def _merge(self, device_id: str) -> None:
        """One mapping of all families: a profile's parameters have one name each."""
        merged: dict[str, Any] = {}
        for line in self._lines[device_id].values():
            merged |= line.running.parameters
        self._merged[device_id] = MappingProxyType(merged)

    def _notify(self) -> None:
        for woken in self.on_change:
            woken()

    def status(self) -> Mapping[str, Any]:
        """For the status file: by device and family, what runs and what is planned."""
        return {
            device: {family: _shown(line) for family, line in sorted(lines.items())}
            for device, lines in sorted(self._lines.copy().items())
        }


@dataclass(frozen=True)
class DeviceConfigs:
    """The parameters of one device, as its decision function gets them.

    Attributes:
        switch: Of the process.
    """

    switch: ConfigSwitch
    device_id: str

    @property
    def in_use(self) -> str:
        """Versions in force, joined by commas; empty: the profile has no configurations."""
        return self.switch.in_use(self.device_id)

    @property
    def values(self) -> Mapping[str, Any]:
        """Values in force now, by name."""
        return self.switch.parameters(self.device_id)

    def at(self, event_time: datetime) -> Mapping[str, Any]:
        """Values for a window that ends then, by name; what is due is taken over first."""
        return self.switch.at_boundary(self.device_id, event_time)

    def decided(self, *, well: bool) -> None:
        """What became of a call of the decision function under them."""
        self.switch.decided(self.device_id, well=well)


def _shown(line: _Line) -> dict[str, str]:
    planned = line.planned
    at = "" if planned is None or planned.at is None else planned.at.isoformat()
    return {
        "version": line.running.version,
        "planned": "" if planned is None else planned.config.version,
        "at": at,
    }

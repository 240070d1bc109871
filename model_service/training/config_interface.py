"""What a user's code for configurations gets and gives: entry points ``edgeloop.configs``, ``.config_gates``.

They run in a child process with bounds of memory, CPU and time (``limited_plug_ins``), so what they take is
pickled, and what they give is JSON. A trainer is a function from ``ConfigInputs`` to ``ComputedConfig``. It
must depend on its inputs alone, draws included (``inputs.seed``): the gate calls it again, and other
parameters are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from schemas.config_spec import ConfigSpec
from schemas.profile import Profile

TRAINERS, GATES = "edgeloop.configs", "edgeloop.config_gates"


@dataclass(frozen=True, eq=False)
class ConfigInputs:
    """What parameters are computed from: one group's devices, and what a pinned cut holds of them.

    Attributes:
        spec: The family, with the schema of its parameters.
        devices: Site by device id, of the group's active devices.
        event_from, event_to: Event times of rows and summaries, UTC; the newest row is at ``event_to``.
        earliest: Instant before which the configuration cannot come into force, UTC.
        seed: For random draws.
        before: Parameters of the group's newest configuration before this one; empty: it is the first.
        rows: Returns the group's rows of telemetry, in the order of device, event time, boot and seq. They
            are a sample: weigh them by ``inclusion_probability``.
        summaries: Returns its summaries, which cover every window, in the order of device, period, feature.
    """

    profile: Profile
    spec: ConfigSpec
    group: str
    devices: Mapping[str, str]
    event_from: datetime
    event_to: datetime
    earliest: datetime
    seed: int
    before: Mapping[str, Any]
    rows: Callable[[], pa.Table]
    summaries: Callable[[], pa.Table]

    @property
    def sites(self) -> Mapping[str, tuple[str, ...]]:
        """Device ids by site, both sorted."""
        found: dict[str, list[str]] = {}
        for device, site in sorted(self.devices.items()):
            found.setdefault(site, []).append(device)
        return {site: tuple(ids) for site, ids in sorted(found.items())}


@dataclass(frozen=True)
class ComputedConfig:
    """What a trainer gives.

    Attributes:
        parameters: By name, as the profile's schema says.
        valid_from: When it comes into force, such as the next midnight; None: at ``inputs.earliest``, which
            an earlier instant counts as, too.
        waits: Why nothing can be computed yet, such as too few days; the parameters then count for nothing.
            That is no failure: it is asked again when it is due.
    """

    parameters: Mapping[str, Any]
    valid_from: datetime | None = None
    waits: str = ""


ConfigTrainer = Callable[[ConfigInputs], ComputedConfig]


@dataclass(frozen=True)
class ConfigGateResult:
    """What a user's gate finds.

    Attributes:
        value: What it measured; None: nothing.
        bound: What that was compared with.
        low, high: 95 % interval of the value.
        text: The finding in one sentence.
    """

    passed: bool
    text: str
    value: float | None = None
    bound: float | None = None
    low: float | None = None
    high: float | None = None
    detail: Mapping[str, object] = field(default_factory=dict)


ConfigGate = Callable[[ConfigInputs, Mapping[str, Any]], ConfigGateResult]
"""From the inputs of the computation and the parameters to a finding."""

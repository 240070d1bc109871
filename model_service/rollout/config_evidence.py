"""What a judge of configurations sees, and what it finds: entry points ``edgeloop.config_judges``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa

from schemas.config_spec import ConfigSpec
from schemas.learning_policy import RolloutPolicy
from schemas.profile import Profile

JUDGES = "edgeloop.config_judges"


@dataclass(frozen=True, eq=False)
class ConfigEvidence:
    """One phase of a rollout, as the lake shows it.

    Attributes:
        settings: The profile's ``[rollout]`` as of the rollout's beginning.
        treated: Device ids by unit (a site, or one device) that decide by the new configuration.
        held: The same of those that do not yet; empty where everybody does.
        switched_at: When the treated ones took it over, UTC.
        now: UTC.
        summaries: Rows of the group's summaries (all windows), from ``HISTORY`` before the switch on.
        looks: For how many promotions the rollout asks.
        alarms: Returns the group's alarms (view ``alarms``) since as long before, in the order of device
        and time.
    """

    profile: Profile
    spec: ConfigSpec
    settings: RolloutPolicy
    treated: Mapping[str, tuple[str, ...]]
    held: Mapping[str, tuple[str, ...]]
    switched_at: datetime
    now: datetime
    summaries: pa.Table
    looks: int
    alarms: Callable[[], pa.Table] = field(default=lambda: pa.table({}))


@dataclass(frozen=True)
class ConfigFinding:
    """What a judge finds.

    Attributes:
        harm: Why the rollout must be aborted; empty: it need not.
        open: What has not been shown yet; empty: that it does no harm is shown.
        text: The finding for people.
        units: Units that it rests on.
        numbers: JSON values for people.
    """

    harm: str = ""
    open: str = ""
    text: str = ""
    units: int = 0
    numbers: Mapping[str, object] = field(default_factory=dict)


ConfigJudge = Callable[[ConfigEvidence], ConfigFinding]

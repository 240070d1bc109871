"""What the updaters of one process share: loaded models, trial processes, limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edge_producer.config_switch import ConfigSwitch
from edge_producer.excerpts.excerpt_desk import ExcerptDesk
from edge_producer.profile_switch import ProfileSwitch
from edge_producer.updates.artifact_content import memory_available
from edge_producer.updates.config_trial import DryCall
from edge_producer.updates.download import DownloadPace
from edge_producer.updates.loaded_models import LoadedModels
from edge_producer.updates.trials import Trials
from schemas.profile import Profile


@dataclass(frozen=True)
class UpdaterResources:
    """What the devices of one process share.

    Attributes:
        profile: Profile of all devices.
        models: Loads each set once for all devices.
        trials: Runs one child process per artifact.
        available: Returns the bytes of memory that a trial may take.
        shadow_previous: Whether the earlier model goes on scoring in shadow after the watch.
        pace: How slow a download may be.
        profiles: Which version of the profile each device runs.
        configs: Which configuration each device decides by.
        dry_call: Calls a device's decision function with parameters; None: there is none.
        desk: Where excerpts are made; None: the process makes none.
    """

    profile: Profile
    models: LoadedModels
    trials: Trials
    available: Callable[[], int] = memory_available
    shadow_previous: bool = False
    pace: DownloadPace = field(default_factory=DownloadPace)
    profiles: ProfileSwitch | None = None
    configs: ConfigSwitch = field(default_factory=ConfigSwitch)
    dry_call: DryCall | None = None
    desk: ExcerptDesk | None = None

    @classmethod
    def of(
        cls, profile: Profile, *, shadow_previous: bool = False, profiles: ProfileSwitch | None = None
    ) -> UpdaterResources:
        """Resources with nothing loaded and nothing on trial."""
        trials = Trials(profile)
        return cls(profile, LoadedModels(profile), trials, shadow_previous=shadow_previous, profiles=profiles)

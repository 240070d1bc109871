"""What the updaters of one process share: loaded models, trial processes, bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edge_producer.updates.artifact_content import memory_available
from edge_producer.updates.download import DownloadPace
from edge_producer.updates.loaded_models import LoadedModels
from edge_producer.updates.trials import Trials
from schemas.profile import Profile


@dataclass(frozen=True)
class UpdaterResources:
    """What the devices of one process share.

    Attributes:
        available: Memory that may be taken, bytes.
        shadow_previous: The earlier model goes on in shadow after its watch.
        pace: How slow a download may be.
    """

    profile: Profile
    models: LoadedModels
    trials: Trials
    available: Callable[[], int] = memory_available
    shadow_previous: bool = False
    pace: DownloadPace = field(default_factory=DownloadPace)

    @classmethod
    def of(cls, profile: Profile, *, shadow_previous: bool = False) -> UpdaterResources:
        """Nothing loaded, nothing tried yet."""
        return cls(profile, LoadedModels(profile), Trials(profile), shadow_previous=shadow_previous)

"""What jobs may ask about the world beside their batch and their state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from schemas.profile import Profile


@dataclass(frozen=True)
class JobContext:
    """Lookups a worker gives its jobs; each answers from what the worker has loaded.

    Attributes:
        cohort_of: Cohort (``profile/site/group/hardware``) of a device id under a profile name. Answers for
            every device whose rows have landed; never raises.
        profile_of: Newest registered profile of a name; raises UnknownSchemaError for a name that was
            never registered.
    """

    cohort_of: Callable[[str, str], str]
    profile_of: Callable[[str], Profile]

"""What jobs may ask about the world beside their batch and their state."""

from __future__ import annotations

from typing import Protocol

from schemas.profile import Profile


class JobContext(Protocol):
    """Lookups a worker gives its jobs; each answers from what the worker has loaded.

    The worker's ``LakeDirectory`` is one; a backfill brings one as of the time it replays.
    """

    def cohort_of(self, device_id: str, profile: str) -> str:
        """Cohort (``profile/site/group/hardware``) of any device whose rows have landed."""
        ...

    def profile_of(self, name: str) -> Profile:
        """Newest registered profile of that name.

        Raises:
            UnknownSchemaError: It was never registered.
        """
        ...

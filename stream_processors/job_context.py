"""What jobs may look up beside their batch and their state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from schemas.profile import Profile  # pydantic builds forty models for it


class JobContext(Protocol):
    """Lookups that a worker gives its jobs, answered from what the worker has loaded.

    A ``LakeDirectory`` gives it, as of now, also while a job reads rows of the past.
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

"""What a profile lets leave as excerpts, spans of raw samples that an approver permits: by default none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from schemas.section import Name, Section

MAX_HELD_BYTES = 64 * 1024**2
"""Most memory that the samples of one device may take while they wait for a permit."""
MAX_EXCERPT_SAMPLES = 4_000_000
"""Most values of one excerpt, over its channels."""
SAMPLE_BYTES = 8
"""Bytes of one held sample, whatever its type on the wire."""
DEFAULT_RETENTION_DAYS = 30
"""Days after which excerpts leave the lake where no profile says."""


class ExcerptPolicy(Section):
    """Limits of excerpts. Each is a guarded key: the policy role signs it.

    Attributes:
        channels: Channels that may be permitted; each has ``leaves_device = "on_request"``.
        max_seconds: Longest span of one excerpt, seconds.
        max_seconds_per_day: Most seconds of a device that leave within 24 hours.
        purposes: What an excerpt may be asked for.
        held_s: Seconds of newest samples that the device holds in memory.
        valid_s: Longest time from a permit's issue to its expiry, seconds.
        retention_days: Days that excerpts stay in the lake.
    """

    channels: Annotated[tuple[Name, ...], Field(min_length=1)]
    max_seconds: PositiveFloat
    max_seconds_per_day: PositiveFloat
    purposes: Annotated[tuple[Name, ...], Field(min_length=1, max_length=32)]
    held_s: PositiveFloat = 600.0
    valid_s: Annotated[float, Field(gt=0, le=30 * 86400.0)] = 86400.0
    retention_days: PositiveInt = DEFAULT_RETENTION_DAYS

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.max_seconds <= self.max_seconds_per_day <= 86400:
            raise ValueError("excerpts: max_seconds <= max_seconds_per_day <= 86400 must hold")
        if self.max_seconds > self.held_s:
            raise ValueError(f"excerpts: max_seconds {self.max_seconds:g} is more than is held, held_s")
        for what, names in (("channel", self.channels), ("purpose", self.purposes)):
            if len(set(names)) != len(names):
                raise ValueError(f"excerpts: a {what} is named twice")
        return self


def held_samples(policy: ExcerptPolicy, rate_hz: float) -> int:
    """Samples of each channel that a device holds."""
    return max(math.ceil(policy.held_s * rate_hz), 1)


def check_excerpts(policy: ExcerptPolicy, leaves: Mapping[str, str], rate_hz: float) -> None:
    """Return if the policy fits the profile.

    Args:
        policy: The section.
        leaves: ``leaves_device`` by channel.
        rate_hz: Samples a second.

    Raises:
        ValueError: It names a channel that is not declared or may not leave, or would hold too much.
    """
    for name in policy.channels:
        if name not in leaves:
            raise ValueError(f"excerpts.channels names unknown channel '{name}'")
        if leaves[name] != "on_request":
            raise ValueError(
                f"excerpts.channels names '{name}', which has leaves_device = '{leaves[name]}': raw samples "
                "may only be asked of a channel with leaves_device = 'on_request'"
            )
    held = held_samples(policy, rate_hz) * len(policy.channels) * SAMPLE_BYTES
    if held > MAX_HELD_BYTES:
        raise ValueError(
            f"excerpts.held_s: {held} bytes would be held, the limit is {MAX_HELD_BYTES}: shorten it"
        )
    if policy.max_seconds * rate_hz * len(policy.channels) > MAX_EXCERPT_SAMPLES:
        raise ValueError(f"excerpts.max_seconds: more than {MAX_EXCERPT_SAMPLES} values: shorten it")

"""A part of an excerpt as it travels: raw samples of permitted channels on the profile's grid."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from schemas.errors import DecodeError
from schemas.events import Event, Instant, Int64, Text

VALUES_PER_PART = 4096
"""Most values of one part, over its channels: about 44 kB of the 64 that an event may have."""
MAX_PARTS = 4096
_DTYPE = np.dtype("<f8")


class Excerpt(Event):
    """One part of one excerpt.

    Attributes:
        event_time: Instant of the part's first sample.
        permit_id: Permit by which it leaves; each device sends an excerpt of it once.
        approver: Who signed the permit.
        part: Number of the part, from 0.
        parts: How many there are.
        first: Number of the part's first sample within the excerpt.
        rate_hz: Samples a second.
        n: Samples of each channel.
        samples: By channel, ``n`` float64 little endian in base64; NaN: missing, an infinity: out of range.
    """

    device_id: Text
    boot_id: Int64
    event_time: Instant
    permit_id: Text
    purpose: Text
    approver: Text
    part: Annotated[int, Field(ge=0, lt=MAX_PARTS)]
    parts: Annotated[int, Field(ge=1, le=MAX_PARTS)]
    first: Annotated[int, Field(ge=0, lt=2**31)]
    rate_hz: PositiveFloat
    n: Annotated[int, Field(ge=1, le=VALUES_PER_PART)]
    samples: Annotated[dict[Text, str], Field(min_length=1, max_length=256)]

    def values(self) -> dict[str, NDArray[np.float64]]:
        """Samples by channel, each of shape (n,).

        Raises:
            DecodeError: They are not what ``n`` says.
        """
        found = {}
        for channel, text in self.samples.items():
            try:
                raw = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError) as exc:
                raise DecodeError(f"samples of {channel[:64]} are no base64") from exc
            if len(raw) != self.n * _DTYPE.itemsize:
                raise DecodeError(f"samples of {channel[:64]}: {len(raw)} bytes, not {self.n} numbers")
            found[channel] = np.frombuffer(raw, _DTYPE).astype(np.float64)
        return found


MAX_WITHDRAWN = 1024
"""Most message numbers of one withdrawal."""


class ExcerptWithdrawal(Event):
    """Messages of excerpts that were deleted unsent, because consent was withdrawn. It holds no sample.

    It travels in the lane of excerpts, as a message of no instants (``n_rows`` 0).

    Attributes:
        withdrawn: Their numbers, in the lane and spool of the message that says so, all below its own.
    """

    withdrawn: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1, max_length=MAX_WITHDRAWN)
    ]


def samples_text(values: NDArray[np.float64]) -> str:
    """Samples of one channel as an event has them."""
    return base64.b64encode(values.astype(_DTYPE).tobytes()).decode()


def part_size(channels: int) -> int:
    """Samples of each channel in one part."""
    return max(VALUES_PER_PART // channels, 1)


def without_samples(event: Mapping[str, object]) -> dict[str, object]:
    """An excerpt's JSON for people who may not see raw samples: how many there are instead of them."""
    if "samples" not in event:
        return dict(event)
    samples = event.get("samples")
    channels = sorted(map(str, samples)) if isinstance(samples, Mapping) else []
    return {**event, "samples": dict.fromkeys(channels, "not shown")}


def instant_us(start: datetime, number: int, rate_hz: float) -> int:
    """Instant of a sample, µs after ``start``."""
    return round(number * 1e6 / rate_hz)

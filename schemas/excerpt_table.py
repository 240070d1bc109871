"""The table of a profile's excerpts: a row for each instant, a column for each channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.row_schemas import TIME
from schemas.tables import PROVENANCE, TableSpec

if TYPE_CHECKING:
    from schemas.profile import Profile

EXCERPT_PREFIX = "excerpts_"
CHANNEL_PREFIX = "raw_"
"""Of the columns of channels: a channel may be called as one of the others."""


def excerpts_table_name(profile_name: str) -> str:
    """Table of one profile's excerpts."""
    return f"{EXCERPT_PREFIX}{profile_name}"


def holds_excerpts(table: str) -> bool:
    """Whether a table holds raw samples, which only its own readers may see."""
    return table.startswith(EXCERPT_PREFIX)


def excerpts_table(profile: Profile) -> TableSpec:
    """The table of one profile's excerpts; it has all channels, whichever may leave today."""
    fields = [
        _field("device_id", pa.string(), "Stable id of the device."),
        _field("boot_id", pa.int64(), "Random id of the start of the device that sensed the samples."),
        _field("permit_id", pa.string(), "Permit by which they left: `edgeloop excerpt show`."),
        _field("purpose", pa.string(), "What they were asked for."),
        _field("approver", pa.string(), "Who signed the permit."),
        _field("sample", pa.int64(), "Number of the instant within the excerpt, from 0."),
        _field("event_time", TIME, "UTC instant of the samples, by the device's clock."),
    ]
    channels = [
        pa.field(
            f"{CHANNEL_PREFIX}{c.name}",
            pa.float64(),
            metadata={"doc": f"Samples of channel {c.name} [{c.unit}]; null: missing, or not permitted."},
        )
        for c in profile.channels
    ]
    return TableSpec(
        excerpts_table_name(profile.name),
        f"Raw samples of devices of profile {profile.name} that an approver permitted; for its readers only.",
        pa.schema([*fields, *channels, *PROVENANCE]),
    )


def _field(name: str, kind: pa.DataType, doc: str) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={"doc": doc})

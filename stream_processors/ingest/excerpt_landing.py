"""Excerpts: whether one lies within what its profile lets leave, and its samples as rows of the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from schemas.errors import DecodeError, PolicyError, ProfileVersionError, UnknownVersionError
from schemas.excerpt_event import Excerpt
from schemas.excerpt_table import CHANNEL_PREFIX, excerpts_table
from schemas.instants import to_us
from schemas.profile import Profile
from schemas.row_schemas import END_YEAR, TIME
from stream_processors.ingest.admission import Admitted, Claimed, DeviceDirectory

_SLACK = 1.001
"""Share by which a last sample may lie behind the longest span, for rounding."""


def excerpt_judge(claimed: Claimed, directory: DeviceDirectory) -> Profile:
    """The profile that an excerpt is judged by. It waits for none: that would keep raw samples in a state.

    Raises:
        ProfileVersionError: The version that it names is not known here, or not signed as it must be.
        UnknownSchemaError: The profile was never registered.
    """
    envelope = claimed.envelope
    try:
        return directory.judge_of(envelope.profile, envelope.version, envelope.producer)
    except UnknownVersionError as exc:
        raise ProfileVersionError(f"{exc}: an excerpt does not wait for it") from exc


def check_excerpt(event: Excerpt, profile: Profile) -> None:
    """Return if the profile lets such an excerpt leave: a device must not land what nobody may permit.

    Raises:
        PolicyError: It does not.
        DecodeError: Its samples are not what it says.
    """
    policy = profile.excerpts
    if policy is None:
        raise PolicyError(f"profile {profile.name} lets no excerpts leave")
    if extra := sorted(set(event.samples) - set(policy.channels)):
        raise PolicyError(f"channels {', '.join(extra)[:200]} are not among excerpts.channels")
    if event.purpose not in policy.purposes:
        raise PolicyError(f"purpose {event.purpose[:48]!r} is not among excerpts.purposes")
    if event.part >= event.parts or event.rate_hz != profile.sampling.rate_hz:
        raise DecodeError("parts or rate are not those of the profile")
    last = event.first + event.n - 1
    if last / event.rate_hz > policy.max_seconds * _SLACK:
        raise PolicyError(f"it reaches beyond {policy.max_seconds:g} s, the longest span")
    if event.event_time.year >= END_YEAR - 1:
        raise DecodeError("its time is in no calendar")
    event.values()


def land_excerpts(messages: Sequence[Admitted], profile: Profile) -> pa.Table:
    """Rows of admitted excerpts, in the shape of ``excerpts_<profile>``: one for each instant."""
    schema = excerpts_table(profile).schema
    parts = [
        _rows(message, event, schema)
        for message in messages
        for event in message.events
        if isinstance(event, Excerpt)
    ]
    return pa.concat_tables([schema.empty_table(), *parts])


def _rows(message: Admitted, event: Excerpt, schema: pa.Schema) -> pa.Table:
    raw, n = message.message, event.n
    numbers = np.arange(event.first, event.first + n, dtype=np.int64)
    us = to_us(event.event_time) + np.round(np.arange(n) * 1e6 / event.rate_hz).astype(np.int64)
    same = {
        "device_id": event.device_id,
        "boot_id": event.boot_id,
        "permit_id": event.permit_id,
        "purpose": event.purpose,
        "approver": event.approver,
        "_partition": raw.partition,
        "_offset": raw.offset,
    }
    columns: dict[str, pa.Array] = {
        name: pa.repeat(pa.scalar(value, schema.field(name).type), n) for name, value in same.items()
    }
    columns |= {
        "sample": pa.array(numbers),
        "event_time": pa.array(us).cast(TIME),
        "known_at": pa.array(np.full(n, raw.appended_us)).cast(TIME),
        "_row": pa.array(np.arange(n, dtype=np.int32)),
    }
    for channel, values in event.values().items():
        columns[f"{CHANNEL_PREFIX}{channel}"] = pa.array(values, mask=np.isnan(values))
    arrays = [columns[f.name] if f.name in columns else pa.nulls(n, f.type) for f in schema]
    return pa.table(arrays, schema=schema)

"""JSON events that cross a process boundary.

Wire rules: times are UTC instants, quantities carry their unit in the name, a published field is never
renamed or retyped. Events that the cloud derives carry an ``event_id`` that a repeat repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from schemas.drift_vocabulary import DriftKind, drift_kind
from schemas.errors import DecodeError
from schemas.lz4_block import pack, unpack
from schemas.row_schemas import END_YEAR, FIRST_YEAR


def _within_centuries(at: datetime) -> datetime:
    if not FIRST_YEAR <= at.year < END_YEAR:
        raise ValueError(f"year {at.year} is outside {FIRST_YEAR} to {END_YEAR}")
    return at


Unit = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""Names: no control characters, because they become keys."""
Instant = Annotated[AwareDatetime, AfterValidator(_within_centuries)]
"""UTC instant that every calendar and query can hold."""
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


JSON_SCHEMA = "json"
"""Header ``schema`` of a message that is one event."""
JSON_LINES_SCHEMA = "json-lines"
"""Of one that is several events of one kind: lines, packed as one lz4 block."""
MAX_EVENTS = 4096
"""Most events in one message."""
MAX_EVENT_BYTES = 64 * 1024
"""Longest JSON of an event; a hundred times what any event of ours has."""
_ERRORS_SHOWN = 20


class Event(BaseModel):
    """Base of all events: frozen, unknown keys refused, NaN and infinities refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Alert(Event):
    """One urgent local decision. A copy of a row, not counted in the books."""

    device_id: Text
    boot_id: Int64
    seq: Int64
    event_time: Instant
    action: Text
    score: Unit | None
    model_version: Text
    features: dict[str, float | None]


class Label(Event):
    """Delayed ground truth for a span of one device's time.

    Attributes:
        label_probability: Probability that the labeller chose this span to label.
        supersedes: ``label_id`` that this one replaces.
    """

    label_id: Text
    device_id: Text
    span_start: Instant
    span_end: Instant
    label: Text
    source: Text
    confidence: Unit = 1.0
    label_probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    supersedes: str | None = None
    known_at: Instant


class DeviceState(Event):
    """A device's report on itself. A gateway sends those of all its devices in one message.

    The topic is compacted: the newest message of each producer is kept.

    Attributes:
        absurd_channel: Channel that lost the most samples to values outside its range, if it lost more than
            the profile's ``max_absurd``; left out of the JSON where none did.
        absurd_share: That share, the largest since the report before.
        clipped_times: How often numbers of its actions were clipped to the profile's bounds since it started;
            left out of the JSON where none was.
        clipped_number: ``action.number`` of the one that was clipped most.
    """

    device_id: Text
    boot_id: Int64
    event_time: Instant
    profile: Text
    model_version: Text
    decision: Text
    spool_bytes: Int64
    pending_rows: Int64
    oldest_pending_s: float
    absurd_channel: Text | None = None
    absurd_share: Unit | None = None
    clipped_times: Annotated[Int64, Field(ge=0)] | None = None
    clipped_number: Text | None = None


class Aggregate(Event):
    """One task's partial of one cohort's feature over one closed or still growing window.

    Partials of a window add up (Chan et al. 1979 for mean and m2); a late period is one more partial.

    Attributes:
        event_id: ``<task>/<n>/<index>`` of the commit that made it.
        watermark: With this message the task has sent everything of the cohort before that instant. Only the
            cohort's last message of a commit carries the commit's watermark.
    """

    event_id: Text
    cohort: Text
    profile: Text
    model_version: Text
    feature: Text
    window_start: Instant
    window_s: float
    part: Int32
    n: Int64
    mean: float
    m2: float
    min: float
    max: float
    devices: Int32
    late: bool = False
    watermark: Instant


class DriftVerdict(Event):
    """A verdict: a watched statistic has moved.

    Attributes:
        kind: What the evidence suggests; words of 0.2.0 are read as today's.
        statistic: ``level`` (window mean) or ``spread`` (window standard deviation).
        onset: Start of the first window that the detector counts to the new regime.
        detected: End of the window that gave the verdict.
        size: Shift in standard deviations of the window statistic before it, signed.
        devices: Devices that contributed to the window.
        evidence: Numbers that the verdict rests on, by name.
    """

    event_id: Text
    cohort: Text
    profile: Text
    model_version: Text
    feature: Text
    statistic: Literal["level", "spread"]
    kind: Annotated[DriftKind, BeforeValidator(drift_kind)]
    onset: Instant
    detected: Instant
    size: float
    devices: Int32
    evidence: dict[str, float]
    suggested_action: str


class Lifecycle(Event):
    """One step of a model's or rollout's life."""

    event_id: Text
    event_time: Instant
    subject: Text
    step: Text
    detail: dict[str, str]


E = TypeVar("E", bound=Event)


def parse_event(kind: type[E], value: bytes) -> E:
    """Event from JSON bytes.

    Raises:
        DecodeError: Too long, no JSON, or not this event; the message names the keys.
    """
    if len(value) > MAX_EVENT_BYTES:
        raise DecodeError(f"not a {kind.__name__}: {len(value)} bytes, at most {MAX_EVENT_BYTES}")
    try:
        return kind.model_validate_json(value)
    except ValidationError as exc:
        errors = exc.errors(include_url=False)[:_ERRORS_SHOWN]
        keys = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg']}" for e in errors)
        raise DecodeError(f"not a {kind.__name__}: {keys}") from exc


def encode_events(events: Sequence[bytes]) -> tuple[bytes, int]:
    """Several events, each as JSON without line breaks, as the value of one message.

    Returns:
        The packed bytes and their length before.
    """
    raw = b"\n".join(events)
    return pack(raw), len(raw)


def decode_events(value: bytes, raw_bytes: int, n: int) -> list[bytes]:
    """The JSON of each event in the value of a message.

    Raises:
        DecodeError: It holds no such block, or not ``n`` events.
    """
    raw = unpack(value, raw_bytes)
    lines = raw.count(b"\n") + 1
    if lines != n or n > MAX_EVENTS:
        raise DecodeError(f"the value holds {lines} events, n_rows is {n}; at most {MAX_EVENTS}")
    return raw.split(b"\n")

"""Whether a device message may enter: envelope, signer, signature, message number, rows.

Pure but for the lookups that it is given. Raises one of the ``MessageError`` classes; its name becomes the
error class of the dead letter. What costs nothing comes first: a message that nobody registered has signed
must be refused for a few microseconds, since anybody may send as many of them as the broker takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import pyarrow as pa

from schemas.envelope import (
    Envelope,
    MessageVerifier,
    Proof,
    decode_rows,
    read_envelope,
    signed_by,
    verify_signed,
)
from schemas.errors import ClonedIdentityError, DecodeError, MessageError, SignatureError
from schemas.events import (
    JSON_LINES_SCHEMA,
    JSON_SCHEMA,
    Alert,
    DeviceState,
    Label,
    decode_events,
    parse_event,
)
from schemas.excerpt_event import Excerpt
from schemas.profile import Profile
from schemas.topics import ALERT, BOOKS, DEVICE_STATE, EXCERPT, LABEL, LANES_OF, SUMMARY, TELEMETRY
from schemas.version_names import VersionHeader
from stream_processors.ingest.boot_owners import Assignments, BootOwners
from stream_processors.ingest.marks import LaneMarks
from stream_processors.ingest.sealed_rows import RowSpan
from stream_processors.job import RawMessage
from stream_processors.refused_messages import LARGEST_KEY_BYTES, LetterLimits
from stream_processors.unread_range import UnreadRange

ROWS_OF = {TELEMETRY.base: b"telemetry", SUMMARY.base: b"summaries", BOOKS.base: b"books"}
"""Kind of rows, as their schema's metadata has it, by topic."""
AnyEvent = Alert | Label | DeviceState | Excerpt
EVENT_OF: dict[str, type[Alert] | type[Label] | type[DeviceState] | type[Excerpt]] = {
    ALERT.base: Alert,
    LABEL.base: Label,
    DEVICE_STATE.base: DeviceState,
    EXCERPT.base: Excerpt,
}
"""The JSON event of each topic that carries events."""
MAX_CLAIMED_ROWS = 65_536
"""Largest row count that is taken from a header before the rows were counted."""
MAX_HEADERS = 32
MAX_HEADER_BYTES = 1024
"""Longest value of one header; the longest of ours, a name, has 256 characters."""
MAX_SPOOL_ID_CHARS = 64


@dataclass(frozen=True)
class KnownDevice:
    """What admission needs of a registered producer.

    Attributes:
        sends_for: Devices whose rows it may send; itself among them, unless it is behind a gateway.
        labels: It is a source of labels: only such a producer may label, and it may label any device.
        tag: Tag of the boots that it makes for the devices behind it; -1: it is no gateway.
        finishes: Devices that it sent for once, itself among them, and until when (us since 1970): boots that
            began before are still its to send.
    """

    producer: str
    active: bool
    verifier: MessageVerifier
    sends_for: frozenset[str]
    labels: bool = False
    tag: int = -1
    finishes: Mapping[str, int] = field(default_factory=dict)


class DeviceDirectory(Assignments, Protocol):
    """Lookups that admission makes; answered from the lake's registries."""

    @property
    def letters(self) -> LetterLimits:
        """How much is kept of messages that nobody registered has signed."""
        ...

    def signer(self, key_id: str) -> KnownDevice | None:
        """The producer whose key has this id; None: no key has it."""
        ...

    def wire_schema(self, fingerprint: str) -> pa.Schema:
        """Arrow schema of a fingerprint.

        Raises:
            UnknownSchemaError: It was never registered.
        """
        ...

    def profile_of(self, name: str) -> Profile:
        """Newest registered profile of that name.

        Raises:
            UnknownSchemaError: It was never registered.
        """
        ...

    def judge_of(self, profile: str, version: VersionHeader | None, producer: str) -> Profile:
        """The profile that rows are judged by.

        Args:
            profile: Name of the profile.
            version: What the message's header names; None: the newest that is registered counts.
            producer: Who sealed the message: the version must have been in the channel of its group.

        Raises:
            UnknownVersionError: The version is not known here yet.
            ProfileVersionError: It is not signed as it must be, or never was in that channel.
            UnknownSchemaError: The profile was never registered.
        """
        ...

    def cohort_of(self, device_id: str, profile: str) -> str:
        """Cohort of a device, ``profile/site/group/hardware``."""
        ...


class Admitted(NamedTuple):
    """A message whose origin, bytes and number are verified.

    Attributes:
        rows: Decoded rows; None for JSON events.
        events: The JSON events; none for rows.
        foreign: Rows or events that a gateway may not send, by number, and why; None: it may send all.
    """

    message: RawMessage
    envelope: Envelope
    rows: RowSpan | None = None
    events: tuple[AnyEvent, ...] = ()
    foreign: Mapping[int, MessageError] | None = None

    @property
    def n(self) -> int:
        """Rows, or events, inside."""
        return self.rows.n if self.rows is not None else len(self.events)


class Claimed(NamedTuple):
    """A message that names a registered, active producer as its signer; not verified yet.

    Attributes:
        signed: What the signature covers, alone or as a leaf of a tree.
    """

    message: RawMessage
    envelope: Envelope
    proof: Proof
    signed: bytes
    device: KnownDevice

    def verify(self) -> None:
        """Return if digest and signature hold.

        Raises:
            SignatureError: They do not.
        """
        verify_signed(self.signed, self.message.value, self.envelope, self.proof, self.device.verifier)

    @property
    def n_rows(self) -> int:
        """Rows that the header states; 0 where that is absurd."""
        return self.envelope.n_rows if self.envelope.n_rows <= MAX_CLAIMED_ROWS else 0


def identify(message: RawMessage, directory: DeviceDirectory) -> Claimed:
    """Who the message claims to be from, by sizes and look-ups alone: nothing is decoded or computed.

    Raises:
        MessageError: Malformed key or headers, unknown or revoked signer.
    """
    device = _signer(message, directory)
    envelope, proof = read_envelope(message.key, message.headers)
    if envelope.lane not in LANES_OF[message.topic]:
        raise DecodeError(f"lane {envelope.lane} does not belong on {message.topic}")
    if not 0 < len(envelope.spool_id) <= MAX_SPOOL_ID_CHARS or "/" in envelope.spool_id:
        raise DecodeError("spool_id is no name of a spool")
    signed = signed_by(message.topic, message.key or b"", message.headers)
    return Claimed(message, envelope, proof, signed, device)


def authenticate(message: RawMessage, directory: DeviceDirectory) -> tuple[Envelope, KnownDevice]:
    """Envelope and signer of a message whose digest and signature are right.

    Raises:
        MessageError: Malformed headers, unknown or revoked signer, wrong digest or signature.
    """
    claimed = identify(message, directory)
    claimed.verify()
    return claimed.envelope, claimed.device


def _signer(message: RawMessage, directory: DeviceDirectory) -> KnownDevice:
    key, headers = message.key, message.headers
    if key is None:
        raise DecodeError(message.reason if isinstance(message, UnreadRange) else "the message has no key")
    if len(key) > LARGEST_KEY_BYTES:
        raise DecodeError(f"a key of {len(key)} bytes")
    if not 0 < len(headers) <= MAX_HEADERS:
        raise DecodeError(f"{len(headers)} headers" if headers else "the message has no headers")
    signer = None
    for name, value in headers:
        if value is None or len(value) > MAX_HEADER_BYTES:  # type: ignore[redundant-expr]  # it may be missing
            raise DecodeError(
                f"header {name[:64]} has no value, or one of more than {MAX_HEADER_BYTES} bytes"
            )
        if name == "signer":
            signer = value
    if signer is None:
        raise DecodeError("header 'signer' is missing")
    name, producer = signer.decode("ascii", "replace"), key.decode("utf-8", "replace")
    device = directory.signer(name)
    if device is None or device.producer != producer:
        raise SignatureError(f"signer {name[:64]} is not registered for {producer[:256]}")
    if not device.active:
        raise SignatureError(f"the key of {producer} is revoked")
    return device


def is_duplicate(envelope: Envelope, marks: LaneMarks) -> bool:
    """Whether the number is known already, with the same bytes.

    Raises:
        ClonedIdentityError: Known with other bytes.
    """
    if envelope.msg_no not in marks:
        return False
    if not marks.same_bytes(envelope.msg_no, envelope.digest):
        raise ClonedIdentityError(
            f"{envelope.producer} sent {envelope.lane} {envelope.msg_no} of spool {envelope.spool_id} "
            "twice with different bytes"
        )
    return True


def open_message(
    message: RawMessage,
    envelope: Envelope,
    device: KnownDevice,
    directory: DeviceDirectory,
    owners: BootOwners,
    given: RowSpan | None = None,
) -> Admitted:
    """The admitted message with its content decoded, of the kind its topic is for, and its owner checked.

    Args:
        message: The message.
        envelope: Its headers.
        device: Who signed it.
        directory: For look-ups.
        owners: Decides whose each boot is.
        given: Its rows, where they were read together with others': then schema and owners are checked.

    Raises:
        MessageError: Unknown schema or profile, content of another kind, undecodable content, a wrong count,
            or something about a device or a boot that the producer may not send for.
    """
    profile = directory.profile_of(envelope.profile)
    if given is not None and given.n == envelope.n_rows:
        return Admitted(message, envelope, given)
    hop_s = profile.sampling.hop_s
    kind = EVENT_OF.get(message.topic)
    if kind is None:
        rows = pa.Table.from_batches([_open_rows(message, envelope, directory)])
        foreign = owners.check_rows(rows, device, hop_s)
        return Admitted(message, envelope, RowSpan(rows, 0, rows.num_rows), foreign=foreign or None)
    if message.topic == DEVICE_STATE.base and envelope.schema == JSON_LINES_SCHEMA:
        return _open_states(message, envelope, device, owners, hop_s)
    is_excerpt = message.topic == EXCERPT.base  # its rows are instants
    if envelope.schema != JSON_SCHEMA or (envelope.n_rows != 1 and not is_excerpt):
        raise DecodeError(f"{message.topic} carries one JSON event a message")
    event = parse_event(kind, message.value)
    if isinstance(event, Excerpt) and event.n != envelope.n_rows:
        raise DecodeError(f"n_rows is {envelope.n_rows}, but the excerpt holds {event.n} instants")
    if isinstance(event, Label):
        _check_label(event, device)
    else:
        owners.check_event(event, device, hop_s)
    return Admitted(message, envelope, events=(event,))


def _open_states(
    message: RawMessage, envelope: Envelope, device: KnownDevice, owners: BootOwners, hop_s: float
) -> Admitted:
    """States of several devices, which their gateway sends together."""
    lines = decode_events(message.value, envelope.raw_bytes, envelope.n_rows)
    events = tuple(parse_event(DeviceState, line) for line in lines)
    foreign: dict[int, MessageError] = {}
    for number, event in enumerate(events):
        try:
            owners.check_event(event, device, hop_s)
        except MessageError as exc:
            foreign[number] = exc
    if len(foreign) == len(events):
        raise foreign[0]
    return Admitted(message, envelope, events=events, foreign=foreign or None)


def _check_label(label: Label, producer: KnownDevice) -> None:
    """Return if this source may give this label: a device must not be able to call its own fault healthy."""
    if not producer.labels:
        raise MessageError(f"{producer.producer} is not registered as a source of labels")
    if label.source != producer.producer and not label.source.startswith(f"{producer.producer}/"):
        raise MessageError(f"source {label.source[:64]!r} does not name the signer {producer.producer}")
    if label.span_start >= label.span_end:
        raise MessageError(f"label {label.label_id[:64]} is about an empty span")


def wire_schema_of(topic: str, envelope: Envelope, directory: DeviceDirectory) -> pa.Schema:
    """Arrow schema of the rows in a message of this topic.

    Raises:
        MessageError: Unknown schema, or one of another topic or profile.
    """
    if envelope.schema in (JSON_SCHEMA, JSON_LINES_SCHEMA):
        raise DecodeError(f"{topic} carries rows, not JSON")
    schema = directory.wire_schema(envelope.schema)
    meta = schema.metadata or {}
    if meta.get(b"kind") != ROWS_OF[topic]:
        raise DecodeError(f"schema {envelope.schema} does not belong on {topic}")
    if meta.get(b"profile", envelope.profile.encode()) != envelope.profile.encode():
        raise DecodeError(f"schema {envelope.schema} is not of profile {envelope.profile}")
    return schema


def _open_rows(message: RawMessage, envelope: Envelope, directory: DeviceDirectory) -> pa.RecordBatch:
    schema = wire_schema_of(message.topic, envelope, directory)
    rows = decode_rows(message.value, envelope.raw_bytes, schema)
    if rows.num_rows != envelope.n_rows:
        raise DecodeError(f"n_rows is {envelope.n_rows}, but the value holds {rows.num_rows} rows")
    return rows

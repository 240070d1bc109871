"""A device that seals messages, and a directory that knows it: ingest without a broker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from schemas.boot_ids import RANDOM_BITS, gateway_tag
from schemas.envelope import Envelope, MessageSigner, MessageVerifier, SealedMessage, encode_rows, seal
from schemas.errors import UnknownSchemaError, UnknownVersionError
from schemas.instants import to_us
from schemas.packed_schemas import packed_books_rows, packed_summary_rows
from schemas.profile import Profile
from schemas.profile_file import find_profile
from schemas.row_schemas import (
    BOOKS_ROWS,
    SUMMARY_ROWS,
    Reason,
    fingerprint,
    telemetry_rows,
    telemetry_rows_of_wire_1,
)
from schemas.topics import TELEMETRY, Lane, partition_for
from schemas.version_names import VersionHeader
from stream_processors.ingest.admission import KnownDevice
from stream_processors.ingest.boot_owners import tag_of
from stream_processors.job import RawMessage
from stream_processors.refused_messages import LetterLimits

T0 = datetime(2026, 1, 1, tzinfo=UTC)
MACHINE = find_profile("machine")


def telemetry_batch(
    device_id: str, first_seq: int, n: int, profile: Profile = MACHINE, **columns
) -> pa.RecordBatch:
    """n plausible rows; a keyword replaces a column."""
    schema = telemetry_rows(profile)
    rng = np.random.default_rng(first_seq)
    times = [T0 + timedelta(seconds=first_seq + i) for i in range(n)]
    values = {
        "device_id": [device_id] * n,
        "boot_id": [7] * n,
        "seq": list(range(first_seq, first_seq + n)),
        "event_time": times,
        "mono_ns": [int((first_seq + i) * 1e9) for i in range(n)],
        "time_quality": [1] * n,
        "score": [0.1] * n,
        "decision": ["none"] * n,
        "reasons": [int(Reason.SAMPLE)] * n,
        "sample_p": [profile.filter.p] * n,
        "inclusion_probability": [profile.filter.p] * n,
        "model_version": ["machine-0"] * n,
        **{name: rng.normal(5, 1, n).astype("float32") for name in profile.feature_names},
        **columns,
    }
    return pa.record_batch([pa.array(values[f.name], f.type) for f in schema], schema=schema)


def gateway_boot(gateway: str, n: int = 7) -> int:
    """Id of a start of a device behind the gateway."""
    return -1 - (gateway_tag(gateway) << RANDOM_BITS | n)


def gateway_batch(gateway: str, device_id: str, first_seq: int, n: int, **columns) -> pa.RecordBatch:
    """Rows of a device, of a boot that the gateway made."""
    return telemetry_batch(device_id, first_seq, n, **{"boot_id": [gateway_boot(gateway)] * n, **columns})


@dataclass
class SimDevice:
    """Seals telemetry with dense message numbers."""

    device_id: str = "machine-00"
    spool_id: str = "00000000000000aa"
    signer: MessageSigner = field(default_factory=MessageSigner.generate)
    next_no: dict[Lane, int] = field(default_factory=dict)
    version: VersionHeader | None = None

    def seal_value(
        self, topic: str, lane: Lane, schema: str, value: bytes, n_rows: int, raw_bytes: int
    ) -> SealedMessage:
        number = self.next_no.get(lane, 0)
        self.next_no[lane] = number + 1
        envelope = Envelope(
            schema, "machine", self.device_id, self.spool_id, lane, number, n_rows, raw_bytes, b"", "",
            self.version,
        )  # fmt: skip
        return seal(topic, envelope, value, self.signer)

    def telemetry(self, batch: pa.RecordBatch, lane: Lane = Lane.LIVE) -> SealedMessage:
        value, raw = encode_rows(batch)
        schema = fingerprint(batch.schema)
        return self.seal_value(TELEMETRY.base, lane, schema, value, batch.num_rows, raw)

    def rows(self, first_seq: int, n: int, **columns) -> SealedMessage:
        return self.telemetry(telemetry_batch(self.device_id, first_seq, n, **columns))


class SimLog:
    """Appends sealed messages as a broker partition would."""

    def __init__(self) -> None:
        self.messages: list[RawMessage] = []

    def append(
        self, message: SealedMessage, at: datetime = T0 + timedelta(minutes=1), **changes
    ) -> RawMessage:
        raw = RawMessage(
            topic=message.topic,
            partition=partition_for(message.key.decode()),
            offset=sum(m.topic == message.topic for m in self.messages),
            timestamp_ms=int(at.timestamp() * 1000),
            key=message.key,
            headers=list(message.headers),
            value=message.value,
        )._replace(**changes)
        self.messages.append(raw)
        return raw


class SimDirectory:
    """Knows the devices and profiles it is given, who is behind which gateway, and who was until when."""

    def __init__(
        self,
        *devices: SimDevice,
        profiles: tuple[Profile, ...] = (MACHINE,),
        revoked: tuple[str, ...] = (),
        behind: Mapping[str, tuple[str, ...]] = {},
        finishes: Mapping[str, Mapping[str, datetime]] = {},
    ):
        self._gateways = {gateway_tag(name): name for name in behind}
        self._producers = {device: name for name, devices in behind.items() for device in devices}
        self._devices = {
            d.signer.key_id: KnownDevice(
                d.device_id,
                d.device_id not in revoked,
                MessageVerifier(d.signer.public_pem()),
                frozenset({*({d.device_id} - set(self._producers)), *behind.get(d.device_id, ())}),
                tag=tag_of(d.device_id, is_gateway=d.device_id in behind),
                finishes={n: to_us(at) for n, at in finishes.get(d.device_id, {}).items()},
            )
            for d in devices
        }
        self._profiles = {p.name: p for p in profiles}
        made = (telemetry_rows, telemetry_rows_of_wire_1, packed_summary_rows)
        wires = [wire(p) for p in profiles for wire in made]
        self._schemas = {fingerprint(s): s for s in (SUMMARY_ROWS, BOOKS_ROWS, packed_books_rows(), *wires)}

    letters = LetterLimits()

    def signer(self, key_id):
        return self._devices.get(key_id)

    def newest(self, sender, *, again):
        return sender

    def producer_of(self, device_id):
        return self._producers.get(device_id, device_id)

    def gateway_of(self, tag):
        return self._gateways.get(tag, "")

    def wire_schema(self, schema):
        if schema not in self._schemas:
            raise UnknownSchemaError(f"schema {schema} is not registered")
        return self._schemas[schema]

    def profile_of(self, name):
        if name not in self._profiles:
            raise UnknownSchemaError(f"profile '{name}' is not registered")
        return self._profiles[name]

    def judge_of(self, profile, version, producer):
        if version is None:
            return self.profile_of(profile)
        raise UnknownVersionError(f"version {version.number} of {profile} is not known")

    def verify_derived(self, message):
        return True

    def cohort_of(self, device_id, profile):
        return f"{profile}/site/group/hardware"

"""Seeded device messages for the benchmarks: real keys, real seals, ten features."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count, islice

import confluent_kafka as ck
import numpy as np
import pyarrow as pa

from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRecord, DeviceRegistry, ProfileRegistry
from schemas.envelope import Envelope, MessageSigner, SealedMessage, encode_rows, seal
from schemas.packed_schemas import packed_books_rows, packed_summary_rows
from schemas.profile import Profile
from schemas.profile_file import find_profile
from schemas.row_schemas import BOOKS_ROWS, SUMMARY_ROWS, Reason, fingerprint, telemetry_rows
from schemas.sealed_together import signed_as_a_turn
from schemas.topics import TELEMETRY, Lane

SEED = 7
DEVICES = 32


@cache
def machine() -> Profile:
    """The profile of all scenarios: ten features."""
    return find_profile("machine")


def wire_schemas() -> dict[str, pa.Schema]:
    """Arrow schemas that devices of that profile send, by fingerprint."""
    packed = (packed_summary_rows(machine()), packed_books_rows())
    return {fingerprint(s): s for s in (telemetry_rows(machine()), SUMMARY_ROWS, BOOKS_ROWS, *packed)}


@dataclass(frozen=True)
class Workload:
    """Messages of one scenario.

    Attributes:
        name: Name of the scenario.
        messages: Sealed messages, in order.
        rows: Rows in all messages; an event counts as one.
        devices: Devices that sealed them, for the lake's registry.
        schemas: Arrow schema by fingerprint, for peers that have no lake.
        signers: Key of each device, where the messages are made up.
    """

    name: str
    messages: Sequence[SealedMessage]
    rows: int
    devices: Sequence[DeviceRecord]
    schemas: Mapping[str, pa.Schema] = field(default_factory=wire_schemas)
    signers: Mapping[str, MessageSigner] = field(default_factory=dict)

    @property
    def value_bytes(self) -> int:
        """Bytes of all values."""
        return sum(len(m.value) for m in self.messages)

    def register(self, lake: Lake) -> None:
        """Register profile and devices with the lake."""
        ProfileRegistry(lake).register(machine())
        DeviceRegistry(lake).register(self.devices)


def of_size(rows_per_message: int, messages: int, senders: int = DEVICES) -> Workload:
    """Messages of equal size with seeded rows, from each device in turn; keys are random."""
    keys = _keys(senders)
    sealed = [*islice(_sealed(rows_per_message, keys), messages)]
    return Workload(str(rows_per_message), sealed, rows_per_message * messages, _records(keys), signers=keys)


def signed_together(load: Workload) -> Workload:
    """The same messages, signed as a device signs what it seals of a backlog: many at once."""
    sealed = list(load.messages)
    for device, signer in load.signers.items():
        own = [i for i, m in enumerate(sealed) if m.key.decode() == device]
        for place, one in zip(own, signed_as_a_turn([sealed[i] for i in own], signer), strict=True):
            sealed[place] = one
    return replace(load, name=f"{load.name}-backlog", messages=sealed)


def endless(
    rows_per_message: int, senders: int = DEVICES
) -> tuple[list[DeviceRecord], Iterator[SealedMessage]]:
    """The devices, and such messages one after the other."""
    keys = _keys(senders)
    return _records(keys), _sealed(rows_per_message, keys)


def _keys(senders: int) -> dict[str, MessageSigner]:
    return {f"bench-{i:03d}": MessageSigner.generate() for i in range(senders)}


def _sealed(rows_per_message: int, keys: Mapping[str, MessageSigner]) -> Iterator[SealedMessage]:
    named = fingerprint(_wire())
    rng = np.random.default_rng(SEED)
    for number, device in ((n, d) for n in count() for d in keys):
        batch = telemetry(device, rows_per_message, number, rng)
        value, raw = encode_rows(batch)
        envelope = Envelope(
            named, "machine", device, "00000000000000aa", Lane.LIVE,
            number, rows_per_message, raw, b"", "",
        )  # fmt: skip
        yield seal(TELEMETRY.base, envelope, value, keys[device])


def _records(keys: Mapping[str, MessageSigner]) -> list[DeviceRecord]:
    return [_record(name, signer) for name, signer in keys.items()]


def _record(device: str, signer: MessageSigner) -> DeviceRecord:
    pem = signer.public_pem().decode()
    return DeviceRecord(
        device, "machine", "bench", "default", "simulated", signer.key_id, pem, gateway=None, active=True
    )


@cache
def _wire() -> pa.Schema:
    return telemetry_rows(machine())


def telemetry(device: str, n: int, block: int, rng: np.random.Generator) -> pa.RecordBatch:
    """``n`` rows of one device; features have full mantissas, so that nothing compresses by luck."""
    profile, schema = machine(), _wire()
    seq = np.arange(block * n, block * n + n)
    now_us = int(time.time() * 1e6)
    columns = {
        "device_id": [device] * n,
        "boot_id": np.full(n, 7_102_938_475_610_293),
        "seq": seq,
        "event_time": pa.array(now_us - (n - np.arange(n)) * 1000).cast(schema.field("event_time").type),
        "mono_ns": seq * 1_000_000_000,
        "time_quality": np.ones(n, dtype="int8"),
        "score": rng.random(n, dtype="float32"),
        "decision": ["none"] * n,
        "reasons": np.full(n, int(Reason.SAMPLE), dtype="int32"),
        "sample_p": np.full(n, profile.filter.p),
        "inclusion_probability": np.full(n, profile.filter.p),
        "model_version": ["machine-0"] * n,
    }
    for name in profile.feature_names:
        columns[name] = rng.normal(5, 1, n).astype("float32")
    return pa.record_batch([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def produce(bootstrap_servers: str, namespace: str, workload: Workload) -> None:
    """Append the messages to the log as devices' senders would."""
    producer = ck.Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            "compression.type": "lz4",
            "partitioner": "murmur2",
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    for m in workload.messages:
        topic = f"{namespace}.{m.topic}"
        while True:
            try:
                producer.produce(topic, key=m.key, value=m.value, headers=m.headers)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    if producer.flush(60):
        raise RuntimeError("the broker did not take all messages")

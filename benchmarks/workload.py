"""Seeded device messages for the benchmarks: real keys, real seals, ten features."""

from __future__ import annotations

import time
from dataclasses import dataclass

import confluent_kafka as ck
import numpy as np
import pyarrow as pa

from feature_store.lake import Lake
from feature_store.registry import DeviceRecord, DeviceRegistry, ProfileRegistry
from schemas.envelope import Envelope, SealedMessage, Signer, encode_rows, seal
from schemas.profile import Profile
from schemas.profile_file import find_profile
from schemas.rows import Reason, fingerprint, telemetry_rows
from schemas.topics import TELEMETRY, Lane

SEED = 7
DEVICES = 32


@dataclass(frozen=True)
class Workload:
    """Messages of one shape.

    Attributes:
        rows_per_message: Rows in each message.
        messages: Sealed, in order.
    """

    rows_per_message: int
    messages: list[SealedMessage]

    @property
    def rows(self) -> int:
        """Rows in all messages."""
        return self.rows_per_message * len(self.messages)

    @property
    def value_bytes(self) -> int:
        """Bytes of all values."""
        return sum(len(m.value) for m in self.messages)


def machine() -> Profile:
    """The profile of all scenarios: ten features."""
    return find_profile("machine")


def signers() -> dict[str, Signer]:
    """One key per device; keys are random, their number and names are not."""
    return {f"bench-{i:03d}": Signer.generate() for i in range(DEVICES)}


def register(lake: Lake, keys: dict[str, Signer]) -> None:
    """Make profile and devices known to the lake."""
    profile = machine()
    ProfileRegistry(lake).register(profile)
    DeviceRegistry(lake).register(
        [
            DeviceRecord(
                d,
                profile.name,
                "bench",
                "default",
                "simulated",
                s.key_id,
                s.public_pem().decode(),
                None,
                True,
            )
            for d, s in keys.items()
        ]
    )


def build(keys: dict[str, Signer], rows_per_message: int, messages: int) -> Workload:
    """Messages of seeded rows, the devices in turn."""
    profile = machine()
    schema = telemetry_rows(profile)
    rng = np.random.default_rng(SEED)
    devices = list(keys)
    sealed = []
    for number in range(messages):
        device = devices[number % len(devices)]
        batch = _rows(schema, profile, device, rows_per_message, number // len(devices), rng)
        value, raw = encode_rows(batch)
        envelope = Envelope(
            fingerprint(schema), profile.name, device, "00000000000000aa", Lane.LIVE,
            number // len(devices), rows_per_message, raw, b"", "",
        )  # fmt: skip
        sealed.append(seal(TELEMETRY.base, envelope, value, keys[device]))
    return Workload(rows_per_message, sealed)


def _rows(
    schema: pa.Schema, profile: Profile, device: str, n: int, block: int, rng: np.random.Generator
) -> pa.RecordBatch:
    seq = np.arange(block * n, block * n + n)
    now_us = int(time.time() * 1e6)
    columns = {
        "device_id": [device] * n,
        "boot_id": np.full(n, 7),
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
    """Append the messages to the log as a device's sender would."""
    producer = ck.Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
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

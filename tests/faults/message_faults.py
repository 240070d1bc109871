"""Hostile and broken messages on the real topics, by strangers and by registered devices."""

from __future__ import annotations

import random

import confluent_kafka as ck
import pyarrow as pa

from edge_producer.device_identity import load_or_create
from schemas.envelope import encode_rows
from schemas.row_schemas import SUMMARY_ROWS, fingerprint
from schemas.topics import Lane
from tests.faults.fault_kinds import Allowance, fault
from tests.faults.fault_rig import FaultRig
from tests.simulators.messages import SimDevice, telemetry_batch

Headers = list[tuple[str, bytes]]


class Sender:
    """Writes to the topics as anybody may who reaches the broker."""

    def __init__(self, rig: FaultRig) -> None:
        self._producer = ck.Producer(
            {
                "bootstrap.servers": rig.broker,
                "partitioner": "murmur2",
                "message.max.bytes": 4 * 1024**2,
                "queue.buffering.max.messages": 1_000_000,
                "linger.ms": 5,
            }
        )

    def send(self, topic: str, key: bytes | None, value: bytes, headers: Headers | None = None) -> None:
        """Hand over one message; a full queue waits."""
        while True:
            try:
                self._producer.produce(topic, value=value, key=key, headers=headers or [])
                self._producer.poll(0)
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def flush(self) -> None:
        """Wait until the broker has everything."""
        assert self._producer.flush(60) == 0


def registered(rig: FaultRig, rng: random.Random) -> SimDevice:
    """A real device's identity in hostile hands, with a spool id of its own."""
    edge = rig.edges[rig.any_edge(rng)]
    device = rng.choice(edge.spec.devices)
    identity = load_or_create(edge.folder / "keys", device)
    return SimDevice(device, f"{rng.randrange(16**16):016x}", identity.signer)


@fault("line", "an unsigned message with a key of 1 MB of noise on every topic", decides=True)
def giant_key(rig: FaultRig, rng: random.Random) -> Allowance:
    sender = Sender(rig)
    topics = ("telemetry.v1", "summary.v1", "books.v1", "alert.v1", "aggregate.v1")
    for topic in topics:
        sender.send(topic, bytes(rng.choices(range(33, 127), k=1_039_000)), b"")
    sender.flush()
    return Allowance(faults=len(topics))


@fault("line", "20,000 unsigned messages at once", decides=True)
def unsigned_flood(rig: FaultRig, rng: random.Random) -> Allowance:
    sender = Sender(rig)
    key = b"%d" % rng.randrange(10**6)
    for _ in range(20_000):
        sender.send("telemetry.v1", key, b"x")
    sender.flush()
    return Allowance(faults=20_000)


@fault("line", "5,000 unsigned messages, and kill -9 of every worker while they are refused")
def unsigned_flood_and_kill(rig: FaultRig, rng: random.Random) -> Allowance:
    sender = Sender(rig)
    for _ in range(5_000):
        sender.send("telemetry.v1", b"flood", b"x" * 20)
    sender.flush()
    for name in ("worker-1", "worker-2"):
        rig.kill(name)
    return Allowance(faults=5_002)


@fault("line", "random headers, keys and values of any size on every topic")
def noise(rig: FaultRig, rng: random.Random) -> Allowance:
    sender = Sender(rig)
    names = (
        "schema",
        "profile",
        "spool_id",
        "lane",
        "msg_no",
        "n_rows",
        "raw_bytes",
        "digest",
        "signer",
        "signature",
    )
    for _ in range(300):
        topic = rng.choice(("telemetry.v1", "summary.v1", "books.v1", "alert.v1", "label.v1", "aggregate.v1"))
        headers = [(rng.choice(names), rng.randbytes(rng.randrange(40))) for _ in range(rng.randrange(14))]
        key = None if rng.random() < 0.1 else rng.randbytes(rng.randrange(40))
        sender.send(topic, key, rng.randbytes(int(rng.expovariate(1 / 500))), headers)
    sender.flush()
    return Allowance(faults=300)


@fault("line", "one signed message that unpacks to 100 MB (Arrow body compression)", decides=True)
def decompression_bomb(rig: FaultRig, rng: random.Random) -> None:
    device = registered(rig, rng)
    batch = telemetry_batch(device.device_id, 0, 1)
    huge = pa.Table.from_batches([batch]).take(pa.array([0] * 400_000)).combine_chunks().to_batches()[0]
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, huge.schema, options=options) as writer:
        writer.write_batch(huge)
    reader = pa.ipc.MessageReader.open_stream(sink.getvalue())
    reader.read_next_message()
    raw = reader.read_next_message().serialize().to_pybytes()
    value = pa.Codec("lz4_raw").compress(raw, asbytes=True)
    schema = fingerprint(batch.schema)
    sealed = device.seal_value("telemetry.v1", Lane.LIVE, schema, value, 400_000, len(raw))
    sender = Sender(rig)
    sender.send(sealed.topic, sealed.key, sealed.value, sealed.headers)
    sender.flush()


def extreme_summary(device: SimDevice, rng: random.Random) -> pa.RecordBatch:
    """One summary row whose numbers are as extreme as its columns allow."""
    extremes = [1e100, -1e100, 1e308, 5e-324, 0.0, 1.0]
    values = {}
    for field in SUMMARY_ROWS:
        if pa.types.is_floating(field.type):
            values[field.name] = [rng.choice(extremes)]
        elif pa.types.is_integer(field.type):
            values[field.name] = [rng.choice([0, 1, 5, 2**31 - 1])]
        elif pa.types.is_timestamp(field.type):
            values[field.name] = [1_795_000_000_000_000 + rng.randrange(10**12)]
        elif pa.types.is_string(field.type):
            values[field.name] = [
                device.device_id if field.name == "device_id" else rng.choice(["temperature_mean", "x"])
            ]
        else:
            values[field.name] = [None if field.nullable else []]
    arrays = [pa.array(values[f.name], f.type) for f in SUMMARY_ROWS]
    return pa.record_batch(arrays, schema=SUMMARY_ROWS)


@fault("line", "twenty signed summary rows with extreme numbers", decides=True)
def extreme_numbers(rig: FaultRig, rng: random.Random) -> Allowance:
    device, sender = registered(rig, rng), Sender(rig)
    for _ in range(20):
        value, raw = encode_rows(extreme_summary(device, rng))
        sealed = device.seal_value("summary.v1", Lane.SUMMARY, fingerprint(SUMMARY_ROWS), value, 1, raw)
        sender.send(sealed.topic, sealed.key, sealed.value, sealed.headers)
    sender.flush()
    return Allowance(faults=20)


@fault("line", "fifty messages of the log sent once more, byte for byte")
def messages_replayed(rig: FaultRig, rng: random.Random) -> Allowance:
    consumer = ck.Consumer(
        {"bootstrap.servers": rig.broker, "group.id": "replay", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe(["telemetry.v1", "summary.v1", "books.v1"])
    copies = [m for m in consumer.consume(50, 10) if m.error() is None]
    consumer.close()
    sender = Sender(rig)
    for message in copies:
        sender.send(message.topic(), message.key(), message.value() or b"", message.headers())
    sender.flush()
    return Allowance(faults=len(copies))


@fault("line", "a registered device uses 200 scattered message numbers and 50 spool ids")
def scattered_numbers(rig: FaultRig, rng: random.Random) -> Allowance:
    sender = Sender(rig)
    for _ in range(50):
        device = registered(rig, rng)
        for _ in range(4):
            device.next_no[Lane.LIVE] = rng.randrange(10**12)
            seq = rng.randrange(10**9)
            sealed = device.rows(seq, 1, boot_id=[rng.randrange(2**40)])
            sender.send(sealed.topic, sealed.key, sealed.value, sealed.headers)
    sender.flush()
    return Allowance(faults=200)

"""The audit: what anybody may write balances no books and unbalances none."""

from datetime import UTC, datetime

import pytest

from feature_store.lake_registry import DeviceRecord, DeviceRegistry
from infra.audit import AuditScope, Books, LogCount, SpoolCount, count_lake, count_log
from infra.kafka.kafka_admin import KafkaAdmin
from schemas.topics import TELEMETRY
from tests.feature_store.fleets import land, machine_lake, quarantined, telemetry
from tests.simulators.messages import SimDevice

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def scope(device: SimDevice) -> AuditScope:
    return AuditScope((), frozenset({device.spool_id.encode()}), (device.device_id,), LONG_AGO)


def forged(device: SimDevice, n_rows: bytes = b"65536") -> tuple[bytes, list[tuple[str, bytes]], bytes]:
    """What anybody can write who has read the log: the device's headers, and a count of its own."""
    headers = dict(device.rows(0, 1).headers) | {"n_rows": n_rows, "msg_no": b"99"}
    return device.device_id.encode(), list(headers.items()), b"x"


def test_one_forged_message_hides_no_lost_row(lake_root):
    device = SimDevice()
    lake = machine_lake(lake_root)
    land(
        lake,
        telemetry=telemetry(device_id=["machine-00"] * 5, seq=list(range(5))),
        quarantine=quarantined(
            topic=["telemetry.v1"] * 3, producer=["machine-00", "machine-00", "another"],
            n_rows=[65_536, 2, 9], verified=[False, True, True],
        ),
    )  # fmt: skip
    books = Books(
        SpoolCount(sensed=1000, acked=1000, filtered=0, evicted=0, refused=0, pending=0),
        LogCount(messages=2, received=7, distinct=7, bytes=0),
        count_lake(scope(device), lake_root),
    )
    assert (books.lake.landed, books.lake.quarantined, books.lost, books.in_flight) == (5, 2, 993, 0)
    assert books.violations() == ["993 acknowledged rows are lost"]


@pytest.mark.kafka
def test_the_log_is_counted_by_what_the_devices_signed(broker, namespace, lake_root):
    device, other = SimDevice(), SimDevice("other", "00000000000000bb")
    lake = machine_lake(lake_root)
    records = [
        DeviceRecord(d.device_id, "machine", "s", "g", "h", d.signer.key_id, d.signer.public_pem().decode())
        for d in (device, other)
    ]
    DeviceRegistry(lake).register(records)
    first, second = device.rows(0, 4), device.rows(4, 3)
    stolen = SimDevice("other", device.spool_id, other.signer).rows(0, 500)  # another's spool, its own key
    admin = KafkaAdmin(broker.bootstrap_servers)
    sealed = [(m.key, m.headers, m.value) for m in (first, second, first, stolen)]
    admin.send_all(TELEMETRY.named(namespace), [*sealed, forged(device), forged(device, b"\xff")])
    DeviceRegistry(lake).revoke([device.device_id])  # what it sent before stays sent
    count = count_log(scope(device), broker.bootstrap_servers, namespace, lake_root)
    assert (count.messages, count.received, count.distinct, count.forged) == (3, 11, 7, 3)

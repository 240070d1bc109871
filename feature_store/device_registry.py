"""What is registered with the lake about devices: keys, sites, who sends for each, and since when."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from feature_store.append import append, finish
from feature_store.cut_store import CutStore
from feature_store.delta import Snapshot
from feature_store.device_history import DeviceHistory, in_order, split_after
from feature_store.lake import Lake
from feature_store.sound_files import read_each
from schemas.boot_ids import GATEWAY
from schemas.errors import DamagedLakeError
from schemas.instants import utc_now
from schemas.tables import DEVICES

log = logging.getLogger(__name__)

TASK = "registry"
"""Task under which registrations are committed."""
_LOOK_EVERY_S = 0.2
NO_PARTITION = -1
"""``_partition`` of rows that come from no topic."""


@dataclass(frozen=True)
class DeviceRecord:
    """A device's key, site, rollout group and hardware.

    Attributes:
        key_id: Id of the signing key.
        public_key: The signing key, PEM.
        gateway: Gateway that sends for it, if any; the boots that the device made before stay its own.
        active: False: its messages are to be quarantined.
    """

    device_id: str
    profile: str
    site: str
    group: str
    hardware: str
    key_id: str
    public_key: str
    gateway: str | None = None
    active: bool = True

    @property
    def producer(self) -> str:
        """Who sends for the device from now on: its gateway, or itself."""
        return self.gateway or self.device_id


class DeviceRegistry:
    """History of devices, the table ``devices``. Nothing is ever overwritten.

    Args:
        lake: Holds the table.
        clock: UTC now: ``known_at`` of a registration.
    """

    def __init__(self, lake: Lake, clock: Callable[[], datetime] = utc_now) -> None:
        self._lake = lake
        self._cuts = CutStore(lake, clock)
        self._clock = clock
        self._version = -1
        self._lacks: str | None = None
        try:
            lake.ensure_table(DEVICES)
            finish(lake, self._cuts, TASK)
        except DamagedLakeError as exc:  # whoever reads or registers meets it again
            log.warning("%s", exc)
        self._history = DeviceHistory[DeviceRecord]()
        self._reading = threading.Lock()
        self._parts: dict[str, pa.Table] = {}

    def register(self, records: Sequence[DeviceRecord]) -> None:
        """Append what is new in these records.

        Raises:
            LakeConflictError: Other writers were first at every attempt.
        """
        known = self.history().newest
        changed = [r for r in records if known.get(r.device_id) != r]
        if changed:
            append(self._lake, self._cuts, TASK, lambda n: {DEVICES.name: self._rows(changed, n)})

    def revoke(self, device_ids: Iterable[str]) -> None:
        """Stop trusting these devices from now on.

        Raises:
            ValueError: One was never registered.
        """
        known = self.history().newest
        revoked = set(device_ids)
        if unknown := sorted(revoked - set(known)):
            raise ValueError(f"never registered: {', '.join(unknown)}")
        self.register([replace(known[d], active=False) for d in sorted(revoked)])

    def assign(self, device_ids: Iterable[str], gateway: str | None) -> None:
        """Have a gateway send for these devices from now on, or each for itself.

        Raises:
            ValueError: One was never registered or is a gateway, or the gateway is none.
        """
        known = self.history().newest
        wanted = list(device_ids)
        if unknown := sorted(set(wanted) - set(known)):
            raise ValueError(f"never registered: {', '.join(unknown)}")
        if gateways := sorted(d for d in wanted if known[d].hardware == GATEWAY):
            raise ValueError(f"gateways are not assigned: {', '.join(gateways)}")
        if gateway is not None and (gateway not in known or known[gateway].hardware != GATEWAY):
            raise ValueError(f"{gateway} is no gateway: `edgeloop fleet invite-gateway {gateway}`")
        self.register([replace(known[d], gateway=gateway) for d in wanted])

    def keys(self) -> dict[str, DeviceRecord]:
        """Newest record of each device by its key's id, revoked ones too. Cheap while nothing changes."""
        return self.history().keys

    def history(self) -> DeviceHistory[DeviceRecord]:
        """All registrations. The same object grows, unless they had to be read anew: then it is another."""
        with self._reading:
            return self._read()

    def lacks(self) -> str | None:
        """Why registrations may be missing from what was read last, in words; None: none are."""
        return self._lacks

    def as_of(self, instant: datetime) -> dict[str, DeviceRecord]:
        """Record of each device that was in force at the instant, by device id."""
        return {r.device_id: r for at, r in self.history().moments if at <= instant}

    def _read(self) -> DeviceHistory[DeviceRecord]:
        """History in commit order. Only new rows are taken in, also where a compaction wrote old ones anew.

        Files that were read once are not read again: one that is damaged later unregisters nobody here.
        """
        try:
            snapshot = self._lake.snapshot(DEVICES.name)
        except DamagedLakeError as exc:
            self._lacks = str(exc)
            raise
        if snapshot.version == self._version and self._lacks is None:
            return self._history
        fresh = [f for f in snapshot.sizes if f not in self._parts]
        read = read_each(self._lake.root, DEVICES.name, fresh, snapshot)
        gone = in_order((t for f, t in self._parts.items() if f not in snapshot.sizes), snapshot.columns)
        self._parts = {f: t for f, t in {**self._parts, **read}.items() if f in snapshot.sizes}
        old, new = split_after(self._history.last, in_order(read.values(), snapshot.columns))
        if not old.equals(gone):  # no compaction: a file came back, or the table is of another moment
            self._history, new = DeviceHistory(), in_order(self._parts.values(), snapshot.columns)
        if new.num_rows:
            self._history.extend(map(_record, new.to_pylist()), new["_offset"][-1].as_py())
        self._version = snapshot.version
        self._lacks = self._what_lacks(snapshot)
        return self._history

    def _what_lacks(self, snapshot: Snapshot) -> str | None:
        unread = [f for f in snapshot.sizes if f not in self._parts]
        if unread:
            return f"{DEVICES.name}/{unread[0]} is damaged"
        cut = self._cuts.latest()
        if (
            cut is not None
            and DEVICES.name in cut.tables
            and snapshot.version < cut.tables[DEVICES.name].version
        ):
            return f"table {DEVICES.name} is of an earlier moment than cut {cut.id}"
        return None

    def _rows(self, records: Sequence[DeviceRecord], n: int) -> pa.Table:
        now = self._clock().astimezone(UTC)
        rows: list[dict[str, Any]] = [
            {**asdict(r), "known_at": now, "_partition": NO_PARTITION, "_offset": n, "_row": i}
            for i, r in enumerate(records)
        ]
        return pa.Table.from_pylist(rows, schema=DEVICES.schema)


def _record(row: dict[str, Any]) -> tuple[datetime, DeviceRecord]:
    return row["known_at"], DeviceRecord(**{f.name: row[f.name] for f in fields(DeviceRecord)})


def used_profiles(lake: Lake) -> frozenset[str]:
    """Names of the profiles that registered devices run, revoked ones included."""
    return frozenset(record.profile for record in DeviceRegistry(lake).history().newest.values())


def await_assigned(
    lake: Lake, device_ids: Iterable[str], gateway: str | None, patience_s: float = 15.0
) -> bool:
    """Wait until the lake knows who sends for these devices; False if the time was too short."""
    registry, wanted, until_s = DeviceRegistry(lake), set(device_ids), time.monotonic() + patience_s
    while True:
        known = {r.device_id for r in registry.keys().values() if r.gateway == gateway}
        if wanted <= known:
            return True
        if time.monotonic() >= until_s:
            return False
        time.sleep(_LOOK_EVERY_S)

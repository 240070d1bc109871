"""What is registered with the lake: profiles with their wire schemas, devices with their keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from feature_store import parquet
from feature_store.append import append, finish
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from schemas.durable import DISK
from schemas.errors import UnknownSchemaError
from schemas.instants import utc_now
from schemas.profile import Profile
from schemas.row_schemas import BOOKS_ROWS, SUMMARY_ROWS, fingerprint, telemetry_rows
from schemas.tables import DEVICES, telemetry_table

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
TASK = "registry"
"""Task under which registrations are committed."""
NO_PARTITION = -1
"""``_partition`` of rows that come from no topic."""


@dataclass(frozen=True)
class WireSchema:
    """The meaning of a schema fingerprint in a message header.

    Attributes:
        profile: Newest profile with this schema; None for rows that are the same in all profiles.
        kind: ``telemetry``, ``summaries`` or ``books``.
    """

    profile: Profile | None
    schema: pa.Schema
    kind: str


_ALWAYS_KNOWN = {
    fingerprint(schema): WireSchema(None, schema, schema.metadata[b"kind"].decode())
    for schema in (SUMMARY_ROWS, BOOKS_ROWS)
}


class ProfileRegistry:
    """Every version of every profile that was ever registered.

    ``_profiles/<name>/<number>.json`` are the versions; ``_schemas/<fingerprint>.json`` names the newest
    version with that wire schema.

    Args:
        lake: Registering ensures the profile's telemetry table in it.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._profiles = lake.root / "_profiles"
        self._schemas = lake.root / "_schemas"
        self._read: dict[Path, Profile] = {}
        self._wired: dict[str, tuple[int, WireSchema]] = {}

    def register(self, profile: Profile) -> str:
        """Register the profile; the same one again changes nothing.

        Returns:
            Fingerprint of its telemetry rows.

        Raises:
            OperatorError: Its telemetry table has a column of another type.
        """
        self._lake.ensure_table(telemetry_table(profile))
        schema_id = fingerprint(telemetry_rows(profile))
        payload = profile.model_dump_json().encode()
        while True:
            newest = self._newest(profile.name)
            if newest is not None and self._load(newest) == profile:
                path = newest
                break
            number = 0 if newest is None else int(newest.stem) + 1
            path = self._profiles / profile.name / f"{number:06d}.json"
            if DISK.put_if_absent(path, payload):
                break
        pointer = orjson.dumps({"profile": profile.name, "number": int(path.stem)})
        DISK.write(self._schemas / f"{schema_id}.json", pointer)
        return schema_id

    def wire(self, schema_id: str) -> WireSchema:
        """The wire schema of a fingerprint.

        Raises:
            UnknownSchemaError: It was never registered.
        """
        if schema_id in _ALWAYS_KNOWN:
            return _ALWAYS_KNOWN[schema_id]
        path = self._schemas / f"{schema_id}.json"
        if not _FINGERPRINT.fullmatch(schema_id) or not path.exists():
            raise UnknownSchemaError(f"schema {schema_id[:64]!r} is not registered with this lake")
        changed = path.stat().st_mtime_ns
        if schema_id in self._wired and self._wired[schema_id][0] == changed:
            return self._wired[schema_id][1]
        pointer = orjson.loads(path.read_bytes())
        profile = self._load(self._profiles / pointer["profile"] / f"{pointer['number']:06d}.json")
        found = WireSchema(profile, telemetry_rows(profile), "telemetry")
        self._wired[schema_id] = (changed, found)
        return found

    def profiles(self) -> dict[str, Profile]:
        """Newest version of each profile, by name."""
        if not self._profiles.is_dir():
            return {}
        newest = {p.name: self._newest(p.name) for p in sorted(self._profiles.iterdir())}
        return {name: self._load(path) for name, path in newest.items() if path is not None}

    def _newest(self, name: str) -> Path | None:
        return max((self._profiles / name).glob("[0-9]*.json"), default=None)

    def _load(self, path: Path) -> Profile:
        if path not in self._read:
            self._read[path] = Profile.model_validate_json(path.read_bytes())
        return self._read[path]


@dataclass(frozen=True)
class DeviceRecord:
    """A device's key, site, rollout group and hardware.

    Attributes:
        key_id: Id of the signing key.
        public_key: The signing key, PEM.
        gateway: Gateway that sends for it, if any.
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


class DeviceRegistry:
    """History of devices, the table ``devices``. Nothing is ever overwritten.

    Args:
        lake: Holds the table.
        clock: UTC now: ``known_at`` of a registration.
    """

    def __init__(self, lake: Lake, clock: Callable[[], datetime] = utc_now) -> None:
        lake.ensure_table(DEVICES)
        self._lake = lake
        self._cuts = CutStore(lake, clock)
        self._clock = clock
        self._version = -1
        finish(lake, self._cuts, TASK)
        self._history: list[tuple[datetime, DeviceRecord]] = []
        self._keys: dict[str, DeviceRecord] = {}

    def register(self, records: Sequence[DeviceRecord]) -> None:
        """Append what is new in these records.

        Raises:
            LakeConflictError: Other writers were first at every attempt.
        """
        known = self._newest(self._read())
        changed = [r for r in records if known.get(r.device_id) != r]
        if changed:
            append(self._lake, self._cuts, TASK, lambda n: {DEVICES.name: self._rows(changed, n)})

    def revoke(self, device_ids: Iterable[str]) -> None:
        """Stop trusting these devices from now on.

        Raises:
            ValueError: One was never registered.
        """
        known = self._newest(self._read())
        revoked = set(device_ids)
        if unknown := sorted(revoked - set(known)):
            raise ValueError(f"never registered: {', '.join(unknown)}")
        self.register([replace(known[d], active=False) for d in sorted(revoked)])

    def keys(self) -> dict[str, DeviceRecord]:
        """Newest record of each device by its key's id, revoked ones too. Cheap while nothing changes."""
        self._read()
        return self._keys

    def as_of(self, instant: datetime) -> dict[str, DeviceRecord]:
        """Record of each device that was in force at the instant, by device id."""
        return self._newest([(at, r) for at, r in self._read() if at <= instant])

    def _read(self) -> list[tuple[datetime, DeviceRecord]]:
        """History in commit order."""
        log = self._lake.log(DEVICES.name)
        if log.version() == self._version:
            return self._history
        snapshot = log.snapshot()
        folder = self._lake.root / DEVICES.name
        rows = parquet.concat([parquet.read(folder / f, snapshot.columns) for f in snapshot.sizes], snapshot.columns)
        order = [("_offset", "ascending"), ("_row", "ascending")]  # of the commits: clocks may differ
        self._history = [_record(row) for row in rows.sort_by(order).to_pylist()]
        self._keys = {r.key_id: r for r in self._newest(self._history).values()}
        self._version = snapshot.version
        return self._history

    @staticmethod
    def _newest(history: Iterable[tuple[datetime, DeviceRecord]]) -> dict[str, DeviceRecord]:
        return {record.device_id: record for _, record in history}

    def _rows(self, records: Sequence[DeviceRecord], n: int) -> pa.Table:
        now = self._clock().astimezone(UTC)
        rows: list[dict[str, Any]] = [
            {**asdict(r), "known_at": now, "_partition": NO_PARTITION, "_offset": n, "_row": i}
            for i, r in enumerate(records)
        ]
        return pa.Table.from_pylist(rows, schema=DEVICES.schema)


def _record(row: dict[str, Any]) -> tuple[datetime, DeviceRecord]:
    return row["known_at"], DeviceRecord(**{f.name: row[f.name] for f in fields(DeviceRecord)})

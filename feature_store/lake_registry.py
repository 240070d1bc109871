"""What is registered with the lake: profiles with their wire schemas, devices with their keys."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from pydantic import ValidationError

from feature_store.append import append, finish
from feature_store.copies import add_copy, copy_of, read_sound, stating_path, with_copies
from feature_store.cut_store import CutStore
from feature_store.delta import Snapshot
from feature_store.device_history import DeviceHistory, in_order, split_after
from feature_store.lake import Lake
from feature_store.sound_files import read_each
from schemas.durable import DISK
from schemas.errors import DamagedLakeError, UnknownSchemaError
from schemas.instants import utc_now
from schemas.packed_schemas import packed_books_rows, packed_summary_rows
from schemas.profile import Profile
from schemas.row_schemas import (
    BOOKS_ROWS,
    SUMMARY_ROWS,
    fingerprint,
    telemetry_rows,
    telemetry_rows_of_wire_1,
)
from schemas.self_digest import checked, with_digest
from schemas.tables import DEVICES, telemetry_table

log = logging.getLogger(__name__)

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_RUNBOOK = "docs/runbook.md#damaged-profiles"
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
    for schema in (SUMMARY_ROWS, BOOKS_ROWS, packed_books_rows())
}


class ProfileRegistry:
    """Every version of every profile that was ever registered.

    ``_profiles/<name>/<number>.json`` are the versions, each with a second copy.
    ``_schemas/<fingerprint>.json`` names the newest version with that wire schema, for readers of release
    0.2.0; here it only shows that there is a newer one. Its name is the fingerprint of wire 1, which that
    release reads, for whatever wire is asked.

    Args:
        lake: Registering ensures the profile's telemetry table in it.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._profiles = lake.root / "_profiles"
        self._schemas = lake.root / "_schemas"
        self._read: dict[Path, Profile] = {}
        self._wired: dict[str, WireSchema] = {}
        self._pointed: dict[str, int] = {}
        self._pointers: dict[str, str] = {}
        self._wired_at: tuple[tuple[str, int], ...] | None = None
        self._warned: set[Path] = set()

    def register(self, profile: Profile) -> str:
        """Register the profile; the same one again changes nothing.

        Returns:
            Fingerprint of its telemetry rows.

        Raises:
            OperatorError: Its telemetry table has a column of another type.
        """
        self._lake.ensure_table(telemetry_table(profile))
        payload = profile.model_dump_json().encode()
        while True:
            newest = self._newest(profile.name)
            if newest is not None and self._try(newest) == profile:
                path = newest
                break
            number = 0 if newest is None else int(newest.stem) + 1
            path = self._profiles / profile.name / f"{number:06d}.json"
            if DISK.put_if_absent(path, stating_path(self._lake.root, path, payload)):
                break
        add_copy(self._lake.root, path)
        self._point(_pointer_of(profile), path)
        return fingerprint(telemetry_rows(profile))

    def wire(self, schema_id: str) -> WireSchema:
        """The wire schema of a fingerprint.

        Raises:
            UnknownSchemaError: It was never registered.
        """
        if schema_id in _ALWAYS_KNOWN:
            return _ALWAYS_KNOWN[schema_id]
        if not _FINGERPRINT.fullmatch(schema_id):
            raise UnknownSchemaError(f"schema {schema_id[:64]!r} is not registered with this lake")
        # Its pointer is written anew by each registration.
        pointed = _changed(self._schemas / f"{self._pointers.get(schema_id, schema_id)}.json")
        if (known := self._wired.get(schema_id)) and self._pointed.get(schema_id) == pointed:
            return known
        changed = self._changed()
        if known or changed != self._wired_at:
            self._wired, self._wired_at = self._wire_schemas(), changed
            pointed = _changed(self._schemas / f"{self._pointers.get(schema_id, schema_id)}.json")
            self._pointed[schema_id] = pointed
        if schema_id in self._wired:
            return self._wired[schema_id]
        damaged = "; ".join(self.damaged().values())
        raise UnknownSchemaError(
            f"schema {schema_id!r} is not registered with this lake{damaged and f', or {damaged}'}"
        )

    def profiles(self) -> dict[str, Profile]:
        """Newest version of each profile, by name; without profiles whose newest version cannot be read."""
        newest = {name: self._newest(name) for name in self._names()}
        readable = {name: self._try(path) for name, path in newest.items() if path is not None}
        return {name: profile for name, profile in readable.items() if profile is not None}

    def damaged(self) -> dict[str, str]:
        """Versions of profiles that cannot be read: path in the lake's folder and what is wrong."""
        found = {}
        for path in (p for name in self._names() for p in self._versions(name)):
            try:
                self._load(path)
            except DamagedLakeError as exc:
                found[str(path.relative_to(self._lake.root))] = str(exc)
        return found

    def files(self) -> list[Path]:
        """Every version of every profile."""
        return [path for name in self._names() for path in self._versions(name)]

    def wrong_pointers(self) -> list[Path]:
        """Pointers of wire schemas that do not name the newest version with that schema."""
        wanted = {
            self._schemas / f"{schema_id}.json": schema for schema_id, schema in self._newest_with().items()
        }
        return [path for path, version in wanted.items() if self._pointed_at(path) != version]

    def point_again(self) -> None:
        """Write every pointer anew."""
        for schema_id, version in self._newest_with().items():
            self._point(schema_id, version)

    def _newest_with(self) -> dict[str, Path]:
        """Newest version with each wire schema, of profiles that can be read."""
        found = {}
        for name in self.profiles():
            for path in self._versions(name):
                if (profile := self._try(path)) is not None:
                    found[_pointer_of(profile)] = path
        return found

    def _pointed_at(self, pointer: Path) -> Path | None:
        try:
            raw = checked(pointer.read_bytes(), str(pointer))
            return self._profiles / str(raw["profile"]) / f"{int(raw['number']):06d}.json"
        except (OSError, DamagedLakeError, KeyError, TypeError, ValueError):
            return None

    def _point(self, schema_id: str, version: Path) -> None:
        pointer = orjson.dumps({"profile": version.parent.name, "number": int(version.stem)})
        DISK.write(self._schemas / f"{schema_id}.json", with_digest(pointer))

    def _wire_schemas(self) -> dict[str, WireSchema]:
        """Wire schema by fingerprint, from the profiles themselves: the newest version with it counts.

        Older versions do not stand in for a newest one that cannot be read: they may allow other rows.
        """
        found = {}
        for name, newest in self.profiles().items():
            versions = [self._try(path) for path in self._versions(name)[:-1]]
            for profile in [*(v for v in versions if v is not None), newest]:
                wires = (telemetry_rows_of_wire_1(profile), telemetry_rows(profile))
                for schema in (*wires, packed_summary_rows(profile)):
                    kind = schema.metadata[b"kind"].decode()
                    found[fingerprint(schema)] = WireSchema(profile, schema, kind)
                    self._pointers[fingerprint(schema)] = _pointer_of(profile)
        return found

    def _changed(self) -> tuple[tuple[str, int], ...]:
        """When each profile last got or lost a version."""
        return tuple((name, _changed(self._profiles / name)) for name in self._names())

    def _names(self) -> list[str]:
        roots = (self._profiles, copy_of(self._lake.root, self._profiles))
        return sorted({p.name for root in roots if root.is_dir() for p in root.iterdir() if p.is_dir()})

    def _versions(self, name: str) -> list[Path]:
        return with_copies(self._lake.root, self._profiles / name, "[0-9]*.json")

    def _newest(self, name: str) -> Path | None:
        return max(self._versions(name), default=None)

    def _try(self, path: Path) -> Profile | None:
        try:
            return self._load(path)
        except DamagedLakeError as exc:
            if path not in self._warned:
                self._warned.add(path)
                log.warning("%s: what devices of this profile send is refused (%s)", exc, _RUNBOOK)
            return None

    def _load(self, path: Path) -> Profile:
        if path not in self._read:
            raw = read_sound(self._lake.root, path)
            try:
                self._read[path] = Profile.model_validate_json(orjson.dumps(raw))
            except ValidationError as exc:
                name = path.relative_to(self._lake.root)
                raise DamagedLakeError(f"{name} is damaged: it is no profile") from exc
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


def _pointer_of(profile: Profile) -> str:
    """Name of the pointer of a profile's wire schemas."""
    return fingerprint(telemetry_rows_of_wire_1(profile))


def _changed(path: Path) -> int:
    """When a file or folder last changed, ns; 0: it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _record(row: dict[str, Any]) -> tuple[datetime, DeviceRecord]:
    return row["known_at"], DeviceRecord(**{f.name: row[f.name] for f in fields(DeviceRecord)})


def used_profiles(lake: Lake) -> frozenset[str]:
    """Names of the profiles that registered devices run, revoked ones included."""
    return frozenset(record.profile for record in DeviceRegistry(lake).keys().values())

"""What is registered with the lake: profiles with their wire schemas; devices in ``device_registry``."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow as pa
from pydantic import ValidationError

from feature_store.copies import add_copy, copy_of, read_sound, stating_path, with_copies
from feature_store.device_registry import (
    NO_PARTITION,
    TASK,
    DeviceRecord,
    DeviceRegistry,
    used_profiles,
)
from feature_store.lake import Lake
from schemas.durable import DISK
from schemas.errors import DamagedLakeError, UnknownSchemaError
from schemas.excerpt_table import excerpts_table
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
from schemas.tables import telemetry_table

__all__ = [
    "NO_PARTITION",
    "TASK",
    "DeviceRecord",
    "DeviceRegistry",
    "ProfileRegistry",
    "WireSchema",
    "used_profiles",
]

log = logging.getLogger(__name__)

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_RUNBOOK = "docs/runbook.md#damaged-profiles"


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
        if profile.excerpts is not None:
            self._lake.ensure_table(excerpts_table(profile))
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


def _pointer_of(profile: Profile) -> str:
    """Name of the pointer of a profile's wire schemas."""
    return fingerprint(telemetry_rows_of_wire_1(profile))


def _changed(path: Path) -> int:
    """When a file or folder last changed, ns; 0: it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0

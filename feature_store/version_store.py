"""Versions of profiles in the lake: signed, numbered, and which group's channel each was in.

Beside ``_profiles``, which stays as release 0.2.0 writes it: what is registered there was not pushed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from feature_store.copies import add_copy, copy_of, read_sound, stating_path, with_copies
from feature_store.lake import Lake
from schemas.durable import DISK
from schemas.errors import DamagedLakeError, ProfileError, ProfileVersionError
from schemas.excerpt_table import excerpts_table
from schemas.profile_bounds import DEFAULT_BOUNDS, ProfileBounds
from schemas.profile_statement import SignedVersion, VersionKey, verified
from schemas.profile_versions import ProfileVersion
from schemas.version_names import VersionName

FOLDER = "_profile_versions"
_KEYS, _BOUNDS, _GROUPS = "_keys", "_bounds", "_groups"
_DIGITS = 6
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")


class VersionStore:
    """Every version of every profile that was ever pushed. Each file is written once, and has a copy.

    ``<name>/<number>.json`` are the versions, ``_groups/<group>/<name>@<number>.json`` say that one was in
    the group's channel, ``_keys/<id>.json`` are the keys that may sign, ``_bounds/<seq>.json`` the bounds.

    Args:
        lake_root: The lake's folder.
    """

    def __init__(self, lake_root: Path) -> None:
        self._root = lake_root
        self._folder = lake_root / FOLDER
        self._verified: dict[VersionName, ProfileVersion] = {}

    def put(self, signed: SignedVersion) -> None:
        """Store a version; the same one again changes nothing.

        Raises:
            ProfileVersionError: It is not signed as it must be, or its number is another version's.
        """
        name = signed.statement.version
        self._verify(signed)
        path = self._path(name)
        self._put(path, signed.to_json())
        stored = self.signed(name)
        if stored is None or stored.statement.sha256 != signed.statement.sha256:
            raise ProfileVersionError(f"{name} is another content already: numbers are used once")

    def signed(self, name: VersionName) -> SignedVersion | None:
        """A version as it is stored; None: it is not.

        Raises:
            DamagedLakeError: Its file and its copy are damaged.
        """
        path = self._path(name)
        if not (path.exists() or copy_of(self._root, path).exists()):
            return None
        try:
            return SignedVersion.from_json(read_sound(self._root, path))
        except ProfileVersionError as exc:
            raise DamagedLakeError(f"{path.relative_to(self._root)} is damaged: it is no version") from exc

    def version(self, name: VersionName) -> ProfileVersion | None:
        """A version whose signatures hold; None: the lake does not have it.

        Raises:
            DamagedLakeError: It cannot be read.
            ProfileVersionError: It is not signed as it must be.
        """
        if name not in self._verified:
            signed = self.signed(name)
            if signed is None:
                return None
            if signed.statement.version != name:
                raise ProfileVersionError(f"the file of {name} holds {signed.statement.version}")
            self._verified[name] = self._verify(signed)
        return self._verified[name]

    def forget(self) -> None:
        """Verify every version anew when it is next asked for: a key may have been removed."""
        self._verified.clear()

    def names(self) -> list[str]:
        """Profiles that have versions."""
        roots = (self._folder, copy_of(self._root, self._folder))
        found = {p.name for root in roots if root.is_dir() for p in root.iterdir() if p.is_dir()}
        return sorted(name for name in found if not name.startswith("_"))

    def history(self, profile: str) -> list[VersionName]:
        """Versions of a profile, oldest first."""
        files = with_copies(self._root, self._folder / profile, "[0-9]*.json")
        return [VersionName(profile, int(path.stem)) for path in files if path.stem.isdigit()]

    def newest(self, profile: str) -> VersionName | None:
        """The newest version of a profile; None: it has none."""
        return max(self.history(profile), default=None)

    def enter_channel(self, group: str, name: VersionName) -> None:
        """Note that a group's channel names a version; call it before the channel does.

        Raises:
            ProfileVersionError: The lake does not have the version, or it is not for this group.
        """
        signed = self.signed(name)
        if signed is None:
            raise ProfileVersionError(f"{name} is not in the lake")
        if group not in signed.statement.groups:
            groups = ", ".join(signed.statement.groups)
            raise ProfileVersionError(f"{name} is for the groups {groups}, not for {group}")
        found = self.version(name)
        if found is not None and found.profile.excerpts is not None:
            Lake(self._root).ensure_table(excerpts_table(found.profile))  # before devices can send any
        self._put(self._entry(group, name), {"group": group, "version": str(name)})

    def was_in_channel(self, group: str, name: VersionName) -> bool:
        """Whether the group's channel ever named the version."""
        if not _GROUP.fullmatch(group):
            return False
        path = self._entry(group, name)
        return path.exists() or copy_of(self._root, path).exists()

    def groups_of(self, name: VersionName) -> list[str]:
        """Groups whose channels ever named the version."""
        roots = (self._folder / _GROUPS, copy_of(self._root, self._folder / _GROUPS))
        return sorted({p.parent.name for root in roots for p in root.glob(f"*/{name}.json")})

    def add_key(self, key_id: str, key: VersionKey) -> None:
        """Let a key sign versions."""
        self._put(self._folder / _KEYS / f"{key_id}.json", {"key_id": key_id, **key._asdict()})

    def keys(self) -> Mapping[str, VersionKey]:
        """Keys that may sign, by id."""
        raw = [self._read(p) for p in with_copies(self._root, self._folder / _KEYS, "*.json")]
        return {r["key_id"]: VersionKey(r["role"], r["public_key"]) for r in raw}

    def add_bounds(self, bounds: ProfileBounds) -> None:
        """Keep bounds that the policy role has signed."""
        path = self._folder / _BOUNDS / f"{bounds.seq:0{_DIGITS}d}.json"
        self._put(path, bounds.model_dump(mode="json"))

    def bounds(self) -> list[ProfileBounds]:
        """All bounds that were ever in force, newest first; those that ship where none was signed."""
        paths = with_copies(self._root, self._folder / _BOUNDS, "[0-9]*.json")
        try:
            found = [ProfileBounds.model_validate(self._read(p)) for p in paths]
        except ValidationError as exc:
            raise DamagedLakeError(f"bounds of profiles are damaged: {exc.error_count()} keys") from exc
        return sorted(found, key=lambda b: -b.seq) or [DEFAULT_BOUNDS]

    def files(self) -> list[Path]:
        """Every file, those included of which only the copy is left."""
        folders = (self._folder, copy_of(self._root, self._folder))
        return sorted({self._folder / p.relative_to(f) for f in folders for p in f.rglob("*.json")})

    def _verify(self, signed: SignedVersion) -> ProfileVersion:
        statement = signed.statement
        before = None
        if 0 < statement.follows < statement.number:
            before = self.version(VersionName(statement.name, statement.follows))
        try:
            return verified(signed, self.keys(), before, self.bounds())
        except ProfileError as exc:
            raise ProfileVersionError(str(exc)) from exc

    def _path(self, name: VersionName) -> Path:
        return self._folder / name.name / f"{name.number:0{_DIGITS}d}.json"

    def _entry(self, group: str, name: VersionName) -> Path:
        return self._folder / _GROUPS / group / f"{name}.json"

    def _read(self, path: Path) -> dict[str, Any]:
        return read_sound(self._root, path)

    def _put(self, path: Path, raw: Mapping[str, Any]) -> None:
        DISK.put_if_absent(path, stating_path(self._root, path, orjson.dumps(raw)))
        add_copy(self._root, path)

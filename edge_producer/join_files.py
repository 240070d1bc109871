"""A device's join bundle on its disk, and the settings that it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.durable import DISK, Disk
from schemas.errors import AccessError, DamagedLakeError
from schemas.join import JoinBundle
from schemas.profile import Profile
from schemas.self_digest import checked, with_digest

JOIN_DIR, PROFILE_DIR = "join", "profiles"
"""Folders in the process's own: the bundle as it was brought, and the profile that came in it."""


def load_join(join_dir: Path, folder: Path, device_id: str, disk: Disk) -> JoinBundle | None:
    """The device's join bundle from the join folder, else as kept when it joined; None where it has none.

    Raises:
        AccessError: There is a file, but it is not a join bundle of this device.
    """
    for path in (join_dir / f"{device_id}.json", folder / "joined.json"):
        raw = disk.read(path)
        if raw is None:
            continue
        join = _parsed(raw, path)
        if join.device_id != device_id:
            raise AccessError(f"{path} is the join bundle of {join.device_id}, not of {device_id}")
        return join
    return None


def read_join(path: Path) -> JoinBundle:
    """The join bundle in the file.

    Raises:
        AccessError: There is none.
    """
    try:
        return _parsed(path.read_bytes(), path)
    except OSError as exc:
        raise AccessError(f"the join bundle {path} cannot be read: {exc.strerror or exc}") from exc


def keep_join(bundle: JoinBundle, state_dir: Path) -> None:
    """Keep bundle and profile in the process's folder, so that it needs the file that was brought only once.

    Raises:
        OSError: The disk does not take them.
    """
    join = state_dir / JOIN_DIR
    DISK.make_folder(join, private=True)
    data = bundle.model_dump_json().encode()
    path = join / f"{bundle.device_id}.json"
    new = DISK.read(path) != data
    if bundle.profile is not None and (new or not _profile_path(bundle, state_dir).exists()):
        kept = _profile_path(bundle, state_dir)
        DISK.make_folder(kept.parent)
        DISK.write(kept, with_digest(_profile(bundle).model_dump_json().encode()))
    if new:
        DISK.write(path, data, private=True)


def joined_settings(bundle: JoinBundle, state_dir: Path) -> dict[str, Any]:
    """What a join bundle says about settings of the process, by name.

    Raises:
        AccessError: Its profile is none that this release can read.
    """
    said: dict[str, Any] = {"devices": [bundle.device_id], "join_dir": state_dir / JOIN_DIR}
    if bundle.broker:
        said |= {"bootstrap_servers": bundle.broker, "broker_tls": bundle.broker_tls}
        said |= {"namespace": bundle.namespace}
    if bundle.profile is not None:
        said["profile"] = str(_profile_path(bundle, state_dir))
    return said


def kept_joins(state_dir: Path) -> list[Path]:
    """Bundles that were kept in the process's folder."""
    return sorted((state_dir / JOIN_DIR).glob("*.json"))


def _profile_path(bundle: JoinBundle, state_dir: Path) -> Path:
    return state_dir / PROFILE_DIR / f"{_profile(bundle).name}.json"


def _profile(bundle: JoinBundle) -> Profile:
    try:
        return Profile.model_validate(bundle.profile)
    except ValidationError as exc:
        raise AccessError(
            f"the join bundle of {bundle.device_id} carries a profile that this release cannot read: bring "
            f"the device to the cloud's release ({exc.errors()[0]['msg']})"
        ) from exc


def _parsed(raw: bytes, path: Path) -> JoinBundle:
    try:
        return JoinBundle.model_validate(checked(raw, str(path)))
    except (ValidationError, DamagedLakeError) as exc:
        raise AccessError(f"{path} is no join bundle, or is damaged: ask for a new one") from exc

"""What a device keeps of the version of its profile that its channel wants: durable before it is followed."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_producer.profile_switch import ProfileSwitch, RunningProfile
from schemas.durable import DISK, Disk
from schemas.errors import DamagedLakeError, ProfileError, ProfileVersionError
from schemas.profile import Profile
from schemas.profile_statement import SignedVersion
from schemas.profile_versions import ProfileVersion
from schemas.self_digest import checked, with_digest
from schemas.updates import Attack, ProfileOutcome

log = logging.getLogger(__name__)

FILE, ACCEPTED = "profile.json", "accepted_profile.json"
"""The record, and beside it the numbers that must survive damage to it."""
_SANE = 2**40
"""No document and no version has a larger number: it is damage, and would lock out every later one."""


@dataclass(frozen=True)
class ProfileRecord:
    """What a device was told, and what became of it.

    Attributes:
        seq: Newest document on profiles that it accepted; 0: none.
        floor: Number below which it does not go back.
        rollout_id: Rollout of that document.
        told: The version that it is to run; None: none was wanted of it.
        outcome: What became of it; None: nothing was wanted.
    """

    seq: int = 0
    floor: int = 0
    rollout_id: str = ""
    told: SignedVersion | None = None
    outcome: ProfileOutcome | None = None
    attack: Attack | None = None
    detail: str = ""

    @property
    def version(self) -> ProfileVersion | None:
        """The version that it is to run, as it was verified when it came."""
        try:
            return None if self.told is None else self.told.profile_version()
        except (ProfileVersionError, ProfileError) as exc:
            log.warning("the version of the profile on the disk cannot be used: %s", exc)
            return None


def load_record(folder: Path, name: str, disk: Disk) -> ProfileRecord:
    """The record of a device; what it says of another profile's versions does not count.

    Args:
        folder: The device's own.
        name: Name of the profile.
        disk: Reads it.
    """
    found = _parsed(_read(folder / FILE, disk))
    numbers = _read(folder / ACCEPTED, disk)
    seq, floor = max(found.seq, _sane(numbers.get("seq"))), found.floor
    if numbers.get("name") == name:
        floor = max(floor, _sane(numbers.get("floor")))
    if found.told is not None and found.told.statement.name != name:
        return ProfileRecord(seq=seq)
    return replace(found, seq=seq, floor=floor)


def save_record(folder: Path, name: str, record: ProfileRecord, disk: Disk) -> None:
    """Persist a record.

    Raises:
        OSError: The disk does not take it.
    """
    # The numbers first: a record that is damaged later must not let an older document in.
    numbers = {"name": name, "seq": record.seq, "floor": record.floor}
    if _read(folder / ACCEPTED, disk) != numbers:
        disk.write(folder / ACCEPTED, with_digest(json.dumps(numbers).encode()))
    raw = {
        "seq": record.seq,
        "floor": record.floor,
        "rollout_id": record.rollout_id,
        "told": None if record.told is None else record.told.to_json(),
        "outcome": record.outcome,
        "attack": record.attack,
        "detail": record.detail,
    }
    disk.write(folder / FILE, with_digest(json.dumps(raw).encode()))


def starting_profiles(
    profile: Profile, folder: Path, devices: Sequence[str], disk: Disk = DISK
) -> ProfileSwitch:
    """What devices start with: the version that each was told to run, else the profile that was given.

    Args:
        profile: The profile that was given.
        folder: Folder of the devices' folders.
        devices: Ids of the devices.
        disk: Reads them.
    """
    told = {name: load_record(folder / name, profile.name, disk).version for name in devices}
    own = {name: RunningProfile(v.profile, v.number) for name, v in told.items() if v is not None}
    return ProfileSwitch(RunningProfile(profile), own)


def _read(path: Path, disk: Disk) -> dict[str, Any]:
    try:
        return checked(disk.read(path) or b"{}", str(path))
    except (DamagedLakeError, OSError) as exc:
        log.warning("%s", exc)
        return {}


def _parsed(raw: dict[str, Any]) -> ProfileRecord:
    try:
        told, outcome, attack = raw.get("told"), raw.get("outcome"), raw.get("attack")
        return ProfileRecord(
            seq=_sane(raw.get("seq")),
            floor=_sane(raw.get("floor")),
            rollout_id=str(raw.get("rollout_id", "")),
            told=None if told is None else SignedVersion.from_json(told),
            outcome=None if outcome is None else ProfileOutcome(outcome),
            attack=None if attack is None else Attack(attack),
            detail=str(raw.get("detail", "")),
        )
    except (ProfileVersionError, ValueError, TypeError) as exc:
        log.warning("the record of the profile cannot be read: %s", exc)
        return ProfileRecord()


def _sane(number: Any) -> int:
    return number if isinstance(number, int) and 0 <= number <= _SANE else 0

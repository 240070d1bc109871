"""Fault banks of profiles of one's own, by digest, and which one is a profile's newest.

They lie in the model service's folder, where trainer and gate read the same bytes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from model_service.models.fault_bank import GENERIC, BankFile, FaultBank, parse_bank, shipped_bank
from schemas.durable import DISK
from schemas.errors import BundleError, DatasetError
from schemas.profile import Profile

FOLDER, _NEWEST, _KNOWN = "fault_banks", ".newest", ".known"


def put_bank(root: Path, bank: BankFile) -> str:
    """Store a bank and make it its profile's newest of that origin; returns its digest."""
    data = bank.to_bytes()
    digest = hashlib.sha256(data).hexdigest()
    DISK.put_if_absent(root / FOLDER / f"{digest}.json", data)
    kind = _NEWEST if bank.origin == GENERIC else _KNOWN
    DISK.write(root / FOLDER / f"{bank.profile}{kind}", digest.encode())
    return digest


def newest_bank(root: Path, profile: str) -> str:
    """Digest of a profile's newest generic bank; empty: it has none."""
    return _named(root, f"{profile}{_NEWEST}")


def newest_bank_file(root: Path, profile: Profile) -> BankFile | None:
    """A profile's newest generic bank; None: it has none, or one of other features.

    Raises:
        BundleError: It is missing or altered.
    """
    digest = newest_bank(root, profile.name)
    if not digest or stored_bank(root, digest).features != profile.feature_names:
        return None
    return BankFile.model_validate_json(DISK.read(root / FOLDER / f"{digest}.json") or b"")


def known_bank(root: Path, profile: str) -> str:
    """Digest of a profile's newest bank of known faults; empty: it has none."""
    return _named(root, f"{profile}{_KNOWN}")


def device_bank(root: Path, profile: Profile) -> str:
    """Digest of the bank whose effects a profile's bundles carry to devices; empty: none fits its features.

    The bank that ships for the profile, else its known faults, else its generic ones: as the gates choose.
    """
    shipped = shipped_bank(profile)
    found = shipped.digest if shipped else known_bank(root, profile.name) or newest_bank(root, profile.name)
    bank = bank_of(root, profile, found)
    return found if bank is not None and bank.features == profile.feature_names else ""


def bank_of(root: Path, profile: Profile, digest: str) -> FaultBank | None:
    """The bank of a digest, whether it ships or is stored; None: the digest is empty.

    Raises:
        BundleError: It is missing or altered.
    """
    if not digest:
        return None
    shipped = shipped_bank(profile)
    return shipped if shipped is not None and shipped.digest == digest else stored_bank(root, digest)


def _named(root: Path, name: str) -> str:
    data = DISK.read(root / FOLDER / name)
    return "" if data is None else data.decode("ascii", "replace").strip()


def fitted_families(root: Path) -> frozenset[str]:
    """Families of profiles whose history somebody has fitted a model to: they can be trained."""
    folder = root / FOLDER
    return frozenset(p.stem for p in folder.glob(f"*{_NEWEST}")) if folder.is_dir() else frozenset()


def required_bank(root: Path, profile: Profile) -> str:
    """Digest of the bank that a model is chosen by which starts from no other.

    That is the profile's newest generic one, else the one that ships for it.

    Raises:
        DatasetError: There is neither: nobody has fitted a first model to its history.
    """
    shipped = shipped_bank(profile)
    digest = newest_bank(root, profile.name) or ("" if shipped is None else shipped.digest)
    if not digest:
        raise DatasetError(
            f"profile {profile.name} has no model yet, and no faults to choose one by: run `edgeloop model "
            f"fit {profile.name}` on its history first"
        )
    return digest


def choosing_bank(root: Path, profile: Profile, digest: str) -> FaultBank:
    """The bank of a digest of ``required_bank``, whether it ships or is stored.

    Raises:
        BundleError: It is missing or altered.
    """
    return bank_of(root, profile, digest) or stored_bank(root, digest)


def stored_bank(root: Path, digest: str) -> FaultBank:
    """The bank of a digest.

    Raises:
        BundleError: It is missing or altered.
    """
    data = DISK.read(root / FOLDER / f"{digest}.json")
    if data is None or hashlib.sha256(data).hexdigest() != digest:
        raise BundleError(f"fault bank {digest[:12]} is missing or altered: run `edgeloop model fit` again")
    return parse_bank(data)

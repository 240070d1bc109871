"""The frozen fault bank: what known faults do to each feature, so that new data need not hold them.

Effects come from paired simulated windows of one machine, with and without the fault, the same noise in both
(`python -m infra.factory`). A fault multiplies a scale (``LOGGED_KINDS``) and is added to any other feature.
Injected into rows of a new regime, effects show whether a model still detects the fault there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from model_service.models.rounding import rounded
from schemas.errors import BundleError
from schemas.profile import Profile

Array = NDArray[np.float64]

FOLDER = Path(__file__).parent / "fault_banks"
FROZEN = "SHA256SUMS"
"""File of the SHA-256 of each bank: recall of two models can be compared only if the faults are the same."""


GENERIC = "generic"
"""Origin of a bank that was made by injecting generic faults into a profile's own windows."""

LABELLED = "labelled"
"""Origin of a bank that was made from labelled spans of a history."""


class BankFile(BaseModel):
    """A bank as stored: per kind and severity, effects of shape (members, F).

    Attributes:
        origin: ``GENERIC``, ``LABELLED``, or empty: simulated faults of this kind of machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    profile: str
    featureset: str
    features: tuple[str, ...]
    logged: tuple[bool, ...]
    seed: int
    effects: dict[str, dict[str, tuple[tuple[float, ...], ...]]]
    origin: str = ""

    def to_bytes(self) -> bytes:
        """The file's bytes, reproducible; the shipped bank's are those of 0.2.0."""
        dumped = self.model_dump(mode="json", exclude=None if self.origin else {"origin"})
        return (json.dumps(dumped, sort_keys=True) + "\n").encode()


@dataclass(frozen=True, slots=True, eq=False)
class FaultBank:
    """Effects of known faults on one profile's features.

    Attributes:
        profile: Profile's name.
        features: Feature names in column order.
        logged: Which features an effect multiplies, shape (F,).
        digest: SHA-256 of the bank's file.
        effects: By kind and severity, shape (members, F): differences of logarithms where ``logged``, else
            differences. Members are windows of several machines.
        origin: As in the file.
    """

    profile: str
    features: tuple[str, ...]
    logged: NDArray[np.bool_]
    digest: str
    effects: Mapping[str, Mapping[float, Array]]
    origin: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of faults, sorted."""
        return tuple(sorted(self.effects))

    def severities(self, kind: str) -> tuple[float, ...]:
        """Severities of a kind, ascending."""
        return tuple(sorted(self.effects[kind]))

    def effect(self, kind: str, severity: float) -> Array:
        """Mean effect over the members, shape (F,)."""
        return np.asarray(self.effects[kind][severity].mean(axis=0))

    def inject(self, features: Array, kind: str, severity: float) -> Array:
        """Rows (n, F) as they would be with the fault; row i gets member i modulo the number of members."""
        members = self.effects[kind][severity]
        effect = members[np.arange(len(features)) % len(members)]
        return np.asarray(np.where(self.logged, features * np.exp(effect), features + effect))

    def signature(self, kind: str, scale: Array) -> Array:
        """Direction in which a fault moves the features, a unit vector of shape (F,).

        Args:
            kind: Of the fault.
            scale: Standard deviation of each feature, of its logarithm where ``logged``, shape (F,).
        """
        directions = [_unit(self.effect(kind, severity) / scale) for severity in self.severities(kind)]
        return _unit(np.sum(directions, axis=0))


def load_fault_bank(family: str, folder: Path = FOLDER) -> FaultBank | None:
    """The bank that ships for a model family; None where none does.

    Raises:
        BundleError: The file is not the frozen one, or not a bank.
    """
    path = folder / f"{family}.json"
    if not path.is_file():
        return None
    data = path.read_bytes()
    if frozen_digests(folder).get(family) != hashlib.sha256(data).hexdigest():
        raise BundleError(f"{path.name}: not the fault bank that was frozen: install the package again")
    return parse_bank(data)


def frozen_digests(folder: Path = FOLDER) -> dict[str, str]:
    """SHA-256 by bank, of the file beside the banks; empty where it is missing or damaged.

    A vertical's digest changes only where a person writes it: ``python -m infra.factory`` compares.
    """
    try:
        lines = (folder / FROZEN).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    words = [line.split() for line in lines]
    return {Path(pair[1]).stem: pair[0] for pair in words if len(pair) == 2}


def shipped_bank(profile: Profile) -> FaultBank | None:
    """The bank that ships for a profile's model family, if it is of the profile's features; else None.

    Raises:
        BundleError: As ``load_fault_bank``.
    """
    found = load_fault_bank(profile.model.family)
    return found if found is not None and found.features == profile.feature_names else None


def parse_bank(data: bytes) -> FaultBank:
    """The bank of a file's bytes.

    Raises:
        BundleError: They are not a bank.
    """
    try:
        stored = BankFile.model_validate_json(data)
    except ValidationError as exc:
        raise BundleError(f"not a fault bank: {exc.error_count()} fields do not fit") from exc
    effects = {
        kind: {float(severity): np.array(members) for severity, members in by_severity.items()}
        for kind, by_severity in stored.effects.items()
    }
    digest = hashlib.sha256(data).hexdigest()
    return FaultBank(stored.profile, stored.features, np.array(stored.logged), digest, effects, stored.origin)


def paired_effects(healthy: Array, faulty: Array, logged: Sequence[bool]) -> tuple[tuple[float, ...], ...]:
    """Effects of one severity, from features (n, F) of the same windows without and with the fault."""
    mask = np.array(logged)
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.where(mask, np.log(faulty) - np.log(healthy), faulty - healthy)
    return tuple(tuple(row) for row in rounded(off, digits=4).tolist())


def _unit(vector: Array) -> Array:
    """The unit vector; 0 for a fault that on average moves no feature, as one that is random in sign."""
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length) if length else vector

"""A version of a profile: its number and its canonical form, and every value of it by path."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from schemas.errors import ProfileError
from schemas.profile import DIGEST_CHARS, Profile
from schemas.version_names import VersionHeader, VersionName


def parse_canonical(data: bytes) -> Profile:
    """The profile in its canonical form.

    Raises:
        ProfileError: It is no profile, or not in that form: two forms of one content would have two digests.
    """
    try:
        found = Profile.model_validate_json(data)
    except ValidationError as exc:
        raise ProfileError(f"the content is no profile: {exc.error_count()} keys are wrong") from exc
    if found.canonical_form() != data:
        raise ProfileError(f"the content of {found.name} is not in its canonical form")
    return found


@dataclass(frozen=True)
class ProfileVersion:
    """Number and content of a version.

    Attributes:
        number: From 1; it only rises.
    """

    number: int
    profile: Profile

    @property
    def name(self) -> VersionName:
        """How people name it."""
        return VersionName(self.profile.name, self.number)

    @property
    def header(self) -> VersionHeader:
        """How a message's header names it."""
        return VersionHeader(self.number, self.sha256[:DIGEST_CHARS])

    @property
    def sha256(self) -> str:
        """Address of the content."""
        return hashlib.sha256(self.profile.canonical_form()).hexdigest()


def flat(canonical: dict[str, Any]) -> dict[str, Any]:
    """Every value of a canonical profile by its path; channels and rules stand under their names.

    ``channels`` and ``decision.rules`` hold the names in order, for order matters. A list of anything else is
    one value.

    >>> flat({"decision": {"rules": [{"action": "stop", "enter": 0.9}]}, "name": "pump"})
    {'decision.rules': ('stop',), 'decision.rules.stop.enter': 0.9, 'name': 'pump'}
    """
    return dict(sorted(_flat("", canonical).items()))


_NAMED_LISTS = {"channels": "name", "decision.rules": "action"}


def _flat(path: str, value: Any) -> dict[str, Any]:
    if path in _NAMED_LISTS:
        return _flat_list(path, value, _NAMED_LISTS[path])
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for key, part in value.items():
        found |= _flat(f"{path}.{key}" if path else key, part)
    return found


def _flat_list(path: str, value: list[dict[str, Any]], key: str) -> dict[str, Any]:
    names = [str(part[key]) for part in value]
    shown = [n if names.count(n) == 1 else f"{n}#{i}" for i, n in enumerate(names)]
    found: dict[str, Any] = {path: tuple(shown)}
    for name, part in zip(shown, value, strict=True):
        found |= _flat(f"{path}.{name}", {k: v for k, v in part.items() if k != key})
    return found

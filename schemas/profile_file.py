"""Profiles on disk: the shipped ones and a user's own, read with errors that name each key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pydantic import ValidationError

from schemas.errors import ProfileError
from schemas.offending_keys import describe
from schemas.profile import Profile
from schemas.section import NAME


def parse_profile(text: str, origin: str) -> Profile:
    """Profile from TOML text.

    Raises:
        ProfileError: The text is no TOML or no valid profile; the message names ``origin`` and each offending
            key.
    """
    try:
        return Profile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as exc:
        raise ProfileError(f"{origin}: not valid TOML: {exc}") from exc
    except ValidationError as exc:
        raise ProfileError(f"{origin}: {describe(exc)}") from exc


def load_profile(path: Path) -> Profile:
    """Profile from a TOML file.

    Raises:
        ProfileError: The file is missing, no text, no TOML or no valid profile.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ProfileError(f"{path}: cannot be read: {exc}") from exc
    return parse_profile(text, str(path))


def builtin_profiles() -> dict[str, Path]:
    """Profiles that ship with edgeloop, by name."""
    folder = Path(__file__).parent / "profiles"
    return {p.stem: p for p in sorted(folder.glob("*.toml"))}


def find_profile(name_or_path: str) -> Profile:
    """A shipped profile by name, or the profile in a file.

    Raises:
        ProfileError: Neither exists; the message lists the shipped names.
    """
    shipped = builtin_profiles()
    if name_or_path in shipped:
        return load_profile(shipped[name_or_path])
    if re.fullmatch(NAME, name_or_path) and not Path(name_or_path).exists():
        raise ProfileError(
            f"no profile '{name_or_path}': shipped are {', '.join(shipped)}; or give a TOML file's path"
        )
    return load_profile(Path(name_or_path))

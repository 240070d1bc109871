"""Profiles on disk: the shipped ones and a user's own, read with errors that name each key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pydantic import ValidationError

from schemas.absent_file import absent
from schemas.errors import DamagedLakeError, NoSuchProfileError, ProfileError
from schemas.offending_keys import describe
from schemas.profile import Profile
from schemas.section import NAME
from schemas.self_digest import checked

TOML, JSON = ".toml", ".json"
IN_MINUTES = "_demo"
"""Ends the name of a shipped profile that is another one with the timings of a demo."""


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
    """Profile from a TOML file, or from one of JSON as a join bundle brings it.

    Raises:
        ProfileError: The file is missing, no text, no TOML or no valid profile.
    """
    if not path.exists():
        raise NoSuchProfileError(f"{path}: {absent(path)}")
    if path.is_dir():
        raise NoSuchProfileError(f"{path}: is a folder; a profile is one TOML file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise _other_kind(path, "no text in UTF-8") from exc
    except OSError as exc:
        raise ProfileError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if path.suffix == JSON:
        return _from_json(text, str(path))
    try:
        return parse_profile(text, str(path))
    except ProfileError as exc:
        if path.suffix.lower() != TOML and isinstance(exc.__cause__, tomllib.TOMLDecodeError):
            raise _other_kind(path, "no TOML") from exc
        raise


def _from_json(text: str, origin: str) -> Profile:
    try:
        return Profile.model_validate(checked(text.encode(), origin))
    except DamagedLakeError as exc:
        raise ProfileError(str(exc)) from exc
    except ValidationError as exc:
        raise ProfileError(f"{origin}: {describe(exc)}") from exc


def _other_kind(path: Path, what: str) -> NoSuchProfileError:
    return NoSuchProfileError(
        f"{path}: is {what}, so no profile; a recording is named before --profile, its profile after"
    )


def builtin_profiles() -> dict[str, Path]:
    """Profiles that ship with edgeloop, by name."""
    folder = Path(__file__).parent / "profiles"
    return {p.stem: p for p in sorted(folder.glob("*.toml"))}


def in_minutes(name: str) -> str:
    """Name of the shipped profile that is this one with the timings of a demo; itself where there is none.

    >>> in_minutes("machine"), in_minutes("pump.toml")
    ('machine_demo', 'pump.toml')
    """
    short = f"{name}{IN_MINUTES}"
    return short if short in builtin_profiles() else name


def find_profile(name_or_path: str) -> Profile:
    """A shipped profile by name, or the profile in a file.

    Raises:
        ProfileError: Neither exists; the message lists the shipped names.
    """
    shipped = builtin_profiles()
    if (name := name_or_path.replace("-", "_")) in shipped:  # people write machine-demo, tables machine_demo
        return load_profile(shipped[name])
    if re.fullmatch(NAME, name_or_path) and not Path(name_or_path).exists():
        raise NoSuchProfileError(
            f"no profile '{name_or_path}': shipped are {', '.join(shipped)}; or give a TOML file's path"
        )
    return load_profile(Path(name_or_path))

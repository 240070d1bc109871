"""Versions of the runtime that a model may run on: a version specifier as packages write it (PEP 440)."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field


def allows(versions: str, version: str) -> bool:
    """Whether a version lies in a range; an empty range allows any, even one that is not known.

    >>> allows(">=1.32,<2", "1.32.0"), allows(">=1.32,<2", ""), allows("", "")
    (True, False, True)

    Raises:
        ValueError: The range is none.
    """
    if not versions:
        return True
    # Loaded where a profile names a range, and nowhere else: a device loads what it uses.
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # noqa: PLC0415
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415

    try:
        wanted = SpecifierSet(versions)
    except InvalidSpecifier as exc:
        raise ValueError(f"{versions!r} is no range of versions, such as '>=1.32,<2'") from exc
    try:
        return wanted.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _checked(versions: str) -> str:
    allows(versions, "0")
    return versions


VersionRange = Annotated[str, Field(max_length=64), AfterValidator(_checked)]
"""A range of versions; empty: any."""

"""How people, files and headers name a version of a profile."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

from schemas.errors import DecodeError, ProfileError

VERSION_HEADER = "profile_version"
"""Header of a sealed message that names the version of the boots in it."""
_NAMED = re.compile(r"(?P<name>[a-z][a-z0-9_]{0,47})@(?P<number>[1-9][0-9]{0,8})")
_HEADER = re.compile(rb"(?P<number>[1-9][0-9]{0,8})\.(?P<digest>[0-9a-f]{16})")


class VersionName(NamedTuple):
    """``NAME@N``, as people and files name a version.

    >>> VersionName.parse("pump@3")
    VersionName(name='pump', number=3)
    >>> str(VersionName("pump", 3))
    'pump@3'
    """

    name: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From text.

        Raises:
            ProfileError: It is not of that form.
        """
        found = _NAMED.fullmatch(text)
        if found is None:
            raise ProfileError(f"{text[:80]!r} names no version of a profile; NAME@NUMBER does, as pump@3")
        return cls(found["name"], int(found["number"]))

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


class VersionHeader(NamedTuple):
    """What the signed header ``profile_version`` says: number and digest of the profile of a boot.

    >>> VersionHeader.parse(b"3.00112233aabbccdd")
    VersionHeader(number=3, digest='00112233aabbccdd')
    >>> VersionHeader(3, "00112233aabbccdd").encode()
    b'3.00112233aabbccdd'
    """

    number: int
    digest: str

    @classmethod
    def parse(cls, value: bytes) -> Self:
        """From a header.

        Raises:
            DecodeError: It is not of that form.
        """
        found = _HEADER.fullmatch(value)
        if found is None:
            raise DecodeError(f"header profile_version is malformed: {value[:40]!r}")
        return cls(int(found["number"]), found["digest"].decode())

    def encode(self) -> bytes:
        """As it stands in a header."""
        return f"{self.number}.{self.digest}".encode()

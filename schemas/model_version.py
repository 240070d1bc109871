"""A model's version as a value: ``<family>-<major>.<digest>``, such as ``machine-12.0123abcd``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

PATTERN = r"^([a-z][a-z0-9_]*)-(\d+)\.([0-9a-f]{8})$"
"""The only grammar of a version; documents on the wire check it by ``schemas.channel_documents.Version``."""
FACTORY_MAJOR = 0
"""Major of the models that ship with every device; candidates count from 1."""
_DIGITS = 8


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Names one model bundle.

    >>> version = ModelVersion.parse("machine-12.0123abcd")
    >>> version.family, version.major, version.digest, str(version)
    ('machine', 12, '0123abcd', 'machine-12.0123abcd')

    Attributes:
        family: Model family; also the manifest's name.
        major: Number within the family; grows with every candidate.
        digest: First 8 hexadecimal digits of the manifest's content digest.
    """

    family: str
    major: int
    digest: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The version in a text.

        Raises:
            ValueError: The text is no version.
        """
        found = re.fullmatch(PATTERN, text)
        if found is None:
            raise ValueError(f"{text!r} is no model version: <family>-<major>.<8 digits of its digest>")
        return cls(found[1], int(found[2]), found[3])

    @classmethod
    def of_content(cls, family: str, major: int, content_digest: str) -> Self:
        """The version of a bundle with this content.

        Args:
            family: Model family.
            major: Number within the family.
            content_digest: The manifest's, all hexadecimal digits.
        """
        return cls(family, major, content_digest[:_DIGITS])

    @property
    def is_factory(self) -> bool:
        """Whether the model ships with every device."""
        return self.major == FACTORY_MAJOR

    def __str__(self) -> str:
        return f"{self.family}-{self.major}.{self.digest}"

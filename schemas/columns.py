"""Columns of rows as plain values: what a device needs to know of them, without pyarrow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class Kind(StrEnum):
    """What a column holds, by the name that Arrow gives its type."""

    TEXT = "string"
    BINARY = "binary"
    BOOL = "bool"
    INT8 = "int8"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT32 = "float"
    FLOAT64 = "double"
    TIME = "timestamp[us, tz=UTC]"
    INT64_LIST = "list<item: int64>"
    FLOAT64_LIST = "list<item: double>"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of rows on the wire."""

    name: str
    kind: Kind
    doc: str
    nullable: bool = False


@dataclass(frozen=True)
class RowLayout:
    """The columns of a kind of rows, in order.

    Attributes:
        metadata: Part of the fingerprint; says what the rows are.
    """

    columns: tuple[Column, ...]
    metadata: Mapping[str, str]

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of SHA-256 over names, kinds, nullability and metadata.

        Documentation does not count: another sentence is not another layout.
        """
        shape = [[c.name, c.kind.value, c.nullable] for c in self.columns]
        canonical = json.dumps([shape, dict(self.metadata)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

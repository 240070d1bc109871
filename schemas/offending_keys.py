"""What is wrong with a value that pydantic refused, in words that name each key."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError


def describe(error: ValidationError) -> str:
    """The offending keys of a pydantic error: where each is, what is wrong, and the value given."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "profile"
        lines.append(f"{where}: {item['msg']}{_given(item['input'])}")
    return "; ".join(lines)


def _given(value: Any) -> str:
    return "" if isinstance(value, dict | list | tuple) else f" (got {value!r})"

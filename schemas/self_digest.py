"""JSON files of state that carry a digest of themselves: what is torn or altered is never believed.

The digest is the object's last key, ``"digest"``: the SHA-256 of all bytes before it. Files of release 0.2.0
have none, and are read as they are.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import orjson

from schemas.errors import DamagedLakeError

_KEY = "digest"
_LAST = re.compile(rb',?"digest":"([0-9a-f]{64})"\}\Z')


def with_digest(payload: bytes) -> bytes:
    """A JSON object with its digest as one more key, the last one."""
    body = payload[:-1]
    comma = b"" if body == b"{" else b","
    return b'%s%s"%s":"%s"}' % (body, comma, _KEY.encode(), hashlib.sha256(body).hexdigest().encode())


def checked(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object, without its digest.

    Raises:
        DamagedLakeError: No JSON object, or its digest is that of other bytes.
    """
    found = _LAST.search(data[-80:])
    if found and hashlib.sha256(data[: len(data) - len(found[0])]).hexdigest().encode() != found[1]:
        raise DamagedLakeError(f"{what} is damaged: its bytes are not those of its digest")
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        problem = "it is empty" if not data else f"it is torn or altered ({exc})"
        raise DamagedLakeError(f"{what} is damaged: {problem}") from exc
    if not isinstance(raw, dict):
        raise DamagedLakeError(f"{what} is damaged: it holds no JSON object")
    raw.pop(_KEY, None)
    return raw

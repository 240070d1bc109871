"""Tells from a connection's first bytes whether they are the start of TLS. Pure."""

from __future__ import annotations

from typing import Final

_HANDSHAKE, _MAJOR, _CLIENT_HELLO = 22, 3, 1
_HEADER: Final = 5
LONGEST: Final = _HEADER + 2**14
"""Largest size of the first TLS record with its header (RFC 8446, 5.1)."""


def is_whole(received: bytes | bytearray) -> bool:
    """Whether the first TLS record of a ClientHello is there; False: as far as it goes, it could be one.

    Raises:
        ValueError: It is something else.
    """
    expected = ((0, _HANDSHAKE), (1, _MAJOR), (_HEADER, _CLIENT_HELLO))
    if any(len(received) > at and received[at] != value for at, value in expected):
        raise ValueError("not a TLS ClientHello")
    if len(received) < _HEADER:
        return False
    length = _HEADER + int.from_bytes(received[3:_HEADER], "big")
    if not _HEADER < length <= LONGEST:
        raise ValueError("not a TLS ClientHello: its record is empty or too long")
    return len(received) >= length

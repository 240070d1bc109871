"""One signature for messages that a producer seals together: over the root of a Merkle tree (RFC 9162, 2.1).

Each message carries its place in the tree and the hashes beside its way to the root, so each verifies alone,
and a resend stays the same bytes. Leaves are hashed apart from inner nodes, so that none passes for another.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from functools import lru_cache

from schemas.errors import SignatureError

MOST_LEAVES = 1024
_MOST_NODES = 2048
_HEAD = struct.Struct(">HH")
_HASH_BYTES = hashlib.sha256().digest_size
_LEAF, _NODE = b"\x00", b"\x01"
_ROOT = b"\xff\xff\xff\xff edgeloop message tree "
"""Before a root where it is signed. What a signature over one message covers begins with the length of a
topic's name, and none is so long."""


def leaf_of(signed: bytes) -> bytes:
    """Hash of what a signature over one message covers (``envelope.signed_bytes``)."""
    return hashlib.sha256(_LEAF + signed).digest()


def signed_root(root: bytes) -> bytes:
    """What the signature over a tree covers."""
    return _ROOT + root


def tree_of(leaves: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """The root, and for each leaf the value of its message's header ``path``.

    Args:
        leaves: 2 to ``MOST_LEAVES``, each from ``leaf_of``.
    """
    if not 2 <= len(leaves) <= MOST_LEAVES:
        raise ValueError(f"a tree of {len(leaves)} messages; 2 to {MOST_LEAVES}")
    root, ways = _grown(leaves)
    return root, [_HEAD.pack(i, len(leaves)) + b"".join(way) for i, way in enumerate(ways)]


def root_of(leaf: bytes, path: bytes) -> bytes:
    """The root to which the way of a leaf leads.

    Raises:
        SignatureError: The path is none.
    """
    if len(path) < _HEAD.size or (len(path) - _HEAD.size) % _HASH_BYTES:
        raise SignatureError(f"header path has {len(path)} bytes")
    index, size = _HEAD.unpack_from(path)
    if not index < size <= MOST_LEAVES:
        raise SignatureError(f"header path names message {index} of {size}")
    last, found = size - 1, leaf
    for start in range(_HEAD.size, len(path), _HASH_BYTES):
        beside = path[start : start + _HASH_BYTES]
        if last == 0:
            raise SignatureError("header path is longer than its tree is high")
        if index & 1 or index == last:
            found = _node(beside, found)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            found = _node(found, beside)
        index, last = index >> 1, last >> 1
    if last:
        raise SignatureError("header path is shorter than its tree is high")
    return found


@lru_cache(maxsize=_MOST_NODES)  # messages of one tree come together, and share most of their ways
def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


def _grown(leaves: Sequence[bytes]) -> tuple[bytes, list[list[bytes]]]:
    """The root over some leaves, and beside the way of each the hashes, the lowest first."""
    if len(leaves) == 1:
        return leaves[0], [[]]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    (left, to_left), (right, to_right) = _grown(leaves[:half]), _grown(leaves[half:])
    return _node(left, right), [*([*w, right] for w in to_left), *([*w, left] for w in to_right)]

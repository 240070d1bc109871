"""Whole numbers in as few bytes as they need: 7 bits a byte, the lowest first, many at once with numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LONGEST = 10
"""Bytes of the largest number of 64 bits."""
_MORE = 0x80
_FEW = 24
"""So many are quicker one by one than with numpy."""
_SHORT = [bytes([value]) for value in range(_MORE)]
Naturals = NDArray[np.uint64]


def zigzag(values: NDArray[np.int64]) -> Naturals:
    """Numbers without a sign: 0, -1, 1, -2 become 0, 1, 2, 3."""
    return np.asarray((values << 1) ^ (values >> 63)).view(np.uint64)


def unzigzag(values: Naturals) -> NDArray[np.int64]:
    """The numbers before ``zigzag``."""
    half = (values >> np.uint64(1)).view(np.int64)
    return half ^ -(values & np.uint64(1)).view(np.int64)


def varints(values: Sequence[int] | Naturals) -> bytes:
    """Numbers of at most 64 bits, none below 0, behind one another."""
    if len(values) <= _FEW:
        return b"".join([_varint(int(value)) for value in values])
    numbers = np.asarray(values, dtype=np.uint64)
    lengths = np.ones(len(numbers), dtype=np.int64)
    rest = numbers >> np.uint64(7)
    while rest.any():
        lengths += rest != 0
        rest = rest >> np.uint64(7)
    starts = np.cumsum(lengths) - lengths
    out = np.zeros(int(lengths.sum()), dtype=np.uint8)
    for k in range(int(lengths.max(initial=0))):
        there = lengths > k
        piece = (numbers[there] >> np.uint64(7 * k)) & np.uint64(0x7F)
        more = np.where(lengths[there] > k + 1, _MORE, 0)
        out[starts[there] + k] = piece.astype(np.uint8) | more.astype(np.uint8)
    return out.tobytes()


def _varint(value: int) -> bytes:
    if value < _MORE:
        return _SHORT[value]
    out = bytearray()
    while value >= _MORE:
        out.append(value & 0x7F | _MORE)
        value >>= 7
    out.append(value)
    return bytes(out)


class Bytes:
    """Reads bytes from front to back; whatever is not there is a ``ValueError``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if size < 0 or self._at + size > len(self._data):
            raise ValueError("it ends too early")
        self._at += size
        return self._data[self._at - size : self._at]

    def peek(self, size: int) -> bytes:
        """At most so many of the next bytes, which stay the next."""
        return self._data[self._at : self._at + size]

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def number(self) -> int:
        """The next number.

        Raises:
            ValueError: There is none, or one of more than 64 bits.
        """
        value = 0
        for shift in range(0, 7 * _LONGEST, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < _MORE:
                if value >> 64:
                    break
                return value
        raise ValueError("a number of more than 64 bits")

    def array(self, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        """The next numbers of a fixed size."""
        return np.frombuffer(self.take(count * dtype.itemsize), dtype=dtype)

    def bits(self, count: int) -> NDArray[np.bool_]:
        """The next bits, the lowest of each byte first."""
        packed = np.frombuffer(self.take((count + 7) // 8), dtype=np.uint8)
        return np.unpackbits(packed, count=count, bitorder="little").view(np.bool_)

    def end(self) -> None:
        """Return if nothing is left."""
        if self._at != len(self._data):
            raise ValueError("something follows")


def read_varints(data: Bytes, count: int) -> Naturals:
    """The next numbers.

    Raises:
        ValueError: There are fewer, or one does not fit 64 bits.
    """
    if count <= _FEW:
        return np.array([data.number() for _ in range(count)], dtype=np.uint64)
    ahead = np.frombuffer(data.peek(_LONGEST * count), dtype=np.uint8)
    ends = np.flatnonzero(ahead < _MORE)[:count]
    if len(ends) < count:
        raise ValueError("it ends within a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST or (ahead[ends[lengths == _LONGEST]] > 1).any():
        raise ValueError("a number of more than 64 bits")
    numbers = np.zeros(count, dtype=np.uint64)
    for k in range(int(lengths.max())):
        there = lengths > k
        piece = ahead[starts[there] + k].astype(np.uint64) & np.uint64(0x7F)
        numbers[there] |= piece << np.uint64(7 * k)
    data.take(int(ends[-1]) + 1)
    return numbers

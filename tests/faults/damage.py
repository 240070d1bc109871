"""Ways to harm a file."""

from __future__ import annotations

import random
from pathlib import Path


def truncate(path: Path, rng: random.Random) -> None:
    """Cut a file at a random place."""
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))] if data else b"")


def empty(path: Path, _rng: random.Random) -> None:
    """Leave the name and no content."""
    path.write_bytes(b"")


def overwrite(path: Path, rng: random.Random) -> None:
    """Replace the content by as much noise."""
    path.write_bytes(rng.randbytes(max(16, path.stat().st_size)))


def flip_bits(path: Path, rng: random.Random) -> None:
    """Turn between one bit and twenty."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 20) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def flip_one_bit(path: Path, rng: random.Random) -> None:
    """Turn one bit."""
    data = bytearray(path.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)


def remove(path: Path, _rng: random.Random) -> None:
    """Remove the file."""
    path.unlink(missing_ok=True)


HARMS = (truncate, empty, overwrite, flip_one_bit, remove)
"""Every way, for kinds that pick one."""

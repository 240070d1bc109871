"""How many bytes of an artifact to send at a time: what a link carries in a moment, within bounds. Pure.

Each chunk costs the service a turn of its interpreter, so large ones serve fast links at half the CPU. On a
slow link a large chunk takes so long that the device calls it a stall.
"""

from __future__ import annotations

LARGEST = 2 * 1024**2
"""Half of what a device takes as one message."""
QUICK_S, SLOW_S = 0.1, 0.5
"""A chunk that was taken more quickly is followed by a larger one, one that took longer by a smaller one."""


def next_chunk(size: int, took_s: float, least: int) -> int:
    """Size of the next chunk, bytes.

    Args:
        size: Of the last one.
        took_s: How long the peer took for that, seconds.
        least: Size of the first one; none is smaller.
    """
    if took_s < QUICK_S:
        return max(min(size * 2, LARGEST), least)
    return max(size // 2, least) if took_s > SLOW_S else size

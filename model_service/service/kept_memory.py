"""Has the C library keep the memory of chunks for the next ones, instead of giving it back each time.

Blocks above 128 KiB are mapped anew for each chunk else, and the kernel clears every page of them: a third of
what sending an artifact costs.
"""

from __future__ import annotations

import ctypes
import logging

log = logging.getLogger(__name__)

MAPPED_BYTES, KEPT_BYTES = 8 * 1024**2, 32 * 1024**2
"""Smallest block that is mapped by itself; most free memory that is kept."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_memory() -> bool:
    """Set both bounds for this process; whether its C library knows them, as glibc does."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        log.info("this C library has no mallopt: chunks are sent at a higher cost")
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES) and mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))

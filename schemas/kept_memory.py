"""Has the C library keep memory for the next batches or chunks, instead of giving it back each time.

Blocks above 128 KiB are mapped anew for each use else, and the kernel clears every page of them: a third of
what sending an artifact costs, and a twelfth of what landing large messages does.
"""

from __future__ import annotations

import ctypes
import logging

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_memory(mapped_bytes: int, kept_bytes: int) -> bool:
    """Set both bounds for this process; whether its C library knows them, as glibc does.

    Args:
        mapped_bytes: Smallest block that is mapped by itself; glibc takes at most 32 MiB.
        kept_bytes: Most free memory at the heap's end that is kept.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        log.info("this C library has no mallopt: memory is mapped and cleared for each use, at a higher cost")
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, mapped_bytes) and mallopt(_M_TRIM_THRESHOLD, kept_bytes))

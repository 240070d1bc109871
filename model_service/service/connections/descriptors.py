"""Raises the number of files and connections that this process may open."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of file descriptors to the hard one.

    Returns:
        The limit that holds now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as exc:
            log.warning("file descriptors: at most %d; the limit cannot be raised: %s", soft, exc)
            return soft
    now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    now = _MOST if now == resource.RLIM_INFINITY else now
    log.info("file descriptors: at most %d (it was %d)", now, soft)
    return now


_MOST = 1_048_576
"""More than a process can use; what stands for a limit that is infinite."""

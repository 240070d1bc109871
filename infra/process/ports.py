"""TCP ports of this machine."""

from __future__ import annotations

import socket
from collections.abc import Collection

LOOPBACK = "127.0.0.1"


def free_ports(count: int, besides: Collection[int] = (), host: str = LOOPBACK) -> list[int]:
    """Distinct ports of an address of this machine that nothing listens on now, none of ``besides``.

    Nothing reserves them: a caller that binds one must be ready to find it taken and to choose again.
    """
    found: list[int] = []
    while len(found) < count:
        found += [p for p in _free(count - len(found), host) if p not in besides and p not in found]
    return found


def _free(count: int, host: str) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((host, 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """True if a listener could bind the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def answers(host: str, port: int, timeout_s: float = 0.5) -> bool:
    """True if something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout_s):
            return True
    except OSError:
        return False

"""Whose a boot is: told by its id alone, so that no two producers can ever send rows of the same boot.

Ids are random and have no order, so "from this boot on" cannot be asked of them. What can be asked is who
made one. A device's own ids are not negative. A gateway makes those of the devices behind it, from -2**53 to
-1, with 20 bits of its name's hash in front: JSON holds either exactly. Ids below -2**53 are random ones of
devices in other languages, and the device's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from secrets import randbits

import numpy as np
import numpy.typing as npt

GATEWAY = "gateway"
"""Hardware class in ``devices`` of a gateway: it sends for the devices assigned to it."""
TAG_BITS = 20
RANDOM_BITS = 33
BOOT_BITS = TAG_BITS + RANDOM_BITS
"""Bits of an id; a JSON number holds as many."""
_LOWEST = -(1 << BOOT_BITS)


def random_boot_id() -> int:
    """An id that a device makes for a start of its own."""
    return randbits(BOOT_BITS)


def gateway_boot_ids(gateway: str) -> Callable[[], int]:
    """Makes ids for starts of the devices behind a gateway."""
    tag = gateway_tag(gateway)
    return lambda: -1 - (tag << RANDOM_BITS | randbits(RANDOM_BITS))


def gateway_tag(gateway: str) -> int:
    """What a gateway's boot ids have in front: the first 20 bits of SHA-256 over its name."""
    return int.from_bytes(hashlib.sha256(gateway.encode()).digest()[:4], "big") >> (32 - TAG_BITS)


def boot_tag(boot_id: int) -> int | None:
    """Tag of the gateway that made an id; None: the device itself made it."""
    return (-1 - boot_id) >> RANDOM_BITS if _LOWEST <= boot_id < 0 else None


def boot_tags(boot_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """``boot_tag`` of each id; -1 where the device itself made it."""
    return np.where((boot_ids < 0) & (boot_ids >= _LOWEST), (-1 - boot_ids) >> RANDOM_BITS, -1)

"""Random parts of a fleet that follow from ids and a salt: the same on every machine, without a list."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


@lru_cache(maxsize=1 << 16)
def share_of(device_id: str, salt: str) -> float:
    """A number in [0, 1) that follows from the device's id and the salt alone."""
    digest = hashlib.sha256(f"{salt}/{device_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


class SaltedShare(BaseModel):
    """Some devices of a group.

    Attributes:
        salt: Decides the order in which devices are drawn.
        share: Devices with ``share_of(id, salt)`` below it are included.
        devices: Ids that are included in any case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    salt: str = ""
    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    devices: tuple[str, ...] = ()

    def includes(self, device_id: str) -> bool:
        """Whether the device is included."""
        return device_id in self.devices or share_of(device_id, self.salt) < self.share


NOBODY = SaltedShare()
EVERYBODY = SaltedShare(share=1.0)

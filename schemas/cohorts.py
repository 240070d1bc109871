"""Random parts of a fleet that only ids and a salt decide: the same on every machine, without a list."""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


def share_of(device_id: str, salt: str) -> float:
    """A number in [0, 1) that only the device's id and the salt decide."""
    digest = hashlib.sha256(f"{salt}/{device_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


class SaltedShare(BaseModel):
    """Some devices of a group.

    Attributes:
        salt: Draws the order of devices.
        share: Devices whose ``share_of(id, salt)`` lies below it belong.
        devices: Ids that belong whatever the salt says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    salt: str = ""
    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    devices: tuple[str, ...] = ()

    def includes(self, device_id: str) -> bool:
        """Whether the device belongs."""
        return device_id in self.devices or share_of(device_id, self.salt) < self.share


NOBODY = SaltedShare()
EVERYBODY = SaltedShare(share=1.0)

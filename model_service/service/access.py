"""Decides whom the serving process lets in, by a copy of the registry's revocations that is seconds old."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection

from model_service.fleet.certificate_ledger import revoked_serials
from model_service.fleet.devices import revoked_devices
from model_service.fleet.revocation_copies import Revocations
from model_service.holder import Holder
from schemas.errors import AccessError, ServiceUnavailableError
from schemas.updates import Role

STALE_S = 5.0
"""With a copy older than this, nobody is let in: rather nobody than a revoked holder."""


@dataclass(frozen=True)
class _Revoked:
    serials: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()


class AccessList:
    """Decides by a certificate, the newest copy of the revocations, and the time.

    Args:
        clock: UTC seconds.
        monotonic: Seconds; measures the age of the copy.
        copies: Reads what the copies of revocations beside the registry say.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        copies: Callable[[], Revocations] = Revocations,
    ) -> None:
        self._copies = copies
        self._clock, self._monotonic = clock, monotonic
        self._revoked = _Revoked()
        self._read_at: float | None = None

    def refresh(self, connection: Connection) -> bool:
        """Copy the registry's revocations.

        Returns:
            Whether they changed.
        """
        began = self._monotonic()
        serials = revoked_serials(connection, self._clock())
        copies = self._copies()
        known = revoked_devices(connection)
        now = _Revoked(frozenset(serials | copies.serials), frozenset(known | copies.devices))
        changed = now != self._revoked
        self._revoked, self._read_at = now, began
        return changed

    def check(self, holder: Holder, roles: frozenset[Role], method: str) -> None:
        """Check that the certificate's holder may call the method.

        Args:
            holder: Holder of the certificate.
            roles: Roles of which the holder needs one.
            method: Name of the method, for the error.

        Raises:
            AccessError: The certificate has expired or was revoked, or has none of the roles.
            ServiceUnavailableError: The copy of the revocations is too old.
        """
        if self._read_at is None or self._monotonic() - self._read_at > STALE_S:
            raise ServiceUnavailableError("the revocations cannot be read from the registry")
        if self._clock() >= holder.not_after:
            raise AccessError(f"the certificate of {holder.name} has expired: renew it")
        if holder.serial in self._revoked.serials:
            raise AccessError(f"the certificate {holder.serial} of {holder.name} was revoked")
        if Role.DEVICE in holder.roles and holder.name in self._revoked.devices:
            raise AccessError(f"{holder.name} was revoked")
        if not holder.roles & roles:
            held = ", ".join(sorted(holder.roles)) or "no role"
            raise AccessError(f"{holder.name} ({held}) may not call {method}: it takes {_any_of(roles)}")

    def remaining_s(self, holder: Holder) -> float:
        """Seconds until the certificate expires."""
        return holder.not_after - self._clock()


def _any_of(roles: frozenset[Role]) -> str:
    return " or ".join(sorted(roles))

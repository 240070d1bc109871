"""Who holds a certificate: the plain value that ledger, issuer and public process exchange."""

from __future__ import annotations

import re
from dataclasses import dataclass

from schemas.updates import Role

DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
"""Pattern of a device id. It also limits the common name: X.509 allows 64 characters."""


@dataclass(frozen=True)
class Holder:
    """Who holds a certificate.

    Attributes:
        name: Common name: device id, or name of a person.
        serial: Serial number in hex.
        not_after: When the certificate expires, UTC seconds.
        key: The public key, SubjectPublicKeyInfo in DER.
    """

    name: str
    roles: frozenset[Role]
    serial: str
    not_after: float
    key: bytes

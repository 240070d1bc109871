"""Records people's certificates, which lie in the authority's folder, in the ledger."""

from __future__ import annotations

import logging

from model_service.fleet import certificate_ledger as ledger
from model_service.identity import certificates as certs
from model_service.identity.authority import people_folder
from model_service.registry.database import Registry
from model_service.settings import ModelSettings
from schemas.errors import AccessError

log = logging.getLogger(__name__)


def record_people(settings: ModelSettings, registry: Registry) -> int:
    """Record people's certificates, so that a stolen one can be found and revoked by its serial.

    Returns:
        How many were not on record before.

    Raises:
        ServiceUnavailableError: The registry does not answer.
    """
    found = {}
    for path in sorted(people_folder(settings).glob("*.pem")):
        try:
            pem = path.read_bytes()
            holder, certificate = certs.read_holder(pem), certs.read_certificate(pem)
        except (AccessError, OSError) as exc:  # the authority makes it again: see ``init_pki``
            log.warning("%s cannot be recorded: %s", path, exc)
            continue
        found[holder.serial] = holder, certificate.not_valid_before_utc.timestamp()
    with registry.reading() as connection:
        missing = found.keys() - ledger.known_serials(connection, found)
    if missing:
        with registry.transaction() as connection:
            for serial in sorted(missing):
                ledger.record_if_absent(connection, *found[serial])
    return len(missing)

"""Which certificate a request means: the one that it brings, or the one of a serial."""

from __future__ import annotations

from model_service.holder import Holder
from model_service.identity import certificates as certs
from model_service.identity.authority import issued_by
from model_service.service.refusals import BadFieldError
from schemas.errors import AccessError


def read_own_certificate(pem: bytes, ca_pem: bytes) -> tuple[Holder, float]:
    """Holder and start (UTC seconds) of a certificate that this authority signed.

    Raises:
        BadFieldError: It is no certificate, or of another authority.
    """
    try:
        found = certs.read_certificate(pem)
        holder = certs.read_holder(pem)
    except AccessError as exc:
        raise BadFieldError("certificate_pem", str(exc)) from exc
    if not issued_by(found, certs.read_certificate(ca_pem)):
        raise BadFieldError("certificate_pem", "not a certificate of this authority")
    return holder, found.not_valid_before_utc.timestamp()


def plain_serial(text: str) -> str:
    """The serial in the ledger's form; other tools print it with colons, capitals or leading zeros."""
    return text.replace(":", "").strip().lower().lstrip("0")

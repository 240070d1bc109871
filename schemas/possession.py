"""What a device signs to show that it holds the keys of a request (docs/grpc.md)."""

from __future__ import annotations

import hashlib

_ENROL = b"edgeloop.v1.enroll"


def enrolment_text(device_id: str, csr_pem: bytes, token_sha256: str) -> bytes:
    """The bytes that the key of the telemetry signs, so that nobody enrols a key of somebody else.

    They hold for one device, one request and one join token.

    Args:
        device_id: The device.
        csr_pem: Its request for a certificate.
        token_sha256: SHA-256 of its join token, hex: what the registry has of it.
    """
    parts = (_ENROL, device_id.encode(), hashlib.sha256(csr_pem).hexdigest().encode(), token_sha256.encode())
    return b"\n".join(parts)

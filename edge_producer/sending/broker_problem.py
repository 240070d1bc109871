"""What keeps a device from a broker that it reaches with mutual TLS, in one line for a person. Pure."""

from __future__ import annotations

from datetime import datetime

from confluent_kafka import KafkaError

NOT_ALLOWED = frozenset({KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED})
"""Errors by which a broker says that the device, whom it knows, may not."""
_HOST = ("hostname mismatch", "ip address mismatch")
_SERVER = ("certificate verify failed", "self-signed certificate", "unable to get local issuer")
_DEVICE = ("alert certificate", "alert bad certificate", "alert unknown ca", "alert handshake failure")
_NO_TLS = ("wrong version number", "packet length too long", "not ssl", "unexpected message")


def broker_problem(error: KafkaError, servers: str, until: datetime | None, now: datetime) -> str:
    """One line; empty: the error is not of TLS.

    Args:
        error: As the client reports it.
        servers: The brokers' addresses.
        until: End of the device's certificate; None: it shows none.
        now: Present time, aware.
    """
    if error.code() in NOT_ALLOWED:
        return (
            f"the broker at {servers} does not let this device write: it was revoked (`edgeloop fleet "
            "devices` says so), and must be invited under another name; rows wait in the spool"
        )
    text = error.str().lower()
    if any(part in text for part in (*_HOST, *_SERVER)):
        return (
            f"the server at {servers} shows a certificate that is not the broker's (another authority, or "
            "another name): nothing is sent to it, rows wait in the spool"
        )
    if any(part in text for part in _DEVICE):
        ends = "" if until is None else f", which ended at {until:%Y-%m-%d %H:%M} UTC" if until <= now else ""
        return (
            f"the broker at {servers} does not accept the device's certificate{ends}: rows wait in the spool "
            "until it is renewed; a revoked device must be invited under another name"
        )
    if until is not None and any(part in text for part in _NO_TLS):
        return f"the server at {servers} does not speak TLS: nothing is sent to it, rows wait in the spool"
    if error.code() == KafkaError._SSL:  # noqa: SLF001  (the library's own name)
        return f"no TLS connection to the broker at {servers}: {error.str()}"
    return ""

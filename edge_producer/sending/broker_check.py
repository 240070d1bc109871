"""Whether the broker answers this device now: asked once, for a person."""

from __future__ import annotations

from datetime import UTC, datetime

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from edge_producer.certificate_files import BrokerCertificate
from edge_producer.sending.broker_problem import broker_problem

WAIT_S = 8.0


def check_broker(servers: str, certificate: BrokerCertificate | None) -> str:
    """What is wrong, in one line; empty: it answers.

    Args:
        servers: host:port, comma separated.
        certificate: To show to it; None: it wants no TLS.
    """
    until = None if certificate is None else certificate.until
    problems: list[str] = []

    def note(error: KafkaError) -> None:
        problems.append(broker_problem(error, servers, until, datetime.now(UTC)) or error.str())

    shown = {} if certificate is None else certificate.client_settings()
    client = AdminClient({"bootstrap.servers": servers, "log_level": 0, "error_cb": note, **shown})
    try:
        client.list_topics(timeout=WAIT_S)
    except KafkaException as exc:
        client.poll(0)
        return next(iter(problems), f"no broker answers at {servers}: {exc.args[0].str()}")
    return ""

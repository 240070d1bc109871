"""What devices may do on the broker: pure values, no I/O.

A device writes device topics, and asks how large a message they take and which messages the cloud reads. It
reads no message, makes, alters and lists nothing else. A revoked one may do nothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from infra.kafka.kafka_config import DEVICE_PRINCIPAL
from schemas.topics import DEVICE_TOPICS, WIRE_READ

EVERYBODY = "*"
_WIRES = WIRE_READ.base.rpartition("v")[0] + "v"


class BrokerRule(NamedTuple):
    """One entry of the broker's access list.

    Attributes:
        allow: False: it forbids, whatever others allow.
        principal: Name behind ``User:``; ``*``: whoever comes through the device listener.
        kind: What ``name`` names.
        name: Full name, or its beginning, or ``*``.
        operation: As Kafka calls it.
        prefixed: ``name`` is the beginning of names.
    """

    allow: bool
    principal: str
    kind: Literal["TOPIC", "GROUP", "BROKER", "TRANSACTIONAL_ID"]
    name: str
    operation: Literal["WRITE", "DESCRIBE", "DESCRIBE_CONFIGS", "ALL"]
    prefixed: bool = False


def device_rules(namespace: str) -> list[BrokerRule]:
    """What every device may do.

    The topics ``wire.v…`` are named by their beginning, so that a device of a later release is told that its
    own does not exist, rather than that it may not ask.
    """
    topics = [topic.named(namespace) for topic in DEVICE_TOPICS]
    rules = [BrokerRule(True, EVERYBODY, "TOPIC", t, "WRITE") for t in topics]  # which lets it describe them
    rules += [BrokerRule(True, EVERYBODY, "TOPIC", t, "DESCRIBE_CONFIGS") for t in topics]
    wires = WIRE_READ.named(namespace)[: -len(WIRE_READ.base)] + _WIRES
    return [
        *rules,
        BrokerRule(True, EVERYBODY, "TOPIC", wires, "DESCRIBE", prefixed=True),
        BrokerRule(True, EVERYBODY, "TOPIC", wires, "DESCRIBE_CONFIGS", prefixed=True),
    ]


def revocation_rules(device_id: str) -> list[BrokerRule]:
    """What shuts a revoked device out, connections that are open included."""
    return [BrokerRule(False, f"{DEVICE_PRINCIPAL}{device_id}", "TOPIC", "*", "ALL")]

"""Reads the address of an OPC UA source, and says which node is which device's and channel's. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edge_producer.sources.source_address import parse_address
from schemas.errors import SourceError
from schemas.profile import Profile

OPCUA_PORTS = {"opcua": 4840, "opc.tcp": 4840}
OPTIONS = ("security", "node", "time", "publish_ms")
UNSECURED = "none"
SECURITIES = ("Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss", UNSECURED)
TIMES = ("source", "server")
DEVICE, CHANNEL = "{device}", "{channel}"
NODE_ID = re.compile(r"((ns=\d+|nsu=[^;]+);)?(i=\d+|s=.+|g=[0-9A-Fa-f-]{36}|b=.+)")


@dataclass(frozen=True)
class OpcUaAddress:
    """``opcua://host:4840/path?security=Basic256Sha256&node=ns=2;s={device}.{channel}``.

    Attributes:
        url: Of the endpoint, as OPC UA writes it.
        host: The server's.
        security: Policy of the secure channel, which signs and encrypts; ``none``: there is none.
        node: NodeId of the channels that declare none; ``{device}`` and ``{channel}`` stand for their names.
        time: Whose times are taken: those of the ``source`` of the values, or of the ``server``.
        publish_ms: How often the server reports; 0: as the profile's rate asks for.
    """

    url: str
    host: str
    security: str = SECURITIES[0]
    node: str = ""
    time: str = "source"
    publish_ms: int = 0

    @classmethod
    def parse(cls, text: str) -> OpcUaAddress:
        """The address from its text.

        Raises:
            SourceError: It is malformed; the message says how one looks.
        """
        found = parse_address(text, OPCUA_PORTS, OPTIONS, "opcua://host:4840/path")
        return cls(
            url=f"opc.tcp://{found.place}/{found.path}",
            host=found.host,
            security=found.option("security", SECURITIES[0], SECURITIES),
            node=found.option("node", ""),
            time=found.option("time", TIMES[0], TIMES),
            publish_ms=found.number("publish_ms", 0, 60_000, 10),
        )


@dataclass(frozen=True)
class ChannelNode:
    """A node whose values are one channel of one device; ``device_id`` is empty where there is one device."""

    node: str
    device_id: str
    channel: str


def channel_nodes(address: OpcUaAddress, profile: Profile, devices: Sequence[str]) -> tuple[ChannelNode, ...]:
    """One node for each channel and device.

    Raises:
        SourceError: A channel has none, one is no NodeId, or several devices cannot be told apart.
    """
    own = profile.source.channels
    patterns = {n: (own[n].node if n in own else "") or address.node for n in profile.channel_names}
    without = ", ".join(name for name, pattern in patterns.items() if not pattern)
    if without:
        raise SourceError(
            f"no node for {without}: name it in [source.channels.NAME] node, or for all of them behind the "
            f"address, as ?node=ns=2;s={DEVICE}.{CHANNEL}"
        )
    found = []
    for name, pattern in patterns.items():
        if len(devices) > 1 and DEVICE not in pattern:
            raise SourceError(
                f"{len(devices)} devices at node '{pattern}': write {DEVICE} where their id stands"
            )
        for device in devices:
            node = pattern.replace(DEVICE, device).replace(CHANNEL, name)
            if not NODE_ID.fullmatch(node):
                raise SourceError(
                    f"channel {name}: '{node}' is no NodeId; write ns=2;s=Pump.Heat, ns=2;i=1001 or "
                    "nsu=urn:plant;s=Pump.Heat"
                )
            found.append(ChannelNode(node, device if len(devices) > 1 else "", name))
    _unshared(found)
    return tuple(found)


def _unshared(found: Sequence[ChannelNode]) -> None:
    nodes = [each.node for each in found]
    twice = sorted({node for node in nodes if nodes.count(node) > 1})
    if twice:
        raise SourceError(
            f"several channels have the node {', '.join(twice)}: write {CHANNEL} into the pattern"
        )

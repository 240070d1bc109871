"""Reads the address of a Sparkplug B source, and says which metric is which device's and channel's. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_producer.sources.mqtt_address import DEVICE, VERSIONS, MqttAddress
from edge_producer.sources.source_address import parse_address
from schemas.errors import SourceError
from schemas.profile import Profile

OPEN, SECURED = "sparkplug", "sparkplugs"
SPARKPLUG_PORTS = {OPEN: 1883, SECURED: 8883}
OPTIONS = ("version", "qos", "client_id", "keepalive", "host_id")
NAMESPACE = "spBv1.0"
EXAMPLE = "sparkplug://host:1883/group/node or sparkplug://host:1883/group/node/device"
OF_THE_NODE, OF_A_DEVICE = ("NBIRTH", "NDATA", "NDEATH"), ("DBIRTH", "DDATA", "DDEATH")


@dataclass(frozen=True)
class SparkplugAddress:
    """``sparkplug://host:1883/group/node/device?host_id=edgeloop``; ``sparkplugs`` with TLS.

    Attributes:
        broker: The broker, and how it is spoken to.
        group: Group id; ``{device}`` in it, and in what follows, stands for the id of each device.
        node: Edge node id.
        device: Id of a device of the edge node, whose metrics are read; empty: the node's own are.
        host_id: Host application whose STATE is published while the source is connected; empty: none.
    """

    broker: MqttAddress
    group: str
    node: str
    device: str = ""
    host_id: str = ""

    @property
    def shown(self) -> str:
        """For logs and the status."""
        scheme = SECURED if self.broker.secure else OPEN
        path = "/".join(part for part in (self.group, self.node, self.device) if part)
        return f"{scheme}://{self.broker.host}:{self.broker.port}/{path}"

    @classmethod
    def parse(cls, text: str) -> SparkplugAddress:
        """The address from its text.

        Raises:
            SourceError: It is malformed; the message says how one looks.
        """
        found = parse_address(text, SPARKPLUG_PORTS, OPTIONS, EXAMPLE)
        parts = found.path.split("/")
        if len(parts) not in (2, 3) or not all(parts) or {"+", "#"} & set(found.path):
            raise SourceError(f"source '{text}' names no edge node: write {EXAMPLE}, without wildcards")
        host_id = found.option("host_id", "")
        if {"+", "#", "/"} & set(host_id):
            raise SourceError(f"source '{text}': host_id has to be one level of a topic, without wildcards")
        broker = MqttAddress(
            host=found.host,
            port=found.port,
            secure=found.scheme == SECURED,
            topic="",
            version=found.option("version", VERSIONS[0], VERSIONS),
            qos=found.number("qos", 1, 2),
            client_id=found.option("client_id", ""),
            keepalive_s=found.number("keepalive", 15, 65535),
        )
        return cls(broker, parts[0], parts[1], parts[2] if len(parts) == 3 else "", host_id)


@dataclass(frozen=True)
class EdgeNodePlace:
    """An edge node, by its ids."""

    group: str
    node: str

    @property
    def topics(self) -> tuple[str, ...]:
        """Filters of all that it says."""
        mine = [f"{NAMESPACE}/{self.group}/{kind}/{self.node}" for kind in OF_THE_NODE]
        return (*mine, *(f"{NAMESPACE}/{self.group}/{kind}/{self.node}/+" for kind in OF_A_DEVICE))

    @property
    def commands(self) -> str:
        """Topic of commands to it."""
        return f"{NAMESPACE}/{self.group}/NCMD/{self.node}"


Metrics = Mapping[tuple[str, str], tuple[tuple[str, str], ...]]
"""By a node's device (empty: the node itself) and metric: of which devices and channels of ours it is."""


def edge_nodes(
    address: SparkplugAddress, profile: Profile, devices: Sequence[str]
) -> dict[EdgeNodePlace, Metrics]:
    """Edge nodes that are listened to, and which of their metrics are which device's and channel's.

    Raises:
        SourceError: Several devices cannot be told apart.
    """
    path = f"{address.group}/{address.node}/{address.device}"
    if len(devices) > 1 and DEVICE not in path:
        raise SourceError(f"{len(devices)} devices at {path}: write {DEVICE} where their id stands")
    found: dict[EdgeNodePlace, dict[tuple[str, str], tuple[tuple[str, str], ...]]] = {}
    for device in devices:
        group, node, part = (p.replace(DEVICE, device) for p in (address.group, address.node, address.device))
        metrics = found.setdefault(EdgeNodePlace(group, node), {})
        for name in profile.channel_names:
            own = profile.source.channels.get(name)
            key = part, (own.metric if own is not None else "") or name
            metrics[key] = (*metrics.get(key, ()), (device if len(devices) > 1 else "", name))
    return dict(found)

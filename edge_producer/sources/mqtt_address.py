"""Reads the address of an MQTT source, and says which message is of which device and channels. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge_producer.sources.source_address import parse_address
from schemas.errors import SourceError
from schemas.profile import Profile

PLAIN, SECURE = "mqtt", "mqtts"
PORTS = {PLAIN: 1883, SECURE: 8883}
VERSIONS = ("3.1.1", "5")
DEVICE = "{device}"
OPTIONS = ("version", "qos", "client_id", "keepalive")


@dataclass(frozen=True)
class MqttAddress:
    """``mqtt://host:port/topic?version=5&qos=1``.

    Attributes:
        topic: Topic filter; ``{device}`` in it stands for the id of each device.
        client_id: Empty: a random one.
        keepalive_s: Time without a word after which the broker is asked whether it lives.
    """

    host: str
    port: int
    secure: bool
    topic: str
    version: str = "3.1.1"
    qos: int = 1
    client_id: str = ""
    keepalive_s: int = 15

    @property
    def shown(self) -> str:
        """For logs and the status."""
        return f"{SECURE if self.secure else PLAIN}://{self.host}:{self.port}/{self.topic}"

    @classmethod
    def parse(cls, text: str) -> MqttAddress:
        """The address from its text.

        Raises:
            SourceError: It is malformed; the message says how one looks.
        """
        example = "mqtt://host:1883/topic or mqtts://host:8883/topic"
        found = parse_address(text, PORTS, OPTIONS, example)
        version = found.option("version", "3.1.1")
        if version not in VERSIONS:
            raise SourceError(f"source '{text}': MQTT {version} is not spoken here; {' or '.join(VERSIONS)}")
        return cls(
            host=found.host,
            port=found.port,
            secure=found.scheme == SECURE,
            topic=found.path,
            version=version,
            qos=found.number("qos", 1, 2),
            client_id=found.option("client_id", ""),
            keepalive_s=found.number("keepalive", 15, 65535),
        )


@dataclass(frozen=True)
class Route:
    """What messages of one topic filter hold.

    Attributes:
        device_id: Whose they are; empty: they say so themselves, or there is one device.
        channels: What they may hold.
        declared: ``[source.channels]`` names the filter for these channels: other routes do not count then.
    """

    topic: str
    device_id: str
    channels: tuple[str, ...]
    declared: bool = False

    def plain(self, topic: str) -> str:
        """The channel that a plain number on a topic is of; empty: none."""
        last = topic.rpartition("/")[2]
        if last in self.channels:
            return last
        exact = self.declared or not {"+", "#"} & set(self.topic.split("/"))
        return self.channels[0] if exact and len(self.channels) == 1 else ""

    def matches(self, topic: str) -> bool:
        """Whether the filter takes a topic, as the specification says (4.7)."""
        wanted, given = self.topic.split("/"), topic.split("/")
        if topic.startswith("$") and not self.topic.startswith("$"):
            return False
        for place, level in enumerate(wanted):
            if level == "#":
                return True
            if place >= len(given) or level not in ("+", given[place]):
                return False
        return len(wanted) == len(given)


def routes(address: MqttAddress, profile: Profile, devices: Sequence[str]) -> tuple[Route, ...]:
    """One route for each topic filter and device.

    Raises:
        SourceError: A channel has no topic, or several devices cannot be told apart.
    """
    by_filter: dict[tuple[str, bool], list[str]] = {}
    for name in profile.channel_names:
        own = profile.source.channels.get(name)
        place = (own.topic, True) if own is not None and own.topic else (address.topic, False)
        by_filter.setdefault(place, []).append(name)
    if ("", False) in by_filter:
        names = ", ".join(by_filter["", False])
        raise SourceError(
            f"no topic for {names}: name one behind the host, as mqtt://host/plant/#, or in [source.channels]"
        )
    return tuple(_each(by_filter, profile, devices))


def _each(
    by_filter: dict[tuple[str, bool], list[str]], profile: Profile, devices: Sequence[str]
) -> Iterator[Route]:
    for (topic, declared), names in by_filter.items():
        channels = tuple(names)
        if DEVICE in topic:
            yield from (Route(topic.replace(DEVICE, d), d, channels, declared) for d in devices)
        elif len(devices) == 1 or profile.source.device_field:
            yield Route(topic, "", channels, declared)
        else:
            raise SourceError(
                f"{len(devices)} devices on topic '{topic}': write {DEVICE} where their id stands, or name "
                "[source] device_field"
            )

"""What is known of one Sparkplug edge node: births and deaths, aliases, sequence numbers, metrics. Pure.

A value is used only while the node's birth is known and no message of it was lost since: aliases may have
changed with a birth that was missed. Otherwise the node is asked for another birth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from edge_producer.sources.reading_queue import ChannelReading
from edge_producer.sources.sparkplug_address import Metrics
from schemas.proto import sparkplug_subset_pb2 as sparkplug

SEQUENCE = 256
BD_SEQ = "bdSeq"
STALE = "stale"
"""Flaw of what is no longer known."""
SIGNED_BITS = {1: 8, 2: 16, 3: 32, 4: 64}
"""Data types Int8 to Int64, which travel as unsigned two's complements."""


class _Named(NamedTuple):
    """A metric as a birth tells it."""

    device: str
    name: str
    datatype: int


@dataclass
class Heard:
    """What a message brings.

    Attributes:
        readings: Of channels, in their order.
        rebirth: The node has to be asked for another birth.
    """

    readings: list[ChannelReading] = field(default_factory=list)
    rebirth: bool = False


class EdgeNode:
    """One edge node.

    Args:
        metrics: Whose channels its metrics are.

    Attributes:
        counts: Messages by what they were: ``births``, ``deaths`` (of the node or a device of it),
            ``outdated`` (deaths of an earlier session: nothing follows), ``gaps`` (messages before it were
            lost), ``unborn`` (not used: no birth is known), ``unmapped`` (data with no metric of a channel).
            Metrics that are not used: ``unknown_alias``, and ``historical``: they tell of what was.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._born = False
        self._devices: set[str] = set()
        self._next_seq = 0
        self._session: int | None = None
        self._names: dict[tuple[str, str | int], _Named] = {}
        names = ("births", "deaths", "outdated", "gaps", "unborn", "unmapped", "unknown_alias", "historical")
        self.counts: Counter[str] = Counter(dict.fromkeys(names, 0))

    def hear(self, kind: str, device: str, payload: sparkplug.Payload) -> Heard:
        """Take in a message.

        Args:
            kind: ``NBIRTH``, ``NDATA``, ``NDEATH``, ``DBIRTH``, ``DDATA`` or ``DDEATH``.
            device: Id of the node's device; empty: of the node itself.
            payload: What it says.
        """
        if kind == "NDEATH":
            return self._die(payload)
        if kind == "NBIRTH":
            self._born, self._next_seq, self._session = True, payload.seq, _session(payload)
            self._names.clear()
            self._devices = {""}
        elif not self._born:
            self.counts["unborn"] += 1
            return Heard(rebirth=True)
        if payload.seq != self._next_seq:
            self.counts["gaps"] += 1
            self._born = False
            return Heard(self._stale(), rebirth=True)
        self._next_seq = (payload.seq + 1) % SEQUENCE
        if kind == "DDEATH":
            self.counts["deaths"] += 1
            self._devices.discard(device)
            return Heard(self._stale(device))
        if kind == "DDATA" and device not in self._devices:
            self.counts["unborn"] += 1
            return Heard(rebirth=True)
        heard = Heard()
        born = kind in ("NBIRTH", "DBIRTH")
        if born:
            self.counts["births"] += 1
            self._devices.add(device)
            names = self._learn(device, payload)
            heard.readings += self._stale(None if kind == "NBIRTH" else device, names)
        self._read(device, payload, heard, born=born)
        return heard

    def _die(self, payload: sparkplug.Payload) -> Heard:
        if self._session is not None and _session(payload) != self._session:
            self.counts["outdated"] += 1
            return Heard()
        self.counts["deaths"] += 1
        self._born, self._session = False, None
        return Heard(self._stale())

    def _learn(self, device: str, payload: sparkplug.Payload) -> set[str]:
        """Take note of aliases and types that a birth tells; returns the names of its metrics."""
        for metric in payload.metrics:
            named = _Named(device, metric.name, metric.datatype)
            self._names[device, metric.name] = named
            if metric.HasField("alias"):
                self._names["", metric.alias] = named
        return {metric.name for metric in payload.metrics}

    def _read(self, device: str, payload: sparkplug.Payload, heard: Heard, *, born: bool) -> None:
        before = len(heard.readings)
        for metric in payload.metrics:
            key = ("", metric.alias) if metric.HasField("alias") else (device, metric.name)
            named = self._names.get(key)
            if named is None:
                self.counts["unknown_alias"] += 1
                heard.rebirth = True
                continue
            channels = self._metrics.get((named.device, named.name), ())
            if channels and metric.is_historical:
                self.counts["historical"] += 1
                continue
            ms = metric.timestamp if metric.HasField("timestamp") else payload.timestamp
            given = value_of(metric, metric.datatype or named.datatype)
            heard.readings += [
                ChannelReading(device_id, channel, given, 1000 * ms if ms else None, first=born)
                for device_id, channel in channels
            ]
        self.counts["unmapped"] += not born and len(heard.readings) == before and not heard.rebirth

    def _stale(self, device: str | None = None, but: AbstractSet[str] = frozenset()) -> list[ChannelReading]:
        """Channels of a device's metrics, None: of all, are no longer known."""
        return [
            ChannelReading(device_id, channel, None, None, STALE)
            for (of, name), channels in self._metrics.items()
            if device in (None, of) and not (name in but and of == (device or ""))
            for device_id, channel in channels
        ]


def value_of(metric: sparkplug.Metric, datatype: int) -> Any:
    """A metric's value: a number, a boolean, a text, or bytes where it is none of them; None: it has none."""
    which = metric.WhichOneof("value")
    if metric.is_null or which is None:
        return None
    value = getattr(metric, which)
    bits = SIGNED_BITS.get(datatype)
    if bits is None or which not in ("int_value", "long_value"):
        return value
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _session(payload: sparkplug.Payload) -> int | None:
    """Number of the session that a birth and a death belong to."""
    found = (
        m
        for m in payload.metrics
        if m.name == BD_SEQ and m.WhichOneof("value") in ("int_value", "long_value")
    )
    return next((int(getattr(m, m.WhichOneof("value"))) for m in found), None)

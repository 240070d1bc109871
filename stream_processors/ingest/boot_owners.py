"""Who may send what about a boot: the producer that made its id, as long as the device is assigned to it.

Two questions, and only the second needs the registry. *Whose is the boot?* is told by its id
(``schemas.boot_ids``): the same rows from another producer are refused, whatever anybody has cached. *May it
send for this device?* It may while the device is assigned to it, and afterwards for boots that began before
the device was assigned to the next one: a device that is moved with a full spool sends it out itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from schemas.boot_ids import boot_tag, boot_tags, gateway_tag
from schemas.errors import ForeignBootError, MessageError
from schemas.events import Alert, DeviceState
from schemas.excerpt_event import Excerpt
from schemas.instants import from_us, to_us
from stream_processors.job import State

KEPT_BOOTS = 64
"""Boots of a device that are remembered for each producer which it had before, the newest."""
_BEGUN = "begun"


class KnownProducer(Protocol):
    """What is asked of the producer of a message."""

    @property
    def producer(self) -> str:
        """Its id."""
        ...

    @property
    def tag(self) -> int:
        """Tag of the boots that it makes; -1: its own, as a device."""
        ...

    @property
    def sends_for(self) -> frozenset[str]:
        """Devices that are assigned to it."""
        ...

    @property
    def finishes(self) -> Mapping[str, int]:
        """Devices that once were, and until when, us since 1970."""
        ...


class Assignments(Protocol):
    """Look-ups in the registry."""

    def newest(self, sender: KnownProducer, *, again: bool) -> KnownProducer:
        """The producer as the registry has it.

        Args:
            sender: As it was cached when its message was looked at.
            again: Read the registry first.
        """
        ...

    def producer_of(self, device_id: str) -> str:
        """Who sends for a device; empty: it was never registered."""
        ...

    def gateway_of(self, tag: int) -> str:
        """Name of the gateway with this tag; empty: there is none."""
        ...


class BootClaim(NamedTuple):
    """What a message says about one boot of a device.

    Attributes:
        begun_us: The boot had begun by then, as the message shows.
    """

    device_id: str
    boot_id: int
    begun_us: float


class BootOwners:
    """Decides on the messages of one call; reads the registry anew at most once, before it first refuses.

    Whoever was assigned a device just now must not be refused because of what is cached.

    Args:
        assignments: For look-ups.
        state: The job's state; ``changes`` are to be added to the job's own.
    """

    def __init__(self, assignments: Assignments, state: State) -> None:
        self._assignments = assignments
        self._state = state
        self._changed: dict[str, dict[str, list[int]]] = {}
        self._newest: dict[str, KnownProducer] = {}

    def check_rows(self, rows: pa.Table, sender: KnownProducer, hop_s: float) -> dict[int, MessageError]:
        """Rows of a gateway that it may not send, among others that it may, and why; empty: it may send all.

        Raises:
            ForeignBootError: No row is of a boot that is its own; or, of a device, one is not.
            MessageError: Likewise, of a device for which it may send.
        """
        if not rows.num_rows or may_send(rows, sender):
            return {}
        claims = _claims(rows, hop_s)
        refused = {c[:2]: error for c in claims if (error := self._error(c, sender)) is not None}
        if refused and (sender.tag < 0 or len(refused) == len(claims)):
            raise next(iter(refused.values()))
        boots = zip(rows.column("device_id").to_pylist(), rows.column("boot_id").to_pylist(), strict=True)
        return {n: refused[boot] for n, boot in enumerate(boots) if boot in refused} if refused else {}

    def check_event(self, event: Alert | DeviceState | Excerpt, sender: KnownProducer, hop_s: float) -> None:
        """Return if the producer may send this event.

        Raises:
            ForeignBootError: The boot is another producer's.
            MessageError: It may not send for the device.
        """
        seq = event.seq if isinstance(event, Alert) else 0
        claim = BootClaim(event.device_id, event.boot_id, to_us(event.event_time) - seq * hop_s * 1e6)
        if (error := self._error(claim, sender)) is not None:
            raise error

    def changes(self) -> Mapping[str, Any]:
        """State keys that changed."""
        return self._changed

    def _error(self, claim: BootClaim, sender: KnownProducer) -> MessageError | None:
        """Why the producer may not send this; None: it may."""
        if self._allows(claim, self._newest.get(sender.producer, sender)):
            return None
        newest = self._read_again(sender)
        return None if self._allows(claim, newest) else self._refusal(claim, newest)

    def _read_again(self, sender: KnownProducer) -> KnownProducer:
        if sender.producer not in self._newest:
            self._newest[sender.producer] = self._assignments.newest(sender, again=not self._newest)
        return self._newest[sender.producer]

    def _allows(self, claim: BootClaim, sender: KnownProducer) -> bool:
        if not _made(claim, sender):
            return False
        if claim.device_id in sender.sends_for:
            return True
        until_us = sender.finishes.get(claim.device_id)
        if until_us is None:
            return False
        begun = self._begun(claim.device_id).get(sender.producer, [])
        if claim.boot_id in begun:
            return True
        if claim.begun_us >= until_us:
            return False
        of_device = {**self._begun(claim.device_id), sender.producer: [*begun, claim.boot_id][-KEPT_BOOTS:]}
        self._changed[f"{_BEGUN}/{claim.device_id}"] = of_device
        return True

    def _begun(self, device_id: str) -> Mapping[str, list[int]]:
        """Boots by former producer that are known to have begun while the device was assigned to it."""
        key = f"{_BEGUN}/{device_id}"
        found: Mapping[str, list[int]] = self._changed.get(key) or self._state.get(key) or {}
        return found

    def _refusal(self, claim: BootClaim, sender: KnownProducer) -> MessageError:
        device, boot, producer = claim.device_id[:64], claim.boot_id, sender.producer
        until_us, tag = sender.finishes.get(claim.device_id), boot_tag(claim.boot_id)
        if claim.device_id not in sender.sends_for and until_us is None:
            return MessageError(f"{producer} may not send for {device}")
        if until_us is not None and _made(claim, sender):
            owner = self._assignments.producer_of(claim.device_id)
            since = (
                f"{device} was assigned to it at {from_us(until_us):%Y-%m-%d %H:%M:%S} UTC, before it began"
            )
            return ForeignBootError(f"boot {boot} of {device} belongs to {owner}, not to {producer}: {since}")
        owner = device if tag is None else self._assignments.gateway_of(tag) or f"a gateway with tag {tag}"
        return ForeignBootError(f"boot {boot} of {device} belongs to {owner}, not to {producer}")


def may_send(rows: pa.Table, sender: KnownProducer) -> bool:
    """Whether the producer may send all these rows, as far as no history has to be asked."""
    allowed = sender.sends_for if sender.tag >= 0 else sender.sends_for & {sender.producer}
    if not set(rows.column("device_id").unique().to_pylist()) <= allowed:
        return False
    return bool((boot_tags(rows.column("boot_id").to_numpy()) == sender.tag).all())


def tag_of(producer: str, *, is_gateway: bool) -> int:
    """Tag of the boots that a producer makes; -1: a device's own."""
    return gateway_tag(producer) if is_gateway else -1


def _made(claim: BootClaim, sender: KnownProducer) -> bool:
    """Whether the producer made the boot's id."""
    tag = boot_tag(claim.boot_id)
    return sender.tag == tag if tag is not None else claim.device_id == sender.producer


def _claims(rows: pa.Table, hop_s: float) -> list[BootClaim]:
    """Each boot in rows of any kind, and by when it had begun."""
    if "seq" in rows.column_names:
        at_us = rows.column("event_time").cast(pa.int64()).to_numpy()
        begun = at_us - rows.column("seq").to_numpy().astype("float64") * hop_s * 1e6
    else:
        begun = rows.column("period_start").cast(pa.int64()).to_numpy().astype("float64")
    table = pa.table({"d": rows.column("device_id"), "b": rows.column("boot_id"), "at": pa.array(begun)})
    found = table.group_by(["d", "b"], use_threads=False).aggregate([("at", "min")]).to_pydict()
    return [BootClaim(*each) for each in zip(found["d"], found["b"], found["at_min"], strict=True)]

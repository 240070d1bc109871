"""One action on its way to commands and actuators, and the line of JSON in which a socket carries it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

Cause = Literal["decision", "renewal", "stop", "watchdog"]
"""Why an action is ordered: it came into force (or the process has just started), it is renewed, the process
ends, or it ended without a word."""
LONGEST_LINE = 4096
"""Bytes of an actuator's answer, beyond which it is none."""
_DETAIL = 200


@dataclass(frozen=True, slots=True)
class ActionOrder:
    """What a device's machine is to do.

    Attributes:
        action: Name of the action.
        score: The score that led to it; None: there is none.
        numbers: What the action carries, by name, within the profile's bounds.
        arrived_ns: Monotonic clock at which the sample arrived that completed the window; 0: none led to it.
        decided_ns: Monotonic clock when it was decided; 0 likewise.
    """

    device_id: str
    action: str
    score: float | None = None
    cause: Cause = "decision"
    numbers: Mapping[str, float] = field(default_factory=dict)
    arrived_ns: int = 0
    decided_ns: int = 0


def order_line(order: ActionOrder, number: int, hold_s: float | None) -> bytes:
    r"""The order as one line of JSON, its end included.

    >>> order_line(ActionOrder("d-1", "green", numbers={"s": 20.0}), 7, None)
    b'{"id":7,"device":"d-1","action":"green","numbers":{"s":20.0},"score":null,"cause":"decision","hold_s":null}\n'
    """
    said = {
        "id": number,
        "device": order.device_id,
        "action": order.action,
        "numbers": dict(order.numbers),
        "score": order.score,
        "cause": order.cause,
        "hold_s": hold_s,
    }
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Receipt:
    """An actuator's answer to one order.

    Attributes:
        number: ``id`` of the order.
        refused: Why it does not carry it out; empty: it does.
        received_ns: Monotonic clock of this machine when it had the order; 0: it does not say.
    """

    number: int
    refused: str = ""
    received_ns: int = 0

    @classmethod
    def from_line(cls, line: bytes) -> Receipt:
        """The answer in a line.

        Raises:
            ValueError: It is none.
        """
        said: Any = json.loads(line)
        if not isinstance(said, dict):
            raise ValueError("the answer is no JSON object")  # noqa: TRY004  (the bytes are wrong)
        number, received_ns = said.get("id"), said.get("received_ns", 0)
        if not _whole(number) or not _whole(received_ns):
            raise ValueError("the answer names no order: id must be a whole number")
        if said.get("ok") is True:
            return cls(number, "", received_ns)
        return cls(number, str(said.get("error") or "it did not say ok")[:_DETAIL], received_ns)


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)

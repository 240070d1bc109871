"""``[actuator]`` of the device's file of actions, and how its actuator is opened there, or once by itself."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, field_validator, model_validator

from edge_producer.acting.action_order import ActionOrder
from edge_producer.acting.resident_actuator import ResidentActuator
from edge_producer.acting.socket_actuator import SocketActuator

LONGEST_PATH = 107
"""Bytes of a Unix socket's path that Linux takes."""


class ActuatorPlace(BaseModel):
    """Where the resident actuator is: one of ``socket`` and ``entry_point``.

    Attributes:
        socket: Absolute path of a Unix socket.
        entry_point: Name in the group ``edgeloop.actuators``.
        timeout_s: Seconds within which an order is to be answered.
        options: What the entry point is opened with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    socket: str | None = None
    entry_point: str | None = None
    timeout_s: PositiveFloat = 1.0
    options: dict[str, Any] = Field(default={})

    @field_validator("socket")
    @classmethod
    def _path(cls, given: str | None) -> str | None:
        if given is not None and not (Path(given).is_absolute() and len(os.fsencode(given)) <= LONGEST_PATH):
            raise ValueError(f"socket must be an absolute path of at most {LONGEST_PATH} bytes")
        return given

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.socket is None) == (self.entry_point is None):
            raise ValueError("[actuator] needs one of socket and entry_point")
        if self.options and self.entry_point is None:
            raise ValueError("options are for an entry_point")
        return self

    def make(self, hold_s: float | None) -> ResidentActuator:
        """The actuator, not yet opened.

        Args:
            hold_s: Said in each order.

        Raises:
            ProfileError: The entry point is not installed, or cannot be imported.
        """
        if self.socket is not None:
            return SocketActuator(self.socket, self.timeout_s, hold_s)
        assert self.entry_point is not None  # noqa: S101  (validated)
        # Few devices have one, and it reads what is installed.
        from edge_producer.acting.called_actuator import (  # noqa: PLC0415
            ActuatorRequest,
            CalledActuator,
            load_actuator,
        )

        request = ActuatorRequest(self.options, self.timeout_s)
        return CalledActuator(self.entry_point, load_actuator(self.entry_point), request)

    def command(self, order: ActionOrder) -> tuple[list[str], dict[str, str]]:
        """Argument list and environment of a process that gives the entry point one order.

        For the watchdog, which has neither this process nor its packages.
        """
        said = {
            "entry_point": self.entry_point,
            "timeout_s": self.timeout_s,
            "options": self.options,
            "device_id": order.device_id,
            "action": order.action,
            "cause": order.cause,
            "numbers": dict(order.numbers),
        }
        paths = os.pathsep.join(str(Path(p).absolute()) for p in sys.path if p)
        return [sys.executable, "-m", "edge_producer.acting.order_once", json.dumps(said)], {
            "PYTHONPATH": paths
        }

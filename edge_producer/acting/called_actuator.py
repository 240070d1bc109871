"""An actuator of a user: an entry point of the group ``edgeloop.actuators``, called in its own thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from edge_producer.acting.action_order import ActionOrder
from edge_producer.acting.resident_actuator import ResidentActuator
from schemas.errors import ProfileError
from schemas.plug_ins import load_plug_in

GROUP = "edgeloop.actuators"


@dataclass(frozen=True, slots=True)
class ActuatorRequest:
    """What the entry point of an actuator is called with.

    Attributes:
        options: ``[actuator.options]`` of the device's file of actions.
        timeout_s: Seconds within which ``carry_out`` is to return.
    """

    options: Mapping[str, Any]
    timeout_s: float


class Actuator(Protocol):
    """What the entry point returns. It is used by one thread."""

    def carry_out(self, order: ActionOrder) -> None:
        """Return once the machine has the order; whatever is raised counts as a failure.

        After a failure the actuator is closed, and opened again after a while.
        """
        ...

    def close(self) -> None:
        """Let go of the machine."""
        ...


def load_actuator(name: str) -> Callable[[ActuatorRequest], Actuator]:
    """What opens the actuator of a name.

    Raises:
        ProfileError: None is installed, or two are, or it cannot be imported.
    """
    opened: Callable[[ActuatorRequest], Actuator] = load_plug_in(
        GROUP,
        name,
        "actuator",
        ProfileError,
        lambda known: (
            f"no package has the actuator '{name}' (actuators that are installed: {known}); "
            f"install one package with the entry point '{name}' of the group {GROUP} beside edgeloop"
        ),
    )
    return opened


class CalledActuator(ResidentActuator):
    """Calls an actuator that runs in this process. One that hangs keeps its thread, and orders wait.

    Args:
        name: Of the entry point.
        open_actuator: Opens it.
        request: What it is opened with.
    """

    def __init__(
        self, name: str, open_actuator: Callable[[ActuatorRequest], Actuator], request: ActuatorRequest
    ) -> None:
        super().__init__(name, request.timeout_s)
        self._open_actuator = open_actuator
        self._request = request
        self._hung = 0

    def status(self) -> dict[str, Any]:
        """For the status file."""
        self._note_hang()
        return super().status()

    def _send_next(self) -> None:
        self._changed.notify_all()

    def _serve(self) -> None:
        actuator = self._open_actuator(self._request)
        try:
            with self._changed:
                self._reached()
            while not self._closing:
                self._carry_out_next(actuator)
        finally:
            actuator.close()

    def _carry_out_next(self, actuator: Actuator) -> None:
        with self._changed:
            sent = self._orders.take(self._now_ns())
            if sent is None:
                self._changed.wait()
                return
        actuator.carry_out(sent.order)
        at_ns = self._now_ns()
        with self._changed:
            self._answered(sent.number, at_ns)

    def _note_hang(self) -> None:
        """Count a call that does not come back, once."""
        with self._changed:
            oldest_ns = self._orders.oldest_sent_ns()
            if oldest_ns is None or oldest_ns == self._hung:
                return
            if self._now_ns() - oldest_ns > self._timeout_ns:
                self._hung = oldest_ns
                self.times.count("timed_out")
                self._log(f"carry_out has not returned within {self._timeout_ns / 1e9} s")

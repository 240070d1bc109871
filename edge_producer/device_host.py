"""What a device needs from its process, and how it commands an action that comes into force."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_producer.acting.action_order import ActionOrder
from edge_producer.clock import Clock
from edge_producer.decider import LocalDecision
from edge_producer.deciding.decision_parameters import DecisionParameters, HoldsParameters
from edge_producer.deciding.timed_calls import TimedCalls
from edge_producer.device_identity import DeviceIdentity
from edge_producer.metering import Meters
from schemas.boot_ids import random_boot_id
from schemas.profile import Profile

if TYPE_CHECKING:  # only for profiles that name a function
    from edge_producer.deciding.function_decider import FunctionDecider


@dataclass(frozen=True)
class Host:
    """What a device needs from its process; shared by all devices of the process.

    Attributes:
        on_action: Called when an action comes into force or carries other numbers, and for the action of the
            first window of a start: what happened to the machine before is not known. Must not wait or raise.
        meters: Takes latencies.
        clock: Steady seconds since 1970, for the age of rows; event times come from the source.
        new_boot_id: Returns an id that no device ever had.
        parameters: What the cloud has computed for decision functions, by device id.
        calls: Calls decision functions.
    """

    on_action: Callable[[ActionOrder], None]
    meters: Meters
    clock: Clock
    new_boot_id: Callable[[], int] = random_boot_id
    parameters: Mapping[str, HoldsParameters] = field(default_factory=dict)
    calls: TimedCalls = field(default_factory=TimedCalls)

    def function_for(
        self, identity: DeviceIdentity, profile: Profile, kept: Mapping[str, Any] | None
    ) -> FunctionDecider | None:
        """The decision function that a profile names, for one device; None: it names none."""
        if profile.decision.function is None:
            return None
        # Few devices have one, and it reads what is installed.
        from edge_producer.deciding.function_decider import FunctionDecider  # noqa: PLC0415

        device_id = identity.device_id
        parameters = self.parameters.get(device_id) or DecisionParameters()
        return FunctionDecider(device_id, profile, parameters, self.calls, kept, identity.secret)


class ActionCommands:
    """Commands one device's action where it, or a number that it carries, has changed.

    Args:
        device_id: Whose action it is.
        on_action: Carries it out.
    """

    def __init__(self, device_id: str, on_action: Callable[[ActionOrder], None]) -> None:
        self._device_id = device_id
        self._on_action = on_action
        self._commanded: tuple[str, Mapping[str, float]] | None = None

    def command(self, decision: LocalDecision, score: float | None, arrived_ns: int, decided_ns: int) -> None:
        """Command the decision's action, unless it was commanded last.

        Args:
            decision: Of the newest window.
            score: That led to it.
            arrived_ns: Monotonic clock when the sample came that completed the window.
            decided_ns: Monotonic clock when it was decided.
        """
        wanted = decision.action, decision.numbers
        if wanted == self._commanded:
            return
        self._commanded = wanted
        action, numbers = wanted
        self._on_action(
            ActionOrder(self._device_id, action, score, "decision", numbers, arrived_ns, decided_ns)
        )

    def again(self) -> None:
        """Have the next decision commanded, even if it is the one in force."""
        self._commanded = None

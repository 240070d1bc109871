"""What the action on the device saves, from the delays that were measured on ROSS. Pure.

Damage is counted in *fault-seconds*: severity times seconds, from the onset until the machine is stopped. A
fault grows for its ramp and then stays; what is not detected within the recording counts as never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.judge.machine.machine_outcome import JudgedOutcome

HORIZON_S = 3600.0
"""The hour after the onset, within which damage is counted."""


class DecidedBy(NamedTuple):
    """Who stops the machine.

    Attributes:
        late_s: From the window's end until the action, beyond the device's own; infinite: nobody acts.
        earliest_s: After the onset; before it no answer arrives.
    """

    name: str
    late_s: float
    earliest_s: float = 0.0


WAYS = (
    DecidedBy("the device", 0.0),
    DecidedBy("the cloud, 50 ms there and back", 0.05),
    DecidedBy("the cloud, 1 s there and back", 1.0),
    DecidedBy("the cloud, after an hour without a link", 0.05, HORIZON_S),
    DecidedBy("nobody", float("inf")),
)


def fault_seconds(until_s: float, severity: float, ramp_s: float) -> float:
    """Severity times seconds from the onset until then, of a fault that grows for its ramp.

    >>> fault_seconds(10.0, 0.5, 0.0), fault_seconds(60.0, 1.0, 60.0), fault_seconds(90.0, 1.0, 60.0)
    (5.0, 30.0, 60.0)
    """
    grown = min(until_s, ramp_s)
    rising = grown * grown / ramp_s / 2 if ramp_s else 0.0
    return severity * (rising + max(0.0, until_s - ramp_s))


def damage(found: Sequence[JudgedOutcome], way: DecidedBy) -> float:
    """Mean fault-seconds of a machine in the hour after its onset; those in alarm before it are left out."""
    whole, machines = 0.0, 0
    for o in found:
        stopped = [min(HORIZON_S, max(d + way.late_s, way.earliest_s)) for d in o.delays]
        never = o.hit - o.already - len(o.delays)
        whole += sum(fault_seconds(s, o.severity, o.ramp_s) for s in [*stopped, *[HORIZON_S] * never])
        machines += len(stopped) + never
    return whole / machines if machines else 0.0

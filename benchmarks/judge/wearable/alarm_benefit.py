"""What an alarm that is decided at the wearer saves, from the delays that were measured. Pure.

Whoever decides elsewhere has the same model and the same windows, and his alarm comes later by the way there
and back, or when there is a link again. What was not alarmed on the device is alarmed by nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

BEATS = 2.0
"""Beats within which an alarm is wanted."""
HORIZON_S = 3600.0
"""Seconds after the onset at which a lost link is there again."""


class AlarmedBy(NamedTuple):
    """Who decides.

    Attributes:
        late_s: From the end of a window to the alarm, beyond the device's own.
        earliest_s: After the onset; before it no answer arrives.
    """

    name: str
    late_s: float
    earliest_s: float = 0.0


WAYS = (
    AlarmedBy("the device", 0.0),
    AlarmedBy("the cloud, 50 ms there and back", 0.05),
    AlarmedBy("the cloud, 1 s there and back", 1.0),
    AlarmedBy("the cloud, after an hour without a link", 0.05, HORIZON_S),
    AlarmedBy("nobody", float("inf")),
)


def alarmed_after_s(delay_s: float, way: AlarmedBy) -> float:
    """Seconds from the onset to the alarm.

    >>> [alarmed_after_s(0.6, way) for way in WAYS]
    [0.6, 0.65, 1.6, 3600.0, inf]
    """
    return max(delay_s + way.late_s, way.earliest_s)


def within_beats(found: Sequence[tuple[float, float] | None], way: AlarmedBy) -> int:
    """Onsets that are alarmed within ``BEATS``.

    Args:
        found: Of each onset the device's delay in beats and in seconds; None: no alarm. Beats go on at the
            pace that they had until then.
        way: Who decides.

    >>> [within_beats([(1.5, 0.6), (1.0, 0.8), None], way) for way in WAYS]
    [2, 2, 0, 0, 0]
    """
    beats = [
        delay[0] / delay[1] * alarmed_after_s(delay[1], way) for delay in found if delay and delay[1] > 0
    ]
    return sum(b <= BEATS for b in beats)

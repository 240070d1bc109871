"""The value that goes from the sensing loop to the spool: what one device did since the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from edge_producer.books import LedgerChanges
from edge_producer.sensed_rows import Row
from edge_producer.summaries import Summary
from schemas.version_names import VersionHeader

NEVER_US = -(2**62)
"""Event time before any window."""
REWIND_PERIODS = 12
"""A clock that steps back by more periods starts a new boot: the old lines of the books may be settled."""


class BootTerms(NamedTuple):
    """What holds for all rows of a boot, whenever they are sealed.

    Attributes:
        version: Version of the profile that its messages name; None: none, for it runs a file.
        period_s: Length of a period in its books.
        floor: Share below which a block of its rows is given up instead of thinned.
    """

    version: VersionHeader | None
    period_s: float
    floor: float


@dataclass(frozen=True)
class DeviceUpdate:
    """What one device did since its last update; commits whole.

    Attributes:
        state: JSON of decision and filter state, held rows included.
        newest_us: Newest event time of the boot, µs since 1970.
        held: Number of rows held by the filter, inside ``state``.
        rows: Selected rows, in the order of ``seq``.
        closed: Summaries of closed periods.
        open_summary: Summary of the open period so far.
        alerts: JSON of each alert.
        meters: Increments of counters, by name.
        decision: Action in force.
        model_version: Version of the model in force.
        absurd: Largest share that each channel lost to values outside its range, where that was too much.
        clipped: How often numbers of actions were clipped since the start, by ``action.number``.
        boots: Terms of the boots that began since the start, as far as rows of theirs may be in it.
        sensed: Every row since the last update, until it is weighed what sending all of them would take:
            that takes milliseconds, which the sensing loop has not.
    """

    device_id: str
    boot_id: int
    next_seq: int
    newest_us: int
    state: str
    held: int
    rows: list[Row]
    books: LedgerChanges
    closed: list[Summary]
    open_summary: Summary | None
    alerts: list[bytes]
    meters: dict[str, int]
    decision: str
    model_version: str
    absurd: Mapping[str, float] = field(default_factory=dict)
    clipped: Mapping[str, int] = field(default_factory=dict)
    boots: Mapping[int, BootTerms] = field(default_factory=dict)
    sensed: Sequence[Row] = ()

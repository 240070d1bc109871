"""Watermarks: up to which event time a stream of several sources is complete.

A source (a device, or a task upstream) is complete up to some event time, and its newest message was appended
at some append time. The watermark is the smallest completeness of the sources that hold it:

* an idle source, one that sent nothing for longer than a bound in append time, no longer holds it;
* a source that lies behind the watermark was overtaken while it was idle; what it still sends is late
  anyway, so it does not hold the watermark until it has caught up. A device with a week of backlog therefore
  holds up no other device;
* when every source is idle, nothing more is expected: the watermark goes to the furthest of them.

So the watermark never goes back. All times are whole microseconds since 1970 UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class AppendClock(NamedTuple):
    """Append time as far as a task has read the log.

    It is the newest append time read, and runs on with the commit clock while no message comes. So a worker
    that works off an hour of log does not take devices for idle just because their newest messages are still
    unread.

    Attributes:
        appended_us: Newest append time read.
        read_us: Commit clock when it was read.
    """

    appended_us: int
    read_us: int

    def at(self, now_us: int) -> int:
        """Append time at a later commit clock."""
        return self.appended_us + max(0, now_us - self.read_us)

    def updated(self, appended_us: int, now_us: int) -> AppendClock:
        """The clock after reading a message that was appended then."""
        return AppendClock(max(self.appended_us, appended_us), now_us)


class SourceProgress(NamedTuple):
    """One source's progress.

    Attributes:
        complete_us: Event time before which it is expected to have sent everything.
        appended_us: Append time of its newest message.
    """

    complete_us: int
    appended_us: int

    def updated(self, complete_us: int, appended_us: int) -> SourceProgress:
        """Progress after one more message; neither time goes back."""
        return SourceProgress(max(self.complete_us, complete_us), max(self.appended_us, appended_us))


def idle_bound_us(window_s: float, lateness_s: float) -> int:
    """How long a source that sends once a window may be idle before the watermark stops waiting for it."""
    return round((2 * window_s + lateness_s) * 1e6)


def advance(
    watermark: int | None,
    sources: Mapping[str, SourceProgress],
    append_now_us: int,
    idle_after_us: int,
    tail_us: int = 0,
) -> int | None:
    """The next watermark.

    Args:
        watermark: The present one; None before the first.
        sources: Progress of every source that has sent anything.
        append_now_us: Append time now, from ``AppendClock``.
        idle_after_us: Longest time, in append time, without a message before a source counts as idle.
        tail_us: What ``complete_us`` was held back for lateness: given back when all are idle.

    Returns:
        Never less than ``watermark``; None without sources.
    """
    if not sources:
        return watermark
    active = [s for s in sources.values() if append_now_us - s.appended_us <= idle_after_us]
    if not active:
        end = max(s.complete_us for s in sources.values()) + tail_us
        return end if watermark is None else max(watermark, end)
    holding = [s.complete_us for s in active if watermark is None or s.complete_us >= watermark]
    return min(holding, default=watermark)

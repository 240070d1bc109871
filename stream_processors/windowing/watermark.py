"""Watermarks: up to which event time a stream of several sources is complete.

A source (a device, or a task upstream) is complete up to some event time, and was last heard at some append
time. The watermark is the smallest completeness of the sources that hold it:

* a source that has been silent for longer than a bound, in append time, no longer holds it;
* a source that lies behind the watermark was passed by while it was silent; what it still sends is late
  anyway, so it does not hold the watermark until it has caught up. A device with a week of backlog therefore
  stalls nobody;
* when every source is silent, nothing more is expected: the watermark goes to the furthest of them.

So it never goes back. All times are whole microseconds since 1970 UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class AppendClock(NamedTuple):
    """Append time as a task sees it.

    It stands at the newest append time read, and runs on with the commit clock while nothing comes. A worker
    that works off an hour of log therefore does not take the devices for silent just because their newest
    messages are still unread.

    Attributes:
        heard_us: Newest append time read.
        read_us: Commit clock when it was read.
    """

    heard_us: int
    read_us: int

    def at(self, now_us: int) -> int:
        """Append time at a later commit clock."""
        return self.heard_us + max(0, now_us - self.read_us)

    def hear(self, appended_us: int, now_us: int) -> AppendClock:
        """The clock after reading a message that was appended then."""
        return AppendClock(max(self.heard_us, appended_us), now_us)


class SourceProgress(NamedTuple):
    """One source's progress.

    Attributes:
        complete_us: Event time before which it has sent everything, as far as one may expect.
        heard_us: Append time of its newest message.
    """

    complete_us: int
    heard_us: int

    def hear(self, complete_us: int, heard_us: int) -> SourceProgress:
        """Progress after one more message; neither time goes back."""
        return SourceProgress(max(self.complete_us, complete_us), max(self.heard_us, heard_us))


def silence_bound_us(window_s: float, lateness_s: float) -> int:
    """How long a source that speaks once a window may be silent before nobody waits for it."""
    return round((2 * window_s + lateness_s) * 1e6)


def advance(
    watermark: int | None,
    sources: Mapping[str, SourceProgress],
    append_now_us: int,
    silence_us: int,
    tail_us: int = 0,
) -> int | None:
    """The next watermark.

    Args:
        watermark: The present one; None before the first.
        sources: All that have been heard.
        append_now_us: Append time now, from ``AppendClock``.
        silence_us: Bound from which a source counts as silent.
        tail_us: What ``complete_us`` was held back for lateness: given back when all are silent.

    Returns:
        Never less than ``watermark``; None without sources.
    """
    if not sources:
        return watermark
    speaking = [s for s in sources.values() if append_now_us - s.heard_us <= silence_us]
    if not speaking:
        end = max(s.complete_us for s in sources.values()) + tail_us
        return end if watermark is None else max(watermark, end)
    holding = [s.complete_us for s in speaking if watermark is None or s.complete_us >= watermark]
    return min(holding, default=watermark)

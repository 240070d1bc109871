"""Shows a running demo: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infra.line_watch import LineView
from infra.printing import UNKNOWN, count, seconds, share, size

_LINE_EVERY_S = 5


def saving(sent: int, whole: int) -> str:
    """Share of bytes kept off the network."""
    return share(1 - sent / whole) if whole > 0 else UNKNOWN


def beside(sent: int, whole: int) -> str:
    """How much less or more was sent, in words."""
    if whole <= 0:
        return f"{UNKNOWN} less"
    return f"{share(abs(1 - sent / whole))} {'less' if sent <= whole else 'more'}"


LEGEND = (
    "sensed, acked: rows so far; spools: rows that wait in each edge process; off-net: bytes kept off the "
    "network; lag: messages not yet queryable; alarms, drift verdicts: those in the lake"
)


class DemoScreen:
    """Shows the state of the pipeline; owns the terminal while it is open."""

    def __init__(self, console: Console, seconds: float) -> None:
        self._console, self._seconds = console, seconds
        self._live: Live | None = None
        self._next_line = 0.0
        self._shown_s = -math.inf

    @property
    def is_live(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self._console.is_terminal

    @contextmanager
    def open(self) -> Iterator[DemoScreen]:
        """Draw live while it is open, if there is a terminal."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(Text("starting"), console=self._console, refresh_per_second=4) as self._live:
            yield self
        self._live = None

    def add_line(self, text: str) -> None:
        """Print a line that stays on the screen."""
        self._console.print(text)

    def add_step(self, at_s: float, text: str) -> None:
        """Print what happened at a moment. Lines never go back in time.

        What is heard of late bears the time of the line above it, and its own at the end.
        """
        late = f"  (at {seconds(at_s, 0)})" if round(at_s) < self._shown_s else ""
        self._console.print(f"{self._time(at_s):>6}  {text}{late}", markup=False)

    def show(self, at_s: float, view: LineView, offline: str | None) -> None:
        """Show the newest view."""
        if self._live is not None:
            self._live.update(self._table(at_s, view, offline))
        elif at_s >= self._next_line:
            self._next_line = at_s + _LINE_EVERY_S
            self._console.print(self._line(at_s, view, offline), soft_wrap=True)

    def _time(self, at_s: float) -> str:
        self._shown_s = max(self._shown_s, round(at_s))
        return seconds(self._shown_s, 0)

    def _table(self, at_s: float, view: LineView, offline: str | None) -> Table:
        total, meters = view.total, view.meters
        clock = f"{seconds(at_s, 0)} of {seconds(self._seconds, 0)}"
        table = Table(title=f"edgeloop demo  {clock}", title_justify="left")
        for column in ("", "sensed", "acked", "pending", "filtered", "network"):
            table.add_column(column, justify="left" if column in ("", "network") else "right")
        for name, s in view.spools.items():
            state = "[red]cut[/]" if name == offline else "[green]up[/]"
            table.add_row(name, *map(count, (s.sensed, s.acked, s.pending, s.filtered)), state)
        totals = map(count, (total.sensed, total.acked, total.pending, total.filtered))
        table.add_row("all", *totals, "", end_section=True)
        table.add_row("sent", size(meters.get("bytes_sent", 0)), *[""] * 4)
        for label, key in (
            ("kept off, against raw", "raw_bytes"),
            ("against every feature row", "feature_bytes"),
        ):
            table.add_row(label, saving(meters.get("bytes_sent", 0), meters.get(key, 0)), *[""] * 4)
        table.add_row("lag, messages", count(view.lag), *[""] * 4)
        table.add_row("alarms / drift verdicts", f"{count(view.alarms)} / {count(view.drift)}", *[""] * 4)
        return table

    def _line(self, at_s: float, view: LineView, offline: str | None) -> str:
        total, meters = view.total, view.meters
        spools = "  ".join(
            f"{name} {count(s.pending)}{' (no network)' if name == offline else ''}"
            for name, s in view.spools.items()
        )
        sent = meters.get("bytes_sent", 0)
        off_net = saving(sent, meters.get("raw_bytes", 0))
        return (
            f"{self._time(at_s):>6}  sensed {count(total.sensed):>6}  acked {count(total.acked):>6}  "
            f"spools {spools}  sent {size(sent):>8}  off-net {off_net} of raw  "
            f"lag {count(view.lag)}  alarms {count(view.alarms)}  drift verdicts {count(view.drift)}"
        )

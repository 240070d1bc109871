"""What a demo shows while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infra.line_watch import LineView

_LINE_EVERY_S = 5


def human_bytes(n: float) -> str:
    """Bytes with a binary unit, three digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024 or unit == "GiB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    raise AssertionError("unreachable")


def saving(sent: int, whole: int) -> str:
    """Share of bytes kept off the network."""
    return f"{1 - sent / whole:.1%}" if whole > 0 else "n/a"


LEGEND = (
    "sensed, acked: rows so far; spools: rows that wait in each edge process; off-net: bytes kept off the "
    "network; lag: messages not yet queryable; alarms, drift: in the lake"
)


class DemoScreen:
    """Shows views; owns the terminal while it is open."""

    def __init__(self, console: Console, seconds: float) -> None:
        self._console, self._seconds = console, seconds
        self._live: Live | None = None
        self._next_line = 0.0

    @property
    def is_live(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self._console.is_terminal

    @contextmanager
    def open(self) -> Iterator[DemoScreen]:
        """Live where there is a terminal."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(Text("starting"), console=self._console, refresh_per_second=4) as self._live:
            yield self
        self._live = None

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text)

    def show(self, at_s: float, view: LineView, offline: str | None) -> None:
        """The newest view."""
        if self._live is not None:
            self._live.update(self._table(at_s, view, offline))
        elif at_s >= self._next_line:
            self._next_line = at_s + _LINE_EVERY_S
            self._console.print(self._line(at_s, view, offline), soft_wrap=True)

    def _table(self, at_s: float, view: LineView, offline: str | None) -> Table:
        total, meters = view.total, view.meters
        table = Table(title=f"edgeloop demo  {at_s:5.0f} / {self._seconds:.0f} s", title_justify="left")
        for column in ("", "sensed", "acked", "pending", "filtered", "network"):
            table.add_column(column, justify="left" if column in ("", "network") else "right")
        for name, s in view.spools.items():
            state = "[red]cut[/]" if name == offline else "[green]up[/]"
            counts = (s.sensed, s.acked, s.pending, s.filtered)
            table.add_row(name, *(f"{n:,}" for n in counts), state)
        counts = (total.sensed, total.acked, total.pending, total.filtered)
        table.add_row("all", *(f"{n:,}" for n in counts), "", end_section=True)
        table.add_row("sent", human_bytes(meters.get("bytes_sent", 0)), *[""] * 4)
        for label, key in (
            ("kept off, against raw", "raw_bytes"),
            ("against every feature row", "feature_bytes"),
        ):
            table.add_row(label, saving(meters.get("bytes_sent", 0), meters.get(key, 0)), *[""] * 4)
        table.add_row("lag, messages", f"{view.lag:,}", *[""] * 4)
        table.add_row("alarms / drift verdicts", f"{view.alarms} / {view.drift}", *[""] * 4)
        return table

    def _line(self, at_s: float, view: LineView, offline: str | None) -> str:
        total, meters = view.total, view.meters
        spools = "  ".join(
            f"{n} {s.pending:,}{' (no network)' if n == offline else ''}" for n, s in view.spools.items()
        )
        return (
            f"{at_s:4.0f} s  sensed {total.sensed:>6,}  acked {total.acked:>6,}  spools {spools}  "
            f"sent {human_bytes(meters.get('bytes_sent', 0)):>9}  off-net "
            f"{saving(meters.get('bytes_sent', 0), meters.get('raw_bytes', 0))} of raw  "
            f"lag {view.lag}  alarms {view.alarms}  drift {view.drift}"
        )

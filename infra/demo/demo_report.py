"""The end of a demo on one screen, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.audit import Books
from infra.demo.loop_report import LoopReport
from infra.demo.outcome import AlarmScore, DriftScore, Latency
from infra.demo.screen import human_bytes, saving


@dataclass(frozen=True)
class ExampleQuery:
    """One query for the reader to repeat, with its result."""

    question: str
    sql: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class DemoReport:
    """Everything a demo ends with.

    Attributes:
        bytes_raw: Raw samples as float32.
        bytes_features: The messages that would have carried every feature row.
        bytes_sent: What the devices sent, keys and headers included, all topics.
        decide_p99_s: Window to local decision, 99th percentile over all devices, seconds.
        live: Sensed to queryable, rows of devices that had a network.
        outage: Likewise, rows that were sensed without one.
        loop: What became of the learning loop; None: the line alone ran.
    """

    books: Books
    alarms: AlarmScore
    drift: DriftScore
    bytes_raw: int
    bytes_features: int
    bytes_sent: int
    decide_p99_s: float | None
    live: Latency
    outage: Latency
    examples: Sequence[ExampleQuery]
    loop: LoopReport | None = None

    @property
    def all_well(self) -> bool:
        """Whether the books balance, and the loop, where it ran, did what it should."""
        return self.books.balances and (self.loop is None or not self.loop.failures())

    def to_json(self) -> dict[str, Any]:
        """The documented keys of `edgeloop demo --json`."""
        return {
            "rows": self.books.rows(),
            "bytes": {"raw": self.bytes_raw, "features": self.bytes_features, "sent": self.bytes_sent},
            "alarms": {"true": self.alarms.true, "false": self.alarms.false, "missed": self.alarms.missed},
            "drift": {
                "verdicts": self.drift.verdicts,
                "false": self.drift.false,
                "delay_s": self.drift.delay_s,
            },
            "latency_s": {
                "decide_p99": self.decide_p99_s,
                "queryable_p50": self.live.p50,
                "queryable_p99": self.live.p99,
                "outage_queryable_p99": self.outage.p99,
            },
            "balanced": self.books.balances,
            **({} if self.loop is None else self.loop.to_json()),
        }


def print_report(console: Console, report: DemoReport, scenario: str) -> None:
    """One screen."""
    console.print()
    console.print(f"[bold]What happened[/]  {scenario}", soft_wrap=True)
    console.print(_books_table(report.books))
    for complaint in report.books.complaints():
        console.print(f"[red]does not balance[/]  {complaint}", soft_wrap=True)
    console.print(_facts(report))
    if report.loop is not None:
        console.print()
        console.print(_grid(report.loop.facts()))
        for failure in report.loop.failures():
            console.print(f"[red]not as it should be[/]  {failure}", soft_wrap=True)
    for example in report.examples:
        console.print(f"\n[bold]{example.question}[/]")
        console.print(f'  edgeloop sql "{example.sql}"', soft_wrap=True, highlight=False)
        console.print(_result(example))


def _books_table(books: Books) -> Table:
    table = Table(title="Books, from three places", title_justify="left")
    table.add_column("counted in")
    for name in ("rows", "=", ""):
        table.add_column(name, justify="right" if name == "rows" else "left")
    s, r = books.spool, books.rows()
    device = (
        f"acked {s.acked:,} + pending {s.pending:,} + filtered {s.filtered:,} + evicted {s.evicted:,} "
        f"+ refused {s.refused:,}"
    )
    cloud = (
        f"landed {r['landed']:,} + duplicate {r['duplicate']:,} + quarantined {r['quarantined']:,} "
        f"+ in flight {r['in_flight']:,}"
    )
    table.add_row("device spools: sensed", f"{s.sensed:,}", device, _mark(s.balances))
    table.add_row("broker's log: received", f"{r['received']:,}", cloud, _mark(books.in_flight == 0))
    table.add_row(
        "lake: distinct rows",
        f"{books.lake.distinct:,}",
        f"acked {s.acked:,}; lost {books.lost:,}",
        _mark(books.lost == 0),
    )
    return table


def _mark(holds: bool) -> str:
    return "[green]holds[/]" if holds else "[red]BROKEN[/]"


def _facts(report: DemoReport) -> Table:
    a, d = report.alarms, report.drift
    delay = (
        "none on the channel that moved"
        if d.delay_s is None
        else f"the recalibration after {d.delay_s:.1f} s"
    )
    sent, raw, features = report.bytes_sent, report.bytes_raw, report.bytes_features
    facts = {
        "sent": f"{human_bytes(sent)}: {saving(sent, raw)} less than raw samples ({human_bytes(raw)}), "
        f"{saving(sent, features)} less than every feature row ({human_bytes(features)})",
        "alarms": f"{a.true} true, {a.false} false; {a.missed} faults missed",
        "drift": f"{d.verdicts} verdicts, {delay}; {d.false} before anything had changed",
        "decide": f"p99 {_ms(report.decide_p99_s)} from window to local action",
        "queryable": f"p50 {_s(report.live.p50)}, p99 {_s(report.live.p99)} after sensing; "
        f"p99 {_s(report.outage.p99)} for rows sensed without network",
    }
    return _grid(facts)


def _grid(facts: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, text in facts.items():
        table.add_row(f"[bold]{name}[/]", text)
    return table


def _ms(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{seconds * 1e3:.2f} ms"


def _s(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{seconds:.1f} s"


def _result(example: ExampleQuery) -> Table:
    table = Table(show_edge=False, pad_edge=True)
    for column in example.columns:
        table.add_column(column)
    for row in example.rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)

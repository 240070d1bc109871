"""The report at the end of a demo: on one screen, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra.audit import Books
from infra.demo.loop_report import LoopReport
from infra.demo.outcome import AlarmScore, DriftScore, Latency
from infra.demo.screen import beside
from infra.printing import UNKNOWN, count, seconds, size


@dataclass(frozen=True)
class ExampleQuery:
    """A query that the reader can repeat, with its result as `edgeloop sql` prints it."""

    question: str
    sql: str
    result: str


@dataclass(frozen=True)
class DemoReport:
    """Everything that a demo ends with.

    Attributes:
        bytes_raw: Of the raw samples as float32.
        bytes_features: Of the messages that would have carried every feature row.
        bytes_sent: Of what the devices sent to all topics, keys and headers included.
        decide_p99_s: Window to local decision, 99th percentile over all devices, seconds.
        live: Sensed to queryable, for rows of devices that had a network.
        outage: The same for rows that were sensed without a network.
        loop: The learning loop's part; None: the pipeline alone ran.
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
        """Whether the books balance and the loop, if it ran, did what it should."""
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
    """Print the report, about one screen."""
    console.print()
    console.print(f"[bold]What happened[/]  {scenario}", soft_wrap=True)
    console.print(_books_table(report.books))
    for violation in report.books.violations():
        console.print(f"[red]does not balance[/]  {violation}", soft_wrap=True)
    console.print(_facts(report))
    if report.loop is not None:
        console.print()
        console.print(_grid(report.loop.facts()))
        for failure in report.loop.failures():
            console.print(f"[red]not as it should be[/]  {failure}", soft_wrap=True)
    for example in report.examples:
        console.print(f"\n[bold]{example.question}[/]")
        console.print(f'  edgeloop sql "{example.sql}"', soft_wrap=True, highlight=False)
        console.print(Text(example.result), soft_wrap=True)


def _books_table(books: Books) -> Table:
    table = Table(title="Books, from three places", title_justify="left")
    table.add_column("counted in")
    for name in ("rows", "=", ""):
        table.add_column(name, justify="right" if name == "rows" else "left")
    s, r = books.spool, books.rows()
    device = _sum(r, "acked", "pending", "filtered", "evicted", "refused")
    cloud = _sum(r, "landed", "duplicate", "quarantined", "in_flight")
    lake = f"acked {count(s.acked)}; lost {count(books.lost)}"
    table.add_row("device spools: sensed", count(s.sensed), device, _held(s.balances))
    table.add_row("broker's log: received", count(r["received"]), cloud, _held(books.in_flight == 0))
    table.add_row("lake: distinct rows", count(books.lake.distinct), lake, _held(books.lost == 0))
    return table


def _sum(rows: Mapping[str, int], *names: str) -> str:
    return " + ".join(f"{name.replace('_', ' ')} {count(rows[name])}" for name in names)


def _held(holds: bool) -> str:
    return "[green]holds[/]" if holds else "[red]BROKEN[/]"


def _facts(report: DemoReport) -> Table:
    a, d = report.alarms, report.drift
    delay = seconds(d.delay_s)
    drift = f"the new normal after {delay}" if delay else "none on the channel that moved"
    sent, raw, features = report.bytes_sent, report.bytes_raw, report.bytes_features
    p50, p99, outage = (seconds(s) or UNKNOWN for s in (report.live.p50, report.live.p99, report.outage.p99))
    facts = {
        "sent": f"{size(sent)}: {beside(sent, raw)} than raw samples ({size(raw)}), "
        f"{beside(sent, features)} than every feature row ({size(features)})",
        "alarms": f"{count(a.true)} true, {count(a.false)} false; {count(a.missed, 'fault')} missed",
        "drift": f"{count(d.verdicts, 'verdict')}, {drift}; {count(d.false)} before anything had changed",
        "decide": f"p99 {seconds(report.decide_p99_s) or UNKNOWN} from window to local action",
        "queryable": f"p50 {p50}, p99 {p99} after sensing; p99 {outage} for rows sensed without network",
    }
    return _grid(facts)


def _grid(facts: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, text in facts.items():
        table.add_row(f"[bold]{name}[/]", text)
    return table

"""`edgeloop topic …`: what is in the log."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.app import session
from infra.cli.console import (
    NO_BROKER,
    AsJson,
    as_json_line,
    show_json,
    show_json_line,
    show_progress,
    show_table,
    show_text,
    show_warning,
)
from infra.cli.table_view import moment
from infra.printing import cell, count

if TYPE_CHECKING:
    from infra.kafka.kafka_admin import KafkaAdmin, LogMessage

Last = Annotated[int, typer.Option("--last", "-n", min=1, help="How many of the newest messages.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Wait for further messages, until Ctrl-C.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(help="What is in the log.", no_args_is_help=True)
    family.command("list")(list_)
    family.command()(tail)
    app.add_typer(family, name="topic")


def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List topics with their partitions and messages, and how many offsets the workers have read."""
    from infra.kafka.kafka_admin import KafkaAdmin
    from infra.stack.running import found_stack
    from infra.without_broker import positions
    from schemas.topics import ALL_TOPICS

    settings, read, damaged = session(ctx).settings(), Counter[str](), list[str]()
    for position in positions(settings.lake_root, damaged):
        read[position.topic] += position.next
    with found_stack(settings, show_progress) as stack:
        if stack is not None:
            names = [t.named(stack.namespace) for t in ALL_TOPICS]
            spans = KafkaAdmin(stack.bootstrap_servers).spans(names)
        else:
            show_progress(f"{NO_BROKER}: how many messages the log holds cannot be known")
    rows: list[dict[str, Any]] = []
    for topic in ALL_TOPICS:
        row: dict[str, Any] = {"name": topic.base, "partitions": None, "messages": None}
        if stack is not None:
            own = [s for (name, _), s in spans.items() if name == topic.named(stack.namespace)]
            row |= {"partitions": len(own), "messages": sum(s.end - s.low for s in own)}
        rows.append(row | {"read": read.get(topic.base)})
    for line in damaged:
        show_warning(line)
    if as_json:
        show_json(rows)
    else:
        cells = [[r["name"], *(count(r[key]) for key in ("partitions", "messages", "read"))] for r in rows]
        show_table("", ["name", "partitions>", "messages>", "read by workers>"], cells)


def tail(
    ctx: typer.Context, topic: str, last: Last = 10, follow: Follow = False, as_json: AsJson = False
) -> None:
    """Show the newest messages of a topic: envelope and decoded rows (``--json``: one object per line)."""
    from feature_store.derived_trust import DerivedTrust
    from feature_store.lake import Lake
    from feature_store.lake_registry import ProfileRegistry
    from infra.kafka.kafka_admin import KafkaAdmin
    from infra.kafka.log_view import full_topic, view
    from infra.stack.running import found_stack
    from schemas.errors import StackError

    settings = session(ctx).settings()
    full_topic(topic, settings.namespace)
    with found_stack(settings, show_progress) as stack:
        if stack is None:
            raise StackError(f"{NO_BROKER}, and only a broker reads the log: `edgeloop up` first")
        admin, registry = KafkaAdmin(stack.bootstrap_servers), ProfileRegistry(Lake.open(stack.lake_root))
        trust = DerivedTrust.of(stack.lake_root)
        newest, ends = _newest(admin, full_topic(topic, stack.namespace), last)
        for message in newest:
            _show(view(message, stack.namespace, registry, trust), as_json=as_json)
        if follow:
            for each in admin.follow(ends):
                if each is not None:
                    _show(view(each, stack.namespace, registry, trust), as_json=as_json)


def _newest(admin: KafkaAdmin, name: str, last: int) -> tuple[list[LogMessage], dict[tuple[str, int], int]]:
    """The newest messages of all partitions by time, and where each partition ends."""
    spans = admin.spans([name])
    wanted = {key: span._replace(low=max(span.low, span.end - last)) for key, span in spans.items()}
    found = sorted(admin.read(wanted), key=lambda m: (m.at, m.partition, m.offset))
    return found[-last:], {key: span.end for key, span in spans.items()}


def _show(shown: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json_line(shown)
        return
    rows = shown.pop("rows", None)
    position = f"{shown.pop('topic')}[{shown.pop('partition')}]@{shown.pop('offset')}"
    show_text(f"{moment(shown.pop('at'))}  {position}  key {cell(str(shown.pop('key')))}")
    for name, value in shown.items():
        show_text(f"  {name}  {as_json_line(value)}")
    if rows:
        # A message is shown as it is: its values are not rounded.
        show_table("", list(rows[0]), [["" if v is None else str(v) for v in row.values()] for row in rows])

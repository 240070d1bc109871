"""Options that decide how a file of measurements is read; `profile init` and `replay` share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.console import show_json, show_progress, show_warning
from infra.reading.reading_options import ReadingOptions
from schemas.errors import DoubtfulRecordingError

if TYPE_CHECKING:
    from infra.reading.decision_record import DecisionRecord

TimeColumn = Annotated[
    list[str] | None,
    typer.Option(
        help="Column with the time, or #2 for the second; twice: a date and a time of day; none.",
        show_default="found",
    ),
]
TimeFormat = Annotated[
    str,
    typer.Option(
        help="iso, day_first, month_first, epoch_ms, relative_s, a strptime format …", show_default="found"
    ),
]
Timezone = Annotated[
    str, typer.Option(help="IANA zone of times that carry none.", show_default="UTC, or the profile's")
]
Decimal = Annotated[
    list[str] | None,
    typer.Option(help="Decimal mark, or COLUMN=MARK; may be repeated.", show_default="found"),
]
Missing = Annotated[list[str] | None, typer.Option(help='Cell text that means "no value"; may be repeated.')]
DeviceColumn = Annotated[
    str,
    typer.Option(
        help="Column that names the devices; @file: each file is one; none: there is one.",
        show_default="one device",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Go on in spite of what is doubtful.")]


def options_of(
    time_column: Sequence[str] | None, time_format: str, timezone: str, decimal: Sequence[str] | None,
    missing: Sequence[str] | None, device_column: str, **more: Any,
) -> ReadingOptions:  # fmt: skip
    """The options as they were given."""
    return ReadingOptions(
        tuple(time_column or ()),
        time_format,
        timezone,
        tuple(decimal or ()),
        tuple(missing or ()),
        device_column,
        **more,
    )


def say(record: DecisionRecord, *, as_json: bool, force: bool) -> None:
    """Say what was decided on standard error, before anything lands; stop where something is doubtful.

    Args:
        record: The decisions.
        as_json: Whether standard output is one JSON document: it then holds why the command stopped.
        force: Go on in spite of doubts.

    Raises:
        DoubtfulRecordingError: Something is doubtful or costs too much, and nobody said to go on.
    """
    for line in record.lines():
        show_progress(line)
    if not record.doubts:
        return
    lines = [d.line() for d in record.doubts]
    if force:
        for line in lines:
            show_warning(line)
        return
    if as_json:
        show_json({"reading": record.to_json(), "stopped": lines})
    raise DoubtfulRecordingError("nothing was written or sent, because " + "; ".join(lines))

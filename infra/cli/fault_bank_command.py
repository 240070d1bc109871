"""`edgeloop fault-bank build`: a profile's bank of known faults, from labelled spans of its history."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_table, show_text
from infra.cli.reading_arguments import DeviceColumn, Force, TimeColumn, TimeFormat, Timezone, options_of, say
from infra.printing import count

FAULT_BANK = typer.Typer(help="Known faults of a profile, for its gates.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the family."""
    app.add_typer(FAULT_BANK, name="fault-bank")


@FAULT_BANK.callback()
def _family() -> None:
    """Known faults of a profile, for its gates."""


@FAULT_BANK.command()
def build(  # noqa: PLR0913, PLR0917  (one option each)
    ctx: typer.Context,
    profile: Annotated[str, typer.Argument(help="Path of a profile file, or a shipped profile's name.")],
    history: Annotated[
        list[Path], typer.Option("--from", help="File or folder of measurements; may be repeated.")
    ],
    labels: Annotated[
        Path, typer.Option(help="CSV of the faults: span_start, span_end, label, and if need be device_id.")
    ],
    time_column: TimeColumn = None,
    time_format: TimeFormat = "",
    timezone: Timezone = "",
    device_column: DeviceColumn = "",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Build the bank from labelled spans, and store it where the gates of this state folder read it."""
    from zoneinfo import ZoneInfo

    from infra.fitting.history_spans import read_fault_spans
    from infra.fitting.history_windows import recorded_windows, windows_by_label
    from infra.replay import ReplayRequest
    from infra.stack.model_settings import model_settings
    from model_service import bank_store, labelled_bank

    options = options_of(time_column, time_format, timezone, None, None, device_column)
    recording = ReplayRequest(tuple(history), profile, options=options, force=force).read()
    say(recording.read.record, as_json=as_json, force=force)
    spans = read_fault_spans(labels, ZoneInfo(timezone or recording.profile.replay.timezone))
    recorded = recorded_windows(recording, spans, ())
    by_label = windows_by_label(recorded, recording.profile, spans)
    bank = labelled_bank.labelled_bank(recording.profile, recorded.devices, by_label)
    digest = bank_store.put_bank(model_settings(session(ctx).settings()).root, bank)
    members = {label: sum(map(len, sizes.values())) for label, sizes in bank.effects.items()}
    if as_json:
        show_json({"profile": bank.profile, "digest": digest, "windows": members})
        return
    show_table("", ["label", "windows>"], [[label, count(n)] for label, n in members.items()])
    show_text(f"fault bank {digest[:12]} of {bank.profile}: its gates use it from now on")

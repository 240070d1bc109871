"""What commands print: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.errors import PipelineError

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
_PLAIN_WIDTH = 200
_OPERATOR = "Operator action:"


def stdout() -> Console:
    """Console for results; wide where it is not a terminal, so that nothing is cut."""
    plain = not sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=plain, width=_PLAIN_WIDTH if plain else None)


def say(line: str) -> None:
    """A line of progress."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(line, style="dim"))


def show_json(value: Any) -> None:
    """A result as JSON, indented."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def show_json_line(value: Any) -> None:
    """One of many results, as one line of JSON, at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def show_text(text: str) -> None:
    """A result that is text already."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; columns whose name ends in ``>`` go to the right."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in columns:
        right = name.endswith(">")
        table.add_column(name.rstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    stdout().print(table)


def show_error(error: PipelineError) -> None:
    """One line that says what failed, and one that says what to do where the error's class knows it."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("error: ", "bold red"), str(error)))
    advice = hint(error)
    if advice:
        console.print(Text.assemble(("hint: ", "bold"), advice))


def hint(error: PipelineError) -> str:
    """The *Operator action* of the error's class, on one line; empty where it has none."""
    _, found, action = (type(error).__doc__ or "").partition(_OPERATOR)
    return " ".join(action.split()) if found else ""

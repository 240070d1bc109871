"""Prints for commands: results on standard output, progress and errors on standard error.

The only module of the command line that prints. Whatever it is given may quote text from outside, so each
function shows control characters as escapes (``schemas/escaping.py``).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from infra.cli.table_view import moment, view
from infra.printing import cell
from infra.terminal import EscapedConsole
from schemas.errors import PipelineError
from schemas.escaping import escaped_block, escaped_json, escaped_line

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
NO_BROKER = "no stack is up, and this look-up starts none"
"""How a look-up begins to say what it cannot know."""
_PLAIN_WIDTH = 200
_OPERATOR = "Operator action:"
_RIGHT, _PROSE = ">", "…"
_NARROWEST_PROSE = 24
_UNBOUNDED = 10_000
_PADDING = re.compile(r" +((?:\x1b\[0m)?)$", re.MULTILINE)


def stdout() -> Console:
    """Console for results; wide if it is not a terminal, so that nothing is cut."""
    plain = not sys.stdout.isatty()
    return EscapedConsole(highlight=False, soft_wrap=plain, width=_PLAIN_WIDTH if plain else None)


def stderr() -> Console:
    """Console for progress and errors."""
    return EscapedConsole(stderr=True, highlight=False, soft_wrap=True)


def show_progress(line: str) -> None:
    """Print a line of progress."""
    stderr().print(Text(escaped_block(line), style="dim"))


def show_json(value: Any) -> None:
    """Print a result as indented JSON."""
    sys.stdout.write(escaped_json(json.dumps(value, indent=1, ensure_ascii=False, default=str)) + "\n")


def show_json_line(value: Any) -> None:
    """Print one of many results as one line of JSON, at once."""
    sys.stdout.write(as_json_line(value) + "\n")
    sys.stdout.flush()


def as_json_line(value: Any) -> str:
    """The value as JSON on one line, without control characters."""
    return escaped_json(json.dumps(value, ensure_ascii=False, default=str))


def show_text(text: str) -> None:
    """Print a result that is text already; its line ends stay."""
    safe = escaped_block(text)
    sys.stdout.write(safe if safe.endswith("\n") else safe + "\n")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table of values that `printing.cell` formats.

    Ids and numbers stay in one piece, so that they can be copied: only prose wraps. Where even that does not
    fit, each row is one long line, which the terminal wraps.

    Args:
        title: Above the table; empty: none.
        columns: Names. One that ends in ``>`` is aligned right, one that ends in ``…`` holds prose.
        rows: One value a column.
    """
    texts = [[Text(_shown(value)) for value in row] for row in rows]
    headings = [Text(escaped_line(name.rstrip(_RIGHT + _PROSE))) for name in columns]
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.show_header = any(headings)
    for i, name in enumerate(columns):
        widest = max(text.cell_len for text in (headings[i], *(row[i] for row in texts)))
        prose = name.endswith(_PROSE)
        table.add_column(
            headings[i],
            justify="right" if name.endswith(_RIGHT) else "left",
            overflow="fold",
            no_wrap=not prose,
            min_width=min(widest, _NARROWEST_PROSE) if prose else widest,
        )
    for row in texts:
        table.add_row(*row)
    sys.stdout.write(_rendered(table))


def _shown(value: object) -> str:
    return moment(value) if isinstance(value, datetime) else cell(value)


def _rendered(table: Table) -> str:
    """The table as text, in colour on a terminal and without spaces at the ends of lines."""
    console = stdout()
    wanted = Measurement.get(console, console.options.update_width(_UNBOUNDED), table)
    if not console.is_terminal or view().wide or wanted.minimum > console.width:
        console.width = wanted.maximum
    with console.capture() as captured:
        console.print(table)
    return _PADDING.sub(r"\1", captured.get())


def show_error(error: PipelineError) -> None:
    """Print what failed in one line, and what to do in another if the error's class says it."""
    console = stderr()
    console.print(Text.assemble(("error: ", "bold red"), escaped_block(str(error))))
    advice = hint(error)
    if advice:
        console.print(Text.assemble(("hint: ", "bold"), advice))


def show_warning(line: str) -> None:
    """Print what the reader of a result must know about it."""
    stderr().print(Text.assemble(("warning: ", "bold yellow"), escaped_block(line)))


def hint(error: PipelineError) -> str:
    """The *Operator action* of the error's class, on one line; empty if it has none."""
    _, found, action = (type(error).__doc__ or "").partition(_OPERATOR)
    return " ".join(action.split()) if found else ""

"""Options of every command that prints tables: `--utc`, `--wide`, and `--watch` where it tells more."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from infra.cli.table_view import viewed
from infra.terminal import clear_screen

Utc = Annotated[bool, typer.Option("--utc", help="Show times in UTC as ISO 8601, which can be pasted.")]
Wide = Annotated[bool, typer.Option("--wide", help="Show each row on one line, however long.")]
Watch = Annotated[bool, typer.Option("--watch", help="Show it again every 2 s, until Ctrl-C.")]
WATCHED = frozenset({"status", "lag", "list", "devices", "tokens", "people", "history"})
WATCH_S = 2.0
_MARK = "__has_view_options__"

Command = Callable[..., Any]


def add_view_options(app: typer.Typer) -> None:
    """Give the options to every command of the application that can print JSON instead of tables."""
    for info in app.registered_commands:
        if info.callback is not None:
            name = info.name or info.callback.__name__
            info.callback = _with_options(info.callback, watched=name in WATCHED)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_view_options(group.typer_instance)


def _with_options(command: Command, *, watched: bool) -> Command:
    signature = inspect.signature(command, eval_str=True)
    if "as_json" not in signature.parameters or hasattr(command, _MARK):
        return command
    options = {"utc": Utc, "wide": Wide} | ({"watch": Watch} if watched else {})

    @wraps(command)
    def shown(*args: Any, utc: bool = False, wide: bool = False, watch: bool = False, **given: Any) -> None:
        with viewed(utc=utc, wide=wide):
            command(*args, **given)
            if watch:
                _repeat(lambda: command(*args, **given))

    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in options.items()
    ]
    own = signature.replace(parameters=[*signature.parameters.values(), *more])
    setattr(shown, "__signature__", own)  # noqa: B010  (mypy knows no such attribute of functions)
    shown.__annotations__ = {p.name: p.annotation for p in own.parameters.values()}
    setattr(shown, _MARK, True)
    return shown


def _repeat(show: Callable[[], object]) -> None:
    """Show again and again; Ctrl-C is the usual end, and no failure."""
    try:
        while True:
            time.sleep(WATCH_S)
            clear_screen()
            show()
    except KeyboardInterrupt:
        return

"""Builds the application: global options, every command family found in this folder."""

from __future__ import annotations

import importlib
import os
import pkgutil
import platform
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

import infra.cli
from infra.cli.console import show_error, show_text, show_warning
from infra.cli.view_options import add_view_options
from infra.settings import StackSettings, load_settings
from infra.terminal import guard_streams
from schemas.errors import PipelineError
from schemas.folder_access import guard_new_files


def _show_version(asked: bool) -> None:
    if asked:
        show_text(f"edgeloop {version('edgeloop')}, Python {platform.python_version()}")
        raise typer.Exit


StateDir = Annotated[
    Path | None, typer.Option(help="Folder of everything the stack keeps.", show_default=False)
]
Broker = Annotated[
    str | None, typer.Option(help="host:port of an existing Kafka cluster.", show_default=False)
]
Version = Annotated[
    bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
]
Namespace = Annotated[str | None, typer.Option(help="Prefix of topics and groups.", show_default=False)]


@dataclass(frozen=True)
class Session:
    """The values of the global options."""

    given: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, **given: Any) -> StackSettings:
        """Settings in force: the command's own options, then the global ones, then the environment.

        What the command writes from now on is closed to others, as the settings say.

        Raises:
            StackError: A value does not fit, or an ``EDGELOOP_*`` variable is unknown.
            OperatorError: There is no group of that name.
        """
        own = {name: value for name, value in given.items() if value is not None}
        found = load_settings(os.environ, **{**self.given, **own})
        guard_new_files(found.state_dir, found.data_group)
        return found


def session(ctx: typer.Context) -> Session:
    """The session of a command."""
    found = ctx.find_object(Session)
    return found if found is not None else Session()


def build_app() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="edgeloop",
        help="Sensors to queryable rows: run the pipeline, inspect it, query it.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_globals)
    for found in sorted(pkgutil.iter_modules(infra.cli.__path__), key=lambda m: m.name):
        module = importlib.import_module(f"infra.cli.{found.name}")
        register = getattr(module, "register", None)
        if register is not None:
            register(app)
    add_view_options(app)
    return app


def _globals(
    ctx: typer.Context,
    state_dir: StateDir = None,
    broker: Broker = None,
    namespace: Namespace = None,
    show_version: Version = False,
) -> None:
    del show_version  # its callback has ended the command
    ctx.obj = Session({"state_dir": state_dir, "broker": broker, "namespace": namespace})


def warn_of_troubles(settings: StackSettings) -> None:
    """Name the processes that keep the stack from doing what a command has asked for."""
    from infra.stack.stack_file import stack_troubles

    for line in stack_troubles(settings.state_dir):
        show_warning(line)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C within a query into ``KeyboardInterrupt``: DuckDB raises a ``RuntimeError`` for it."""
    try:
        yield
    except RuntimeError as exc:
        if str(exc) != "Query interrupted":
            raise
        raise KeyboardInterrupt from exc


def main() -> None:
    """Run the command that the arguments name; exit code 0 done, 1 failed, 2 misuse."""
    # A script's `edgeloop … &` inherits SIGINT ignored, and Python then leaves it so. The devices and workers
    # that a command starts all end on SIGINT, so the command must too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    guard_streams()
    try:
        with interruptible():
            build_app()(prog_name="edgeloop")
    except KeyboardInterrupt:
        sys.exit(1)
    except PipelineError as exc:
        show_error(exc)
        sys.exit(1)

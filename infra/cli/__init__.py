"""The `edgeloop` command line.

One module per command family. To add one, put a module into this folder with a function
``register(app: typer.Typer) -> None`` that adds its commands; it is found by being here. A command takes
``ctx: typer.Context`` first, gets settings by ``session(ctx).settings()``, shows results through
``infra.cli.console`` and formats their values by ``infra.printing``. It lets ``PipelineError`` pass: `main`
turns it into one line and exit code 1. Exit codes: 0 done, 1 failed, 2 misuse. Commands import what is heavy
inside their functions, so that `edgeloop --help` starts quickly.
"""

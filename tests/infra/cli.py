"""Runs the command line in its own state folder: in a process, as a user does, or in the test's process."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.cli.app import main


@dataclass(frozen=True)
class Edgeloop:
    """The installed command with one state folder."""

    state_dir: Path

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "infra", *arguments],
            env=self.environment(variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The command's environment: the test's, without the project's settings."""
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("EDGELOOP_", "EDGE_", "STREAM_"))
        }
        return {**inherited, "EDGELOOP_STATE_DIR": str(self.state_dir), **variables}

    def json(self, *arguments: str, **variables: str) -> Any:
        """Parsed output of a command that must succeed."""
        result = self(*arguments, "--json", **variables)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)


class EdgeloopHere(Edgeloop):
    """The same ``main`` within the test's process, which saves the start of an interpreter."""

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        out, err, code = io.StringIO(), io.StringIO(), 0
        with (
            _as_the_command(arguments, self.environment(variables)),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as exc:
                code = exc.code or 0
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@contextmanager
def _as_the_command(arguments: tuple[str, ...], environment: Mapping[str, str]) -> Iterator[None]:
    """Give the process a command's arguments, environment and signal handler; then restore the test's."""
    environ, argv, interrupt = dict(os.environ), sys.argv, signal.getsignal(signal.SIGINT)
    try:
        sys.argv = ["edgeloop", *arguments]
        _set(environment)
        yield
    finally:
        sys.argv = argv
        _set(environ)
        signal.signal(signal.SIGINT, interrupt)


def _set(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)

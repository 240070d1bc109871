"""Runs the command line as a user does: in a process of its own, in a state folder of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Edgeloop:
    """The installed command with one state folder."""

    state_dir: Path

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("EDGELOOP_", "EDGE_", "STREAM_"))
        }
        env = {**inherited, "EDGELOOP_STATE_DIR": str(self.state_dir), **variables}
        return subprocess.run(
            [sys.executable, "-m", "infra", *arguments],
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def json(self, *arguments: str, **variables: str) -> Any:
        """Parsed output of a command that must succeed."""
        result = self(*arguments, "--json", **variables)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

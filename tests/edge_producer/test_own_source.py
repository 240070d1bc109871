"""The source in docs/sources.md is installed and run as the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge_producer.settings import EdgeSettings
from edge_producer.sources import open_source
from edge_producer.status_file import read_status
from schemas.errors import SourceError
from tests.edge_producer.source_rigs import profile
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
PROFILE = """
name = "computer"
drift = { window_s = 300.0 }
channels = [{ name = "load", unit = "1", min = 0, max = 10000 }]
features = { set = "computer", compute = [{ channel = "load", kinds = ["mean"] }] }
sampling = { rate_hz = 20.0, window_samples = 2, hop_samples = 2 }
"""


def block(kind: str) -> str:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0]


@pytest.fixture
def installed(tmp_path) -> Path:
    """A folder into which pip has installed the page's package."""
    package, folder = tmp_path / "load-average", tmp_path / "installed"
    package.mkdir()
    (package / "load_average.py").write_text(block("python"))
    (package / "pyproject.toml").write_text(block("toml"))
    argv = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([sys.executable, *argv, "--target", folder, package], check=True)
    return folder


def test_the_source_of_the_page_is_installed_found_and_sensed(installed, tmp_path):
    (tmp_path / "load.toml").write_text(PROFILE)
    argv = [
        sys.executable,
        "-m",
        "edge_producer",
        "run",
        "--source",
        "load://0.02",
        "--devices",
        "this-computer",
    ]
    more = ["--profile", str(tmp_path / "load.toml"), "--state-dir", str(tmp_path / "edge")]
    ways = [str(installed), str(ROOT), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [*argv, *more, "--bootstrap-servers", "127.0.0.1:1", "--stop-timeout-s", "0.1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(ways)},
        stderr=subprocess.PIPE,
    )

    def source(name: str) -> int:
        return (read_status(tmp_path / "edge" / "status.json") or {}).get("source", {}).get(name, 0)

    try:
        wait_until(
            lambda: process.poll() is not None or source("in_windows") >= 4, 60, "windows of its samples"
        )
        assert process.poll() is None, process.communicate()[1].decode()
        assert source("reads") >= 4
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("module", "packages", "code", "message"),
    [
        ("own_lacks_it", 1, "", "cannot be loaded: AttributeError"),
        ("own_raises", 1, "1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("own_is_there_twice", 2, "Source = None", "in several packages: own0, own1"),
    ],
)
def test_a_source_that_cannot_be_had_says_why(tmp_path, monkeypatch, module, packages, code, message):
    (tmp_path / f"{module}.py").write_text(code)
    for number in range(packages):
        made = tmp_path / f"own{number}-0.1.0.dist-info"
        made.mkdir()
        (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: own{number}\nVersion: 0.1.0\n")
        (made / "entry_points.txt").write_text(f"[edgeloop.sources]\nown = {module}:Source\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = EdgeSettings(state_dir=tmp_path, profile="plant", devices=("d1",), source="own")
    with pytest.raises(SourceError, match=message):
        open_source(settings, profile(), ("d1",))

"""The notebook of the examples: each cell runs on a lake, and shows what its text promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.feature_store.fleets import alerts, land, machine_lake, telemetry
from tests.feature_store.lakes import T0

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "look_at_the_lake.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def test_what_is_stored_is_the_notebook_and_no_results_of_somebody():
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert len(code) >= 5
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)


@pytest.fixture
def folder(tmp_path):
    """A state folder with two devices' rows, one of which was sent for each ten that were sensed."""
    rows = telemetry(
        device_id=["m-1", "m-1", "m-2"], event_time=[T0] * 3, score=[0.1, 0.9, 0.2],
        inclusion_probability=[0.1, 1.0, 1.0], seq=[1, 2, 1], _offset=[1, 2, 3],
    )  # fmt: skip
    land(machine_lake(tmp_path / "lake"), telemetry=rows, alerts=alerts(device_id=["m-1"], event_time=[T0]))
    return tmp_path


def test_every_cell_runs(folder):
    pytest.importorskip("pandas", reason="the extra [notebook] is not installed")
    pytest.importorskip("polars", reason="the extra [notebook] is not installed")
    program = "\n".join(source(cell) for cell in CELLS if cell["cell_type"] == "code")
    program += "\nprint(rows.height, round(means.weighted[0], 3), round(means.plain[0], 3))"
    environment = {**os.environ, "EDGELOOP_STATE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "0.173", "0.5"]

"""The real recordings beside the checkout, where there are any."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "data"
NAB = "nab/data/machine_temperature_system_failure.csv"
UR3 = "ur3_cobotops/dataset_02052023.csv"
I94 = "i94_traffic/Metro_Interstate_Traffic_Volume.csv"


def recording(name: str) -> Path:
    """Path of a recording; skips the test where it is absent."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"needs the real recording {name} in ../shared/data, which a plain clone does not have")
    return path

"""A user's code for configurations as pip leaves it: a module, and a distribution with entry points."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

NAME = "green_plan"
POINTS = """[edgeloop.configs]
green = green_plan:plan
[edgeloop.config_gates]
green_gate = green_plan:gate
[edgeloop.config_judges]
green_judge = green_plan:judge
"""
SOURCE = '''
"""Greens that follow the mean vibration of the group, and offsets by device."""
from pathlib import Path

import pyarrow.compute as pc

from model_service.rollout.config_evidence import ConfigFinding
from model_service.training.config_interface import ComputedConfig, ConfigGateResult

HARM = Path(__file__).with_name("harm.txt")


def plan(inputs):
    mean = pc.mean(inputs.rows().column("vibration_rms")).as_py()
    offsets = {device: float(n) for n, device in enumerate(sorted(inputs.devices))}
    return ComputedConfig({"green_s": [round(mean, 3), 30.0], "offset_s": offsets})


def gate(inputs, parameters):
    passed = parameters["green_s"][0] < 50
    return ConfigGateResult(passed, "the first green is below 50 s", parameters["green_s"][0], 50.0)


def judge(evidence):
    harm = HARM.read_text() if HARM.is_file() else ""
    return ConfigFinding(harm=harm, text="delay as before", units=len(evidence.treated))
'''


def install_plug_ins(folder: Path, monkeypatch, source: str = SOURCE):
    """Install the module for the rest of the test; returns it."""
    folder.mkdir(exist_ok=True)
    (folder / f"{NAME}.py").write_text(source)
    distribution = folder / f"{NAME}-0.1.0.dist-info"
    distribution.mkdir(exist_ok=True)
    (distribution / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 0.1.0\n")
    (distribution / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    return importlib.import_module(NAME)


def rewrite(module, more: str) -> None:
    """Have the module's file end with more code: children that start from now on see it."""
    path = Path(module.__file__)
    path.write_text(f"{path.read_text()}\n{more}\n")

"""Laws of users' trainers: docs/writing-a-trainer.md holds, and what breaks its rules is named."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import update

from model_service.detectors.user_trainer import detector_kinds
from model_service.registry.bundle_store import read_artifact
from model_service.registry.registry_tables import candidates, gate_verdicts
from schemas.errors import DatasetError
from tests.model_service.test_detectors import rows
from tests.model_service.test_first_model_line import OWN, FirstModelRig

ROOT = Path(__file__).parents[2]
EXAMPLE, PAGE = ROOT / "examples" / "states_trainer", ROOT / "docs" / "writing-a-trainer.md"
NAMED = OWN.training.model_copy(update={"trainer": "states"})
PROFILE = OWN.model_copy(update={"training": NAMED})


@contextmanager
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str = ""):
    """The example's wheel, built and installed; its module replaced by ``source``, if there is one."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=EXAMPLE, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "site")
    if source:
        (folder / "site" / "states_trainer.py").write_text(source)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(folder / "site"))
        yield


def test_the_page_prints_the_example_as_it_is():
    page = PAGE.read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert code == (EXAMPLE / "states_trainer.py").read_text()
    assert (EXAMPLE / "pyproject.toml").read_text() in page


def test_a_profile_that_names_a_trainer_gets_its_models_from_it_retrained_ones_too(tmp_path, monkeypatch):
    with installed(tmp_path, monkeypatch):
        rig = FirstModelRig(tmp_path, devices=2, profile=PROFILE)
        for major in (1, 2):
            run = rig.train()
            assert run["state"] == "trained", run["detail"]
            rig.gate.step()
            verdicts = rig.rows(gate_verdicts)
            assert {v["gate"]: v["detail"]["says"] for v in verdicts if not v["passed"]} == {}
            candidate = rig.rows(candidates)[-1]
            bundle = read_artifact(rig.settings.artifacts, candidate["sha256"])
            assert (candidate["major"], candidate["state"]) == (major, "signed")
            assert bundle.manifest.detector == "trainer:states"
            with rig.registry.transaction() as connection:
                connection.execute(update(candidates).values(state="published"))
        rig.registry.close()


MADE = "import onnx\nclass StatesTrainer:\n    def fit(self, given):\n        "
BROKEN = [
    pytest.param("raise ValueError('no such pump')", "ValueError: no such pump", id="raises"),
    pytest.param("import os; print('bye'); os._exit(3)", "its process ended: exit code 3", id="ends"),
    pytest.param("return b'nothing'", "the graph of trainer states: .*ONNX", id="no-graph"),
]


@pytest.mark.parametrize(("body", "why"), BROKEN)
def test_a_trainer_that_fails_takes_nothing_with_it_and_its_run_says_why(tmp_path, monkeypatch, body, why):
    with (
        installed(tmp_path, monkeypatch, MADE + body),
        detector_kinds(PROFILE, 1) as [kind],
        pytest.raises(DatasetError, match=why),
    ):
        kind.fit(rows(60), [False] * 4, {})


def test_a_trainer_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(DatasetError, match="'states', which is not installed here"):
        FirstModelRig(tmp_path, profile=PROFILE)

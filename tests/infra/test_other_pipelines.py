"""A backup goes back to the pipeline that it was taken of, and to another one only if a person says so."""

import pytest

from feature_store.worker_keys import WorkerKeys
from infra.backup.pipeline_marks import pipeline_marks
from infra.backup.state_copy import REPLACED
from tests.infra.cli import EdgeloopHere
from tests.simulators.line import make_lake


def pipeline(folder):
    """The state folder of a pipeline in which nothing has landed yet, and its command."""
    lake = make_lake(folder / "lake")
    WorkerKeys(lake.root).signer("worker")
    return EdgeloopHere(folder)


def restore(edgeloop, backup, *options):
    return edgeloop("restore", str(backup), "--none-revoked", *options)


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_backup_of_another_pipeline_is_refused_untouched_and_the_option_that_forces_it_is_named(tmp_path):
    mine, other = pipeline(tmp_path / "mine"), pipeline(tmp_path / "other")
    assert mine("backup", str(tmp_path / "saved")).returncode == 0
    before = content(other.state_dir)
    refused = restore(other, tmp_path / "saved")
    assert refused.returncode == 1
    assert "another pipeline" in refused.stderr
    assert "--other-pipeline" in refused.stderr
    assert {p: b for p, b in content(other.state_dir).items() if p.name != "stack.lock"} == before
    assert restore(other, tmp_path / "saved", "--other-pipeline").returncode == 0
    assert pipeline_marks(other.state_dir) == pipeline_marks(mine.state_dir)


@pytest.mark.parametrize("damage", ["none", "no tables", "no keys", "nothing"])
def test_a_pipeline_takes_its_own_backup_whatever_is_left_of_it(tmp_path, damage):
    mine = pipeline(tmp_path / "mine")
    assert mine("backup", str(tmp_path / "saved")).returncode == 0
    for path in sorted(mine.state_dir.rglob("*"), reverse=True):
        is_key, is_log = "_workers" in path.parts, "_delta_log" in path.parts
        if {"none": False, "no tables": is_log, "no keys": is_key, "nothing": True}[
            damage
        ] and path.is_file():
            path.write_text("{]")
    done = restore(mine, tmp_path / "saved")
    assert done.returncode == 0, done.stderr
    assert any(p.name.startswith(REPLACED) for p in mine.state_dir.iterdir())


def test_a_backup_may_go_into_an_empty_folder(tmp_path):
    mine = pipeline(tmp_path / "mine")
    assert mine("backup", str(tmp_path / "saved")).returncode == 0
    fresh = EdgeloopHere(tmp_path / "fresh")
    assert restore(fresh, tmp_path / "saved").returncode == 0
    assert pipeline_marks(fresh.state_dir) == pipeline_marks(mine.state_dir) != frozenset()

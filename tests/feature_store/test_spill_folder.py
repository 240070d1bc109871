"""Laws of folders for queries larger than memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from feature_store.spill_folder import PREFIX, remove_abandoned, spill_folder

HOLDER = """
import sys
from feature_store.spill_folder import spill_folder
print(spill_folder(), flush=True)
sys.stdin.read()
"""


def holder(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that has a folder under this one, until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={"TMPDIR": str(folder), "PYTHONPATH": ":".join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_only_folders_of_processes_that_have_ended_are_removed(tmp_path):
    (tmp_path / f"{PREFIX}unclaimed").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "owner.lock").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(elsewhere)
    killed, left = holder(tmp_path)
    living, used = holder(tmp_path)
    killed.kill()
    killed.communicate()
    assert left.is_dir()
    assert remove_abandoned(tmp_path) == [left]
    assert used.is_dir()
    killed, left = holder(tmp_path)
    killed.kill()
    killed.communicate()
    third, own = holder(tmp_path)  # the next process does it by itself
    assert not left.exists()
    for process in (living, third):
        process.communicate("")
        assert process.returncode == 0
    assert not used.exists()
    assert not own.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{PREFIX}link",
        f"{PREFIX}unclaimed",
        "elsewhere",
    ]
    assert (elsewhere / "owner.lock").exists()


def test_a_process_has_one_folder_which_is_its_owners_alone():
    folder = spill_folder()
    assert folder == spill_folder()
    assert folder.parent == Path(tempfile.gettempdir())
    assert folder.stat().st_mode & 0o077 == 0

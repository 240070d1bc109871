"""Who may read a state folder: its owner, and one group if an operator names it; keys their owner alone."""

import grp
import os
import re
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from schemas import folder_access
from schemas.durable import DISK
from schemas.errors import OperatorError
from schemas.folder_access import guard_folder, guard_new_files
from tests.test_house import ROOT, sources


@pytest.fixture(autouse=True)
def open_umask():
    """As in a careless shell: whatever is made is open to everybody."""
    previous = os.umask(0)
    yield
    os.umask(previous)


@pytest.fixture
def group() -> str:
    """A group that this user may give files to, other than that of new files."""
    own = {*os.getgroups()} if os.geteuid() else {g.gr_gid for g in grp.getgrall()}
    others = sorted(own - {os.getegid()})
    if not others:
        pytest.skip("this user is in one group only")
    return grp.getgrgid(others[0]).gr_name


def state_of_0_2_0(folder: Path) -> Path:
    """A folder as release 0.2.0 left it: data open to everybody, keys to their owner."""
    for name in (".", "lake", "lake/telemetry", "models", "models/pki"):
        (folder / name).mkdir(mode=0o755, parents=True, exist_ok=True)
    (folder / "keys").mkdir(mode=0o700)
    for name in ("lake/telemetry/a.parquet", "spool.db", "spool.db-wal", "status.json", "models/pki/ca.pem"):
        (folder / name).touch(mode=0o644)
    for name in ("keys/m-1.pem", "keys/m-1.secret", "models/pki/ca.key"):
        (folder / name).touch(mode=0o600)
    return folder


def modes(folder: Path, kind=Path.is_file) -> dict[str, str]:
    everything = [folder, *folder.rglob("*")]
    return {str(p.relative_to(folder)): f"{stat.S_IMODE(p.stat().st_mode):o}" for p in everything if kind(p)}


def test_a_folder_of_0_2_0_is_closed_to_everybody_but_its_owner(tmp_path):
    folder = state_of_0_2_0(tmp_path / "state")
    guard_folder(folder, None)
    assert set(modes(folder).values()) == {"600"}
    assert set(modes(folder, Path.is_dir).values()) == {"700"}


def test_a_group_reads_the_data_and_no_key(tmp_path, group):
    folder = state_of_0_2_0(tmp_path / "state")
    guard_folder(folder, group)
    found = modes(folder)
    assert {found.pop(k) for k in ("keys/m-1.pem", "keys/m-1.secret", "models/pki/ca.key")} == {"600"}
    assert set(found.values()) == {"640"}
    folders = modes(folder, Path.is_dir)
    assert folders.pop("keys") == "700"
    assert folders.pop("models/pki") in ("750", "2750")
    assert set(folders.values()) == {"2750"}
    data = [p for p in folder.rglob("*") if not {"keys", "pki"} & {*p.parts}]
    assert {p.stat().st_gid for p in data} == {grp.getgrnam(group).gr_gid}


def test_a_group_that_is_named_later_reads_what_was_closed_and_one_that_is_taken_away_no_more(
    tmp_path, group
):
    folder = state_of_0_2_0(tmp_path / "state")
    guard_folder(folder, None)
    guard_folder(folder, group)
    assert modes(folder)["spool.db"] == "640"
    assert modes(folder)["keys/m-1.secret"] == "600"
    guard_folder(folder, "")
    assert set(modes(folder).values()) == {"600"}
    assert set(modes(folder, Path.is_dir).values()) == {"700"}


def test_a_process_that_is_told_nothing_does_as_the_folder_says(tmp_path, group):
    folder = tmp_path / "state"
    guard_folder(folder, group)
    os.umask(0)
    guard_folder(folder, None)
    (folder / "new").write_text("data")
    (folder / "below").mkdir()
    (folder / "below" / "new").write_text("data")
    assert modes(folder) == {"new": "640", "below/new": "640"}
    assert set(modes(folder, Path.is_dir).values()) == {"2750"}
    assert (folder / "below" / "new").stat().st_gid == grp.getgrnam(group).gr_gid


@pytest.mark.parametrize("named", [None, ""])
def test_whatever_writes_into_a_new_folder_writes_for_its_owner_alone(tmp_path, named):
    folder = tmp_path / "state"
    guard_folder(folder, named)
    with closing(sqlite3.connect(folder / "spool.db")) as database:
        database.execute("PRAGMA journal_mode = wal")
        database.execute("CREATE TABLE t (x)")
        program = "import sys; open(sys.argv[1], 'w').close()"
        subprocess.run([sys.executable, "-c", program, str(folder / "of-a-child")], check=True)
        DISK.write(folder / "a" / "b.json", b"{}")
        assert modes(folder) == dict.fromkeys(
            ["spool.db", "spool.db-wal", "spool.db-shm", "of-a-child", "a/b.json"], "600"
        )
    assert set(modes(folder, Path.is_dir).values()) == {"700"}


def test_a_write_ahead_log_has_the_mode_of_its_database(tmp_path, group):
    folder = tmp_path / "state"
    guard_folder(folder, group)
    with closing(sqlite3.connect(folder / "spool.db")) as database:
        database.execute("PRAGMA journal_mode = wal")
        database.execute("CREATE TABLE t (x)")
        assert set(modes(folder).values()) == {"640"}


def test_links_are_not_followed_out_of_the_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("another's")
    outside.chmod(0o644)
    folder = state_of_0_2_0(tmp_path / "state")
    (folder / "link").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    guard_folder(folder, None)
    assert f"{stat.S_IMODE(outside.stat().st_mode):o}" == "644"


def test_what_was_closed_once_is_not_looked_through_again(tmp_path):
    folder = state_of_0_2_0(tmp_path / "state")
    guard_folder(folder, None)
    (folder / "spool.db").chmod(0o644)
    guard_folder(folder, None)
    assert modes(folder)["spool.db"] == "644"  # nobody else gets as far: the folder is closed
    assert modes(folder, Path.is_dir)["."] == "700"


def test_a_group_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(OperatorError, match="there is no group 'no-such-group'"):
        guard_new_files(tmp_path, "no-such-group")


def test_every_process_guards_its_folder_before_it_writes():
    starts = [p for p in sources() if "log_to_stderr()" in p.read_text() and p.name != "log_lines.py"]
    assert len(starts) == 5
    for path in starts:
        program = "infra/stack/stack.py" if path.name == "supervisor.py" else path
        assert "guard_folder(" in (ROOT / program).read_text(), path


def test_no_other_module_sets_the_umask():
    doing = re.compile(r"\bos\.umask\b")
    assert [p.name for p in sources() if doing.search(p.read_text())] == [Path(folder_access.__file__).name]


def test_no_module_uses_a_fixed_name_under_a_folder_that_everybody_may_write():
    fixed = re.compile(r"gettempdir|[\"'(]/(var/)?tmp\b|[\"'(]/dev/shm\b|mktemp\(|\babstract\b")
    assert [f"{p.name}: {m[0]}" for p in sources() if (m := fixed.search(p.read_text()))] == []


def test_a_disk_that_cannot_be_written_ends_no_process(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way of a folder")
    guard_folder(tmp_path / "file" / "state", None)
    assert "cannot close" in caplog.text

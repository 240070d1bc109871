"""One contract of durable files, over the real disk, one that loses its power and one that is full.

A *step* is what ``LossyDisk`` counts: a sync, a rename, a link, a removal.
"""

import errno
import os
import re
import resource
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from schemas import durable
from schemas.durable import ABANDONED_S, DISK, Disk, is_temporary, temporary
from tests.simulators.lossy_disk import LossyDisk, PowerCut

OLD, NEW = b"old" * 1000, b"new" * 1000
NAME = "state.json"


def left_overs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if is_temporary(path))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=["real", "lossy"])
def disk(request, tmp_path):
    if request.param == "real":
        yield DISK
        return
    lossy = LossyDisk(tmp_path / "device")
    yield lossy
    lossy.close()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "device").mkdir(exist_ok=True)
    return tmp_path / "device"


def test_no_other_module_syncs_links_or_creates_exclusively():
    home = Path(durable.__file__)
    doing = re.compile(r"\bos\.(fsync|fdatasync|link|replace|rename|O_EXCL)\b|\btempfile\.(mk|Named)")
    rooms = ("schemas", "feature_store", "edge_producer", "stream_processors", "model_service", "infra")
    found = {
        path.name for room in rooms for path in (home.parent.parent / room).rglob("*.py")
        if doing.search(path.read_text())
    }  # fmt: skip
    assert found == {home.name, "private_sockets.py"}  # a folder of sockets holds no file that must last


# what a call does


def test_a_write_creates_and_replaces_and_leaves_nothing_beside(disk, root):
    for data in (OLD, NEW, b""):
        disk.write(root / NAME, data)
        assert disk.read(root / NAME) == data
    assert names(root) == [NAME]


def test_what_is_not_there_reads_as_none(disk, root):
    assert disk.read(root / NAME) is None


def test_put_if_absent_creates_once_and_never_replaces(disk, root):
    assert disk.put_if_absent(root / NAME, OLD)
    assert not disk.put_if_absent(root / NAME, NEW)
    assert disk.read(root / NAME) == OLD
    assert names(root) == [NAME]


@pytest.mark.parametrize("call", ["write", "put_if_absent"])
def test_a_folder_that_is_absent_is_made(disk, root, call):
    getattr(disk, call)(root / "a" / "b" / NAME, NEW)
    assert disk.read(root / "a" / "b" / NAME) == NEW


def test_a_name_of_any_length_can_be_written(disk, root):
    longest = root / ("n" * 250 + ".json")
    disk.write(longest, NEW)
    assert disk.read(longest) == NEW


def test_a_folder_is_replaced_as_a_whole(disk, root):
    disk.write_folder(root / "slot", {"m/one": OLD, "m/two": OLD})
    disk.write_folder(root / "slot", {"m/one": NEW})
    assert sorted(p.name for p in (root / "slot" / "m").iterdir()) == ["one"]
    assert disk.read(root / "slot" / "m" / "one") == NEW
    assert names(root) == ["slot"]


# power cuts


def replaced(disk: Disk, root: Path) -> None:
    disk.write(root / NAME, NEW)


def replaced_unsynced(disk: Disk, root: Path) -> None:
    disk.write(root / NAME, NEW, sync=False)


def put(disk: Disk, root: Path) -> None:
    disk.put_if_absent(root / "deep" / "er" / NAME, NEW)


def put_folder(disk: Disk, root: Path) -> None:
    disk.write_folder(root / "slots" / "new", {"m/one": NEW, "m/two": NEW})


def cut_at_each_step(tmp_path, work, *, names_stay: bool):
    """The disk after a power cut before each step of the work in turn, and at last after all of it."""
    step, whole = 0, False
    while not whole:
        step += 1
        root = tmp_path / f"device-{step}"
        root.mkdir()
        (root / NAME).write_bytes(OLD)
        disk = LossyDisk(root, die_before=step)
        try:
            work(disk, root)
            whole = True
        except PowerCut:
            pass
        disk.power_cut(names_stay=names_stay)
        yield disk, whole
        disk.close()


early_names = pytest.mark.parametrize("names_stay", [False, True])


@early_names
def test_a_power_cut_at_any_step_leaves_the_old_content_or_the_new(tmp_path, names_stay):
    seen = []
    for disk, whole in cut_at_each_step(tmp_path, replaced, names_stay=names_stay):
        seen.append(disk.read(disk.root / NAME))
        assert not whole or seen[-1] == NEW
    assert set(seen) == {OLD, NEW}
    assert len(seen) == 4  # before the file's sync, the rename, the folder's sync; and after all


@early_names
def test_a_power_cut_at_any_step_of_a_put_leaves_nothing_or_all(tmp_path, names_stay):
    for disk, whole in cut_at_each_step(tmp_path, put, names_stay=names_stay):
        path = disk.root / "deep" / "er" / NAME
        found = disk.read(path)
        assert found == NEW if whole else found in (None, NEW)
        assert disk.put_if_absent(path, OLD) == (found is None)
        disk.power_cut()
        assert disk.read(path) == (found or OLD)


@early_names
def test_a_power_cut_at_any_step_leaves_a_whole_folder_or_none(tmp_path, names_stay):
    for disk, whole in cut_at_each_step(tmp_path, put_folder, names_stay=names_stay):
        folder = disk.root / "slots" / "new"
        found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert found == {"m/one": NEW, "m/two": NEW} or (not whole and not folder.exists())


def test_what_need_not_last_waits_for_no_disk(tmp_path):
    disk = LossyDisk(tmp_path / "device")
    replaced_unsynced(disk, disk.root)
    assert disk.steps == 1  # the rename
    assert disk.read(disk.root / NAME) == NEW
    disk.close()


# left-overs


@early_names
def test_a_left_over_blocks_no_writer_and_goes_with_the_sweep(tmp_path, names_stay):
    left = 0
    for disk, _ in cut_at_each_step(tmp_path, replaced, names_stay=names_stay):
        left += len(left_overs(disk.root))
        disk.write(disk.root / NAME, b"later")
        assert list(disk.root.glob("*.json")) == [disk.root / NAME], "a left-over is taken for content"
        disk.sweep(disk.root)
        assert names(disk.root) == [NAME]
        assert disk.read(disk.root / NAME) == b"later"
    assert left == (2 if names_stay else 0)


def test_two_writers_of_one_name_never_share_a_temporary_one():
    assert temporary(Path("a")) != temporary(Path("a"))


def test_a_sweep_spares_content_and_what_may_still_have_a_writer(root):
    old, young = temporary(root / "old"), temporary(root / "young")
    for path in (old, young, root / NAME, root / "x.new"):
        path.write_bytes(NEW)
    now = young.stat().st_mtime
    os.utime(old, (now - ABANDONED_S - 1,) * 2)
    DISK.sweep(root, now - ABANDONED_S)
    assert {p.name for p in root.iterdir()} == {young.name, NAME, "x.new"}
    DISK.sweep(root, now + 1, also=("*.new",))
    assert names(root) == [NAME]


def test_a_sweep_goes_below_only_when_it_is_told_to(root):
    inner = temporary(root / "a" / "x")
    DISK.write_folder(root / "a" / "b", {"c": NEW})
    inner.mkdir()
    (inner / "half").write_bytes(NEW)
    DISK.sweep(root)
    assert left_overs(root) == [inner]
    DISK.sweep(root, deep=True)
    assert [p.name for p in root.rglob("*")] == ["a", "b", "c"]
    DISK.sweep(root / "absent", deep=True)


# races


def test_of_racing_puts_exactly_one_wins_and_its_content_stays(root):
    writers, names = 8, 25
    together = Barrier(writers)

    def race(writer: int) -> list[bool]:
        together.wait()
        return [DISK.put_if_absent(root / str(n), b"%d" % writer) for n in range(names)]

    with ThreadPoolExecutor(writers) as pool:
        won = list(pool.map(race, range(writers)))
    for n in range(names):
        assert [w[n] for w in won].count(True) == 1
        assert won[int(DISK.read(root / str(n)))][n]
    assert not left_overs(root)


def test_racing_writes_leave_one_content_whole(root):
    writers = 8
    together = Barrier(writers)

    def race(writer: int) -> set[bytes]:
        together.wait()
        seen = set()
        for _ in range(25):
            DISK.write(root / NAME, b"%d" % writer * 5000)
            seen.add(DISK.read(root / NAME))
        return seen

    with ThreadPoolExecutor(writers) as pool:
        seen = set().union(*pool.map(race, range(writers)))
    assert seen <= {b"%d" % writer * 5000 for writer in range(writers)}
    assert names(root) == [NAME]


# secrets


class Spy(Disk):
    """Looks at the modes of all files of a folder at every step."""

    def __init__(self, root: Path) -> None:
        self.root, self.modes = root, set()

    def read(self) -> None:
        self.modes |= {mode(path) for path in self.root.rglob("*") if path.is_file()}

    def sync(self, handle: int, path: Path) -> None:
        self.read()
        super().sync(handle, path)

    def rename(self, source: Path, target: Path, *, sync: bool = True) -> None:
        self.read()
        super().rename(source, target, sync=sync)
        self.read()

    def link(self, source: Path, target: Path, *, sync: bool = True) -> None:
        super().link(source, target, sync=sync)
        self.read()


@pytest.fixture
def open_umask():
    previous = os.umask(0)
    yield
    os.umask(previous)


@pytest.mark.parametrize("call", ["write", "put_if_absent"])
@pytest.mark.usefixtures("open_umask")
def test_a_secret_is_never_readable_by_others_at_any_moment(root, call):
    disk = Spy(root)
    getattr(disk, call)(root / "key.pem", NEW, private=True)
    assert disk.modes == {0o600}
    assert mode(root / "key.pem") == 0o600


@pytest.mark.usefixtures("open_umask")
def test_a_file_that_was_open_to_all_is_private_once_a_secret_replaces_it(root):
    (root / "key.pem").write_bytes(OLD)
    DISK.write(root / "key.pem", NEW, private=True)
    assert mode(root / "key.pem") == 0o600


@pytest.mark.usefixtures("open_umask")
def test_a_private_folder_is_entered_by_its_owner_alone(root):
    DISK.make_folder(root / "a" / "keys", private=True)
    DISK.write(root / "a" / NAME, NEW)
    assert [mode(root / "a"), mode(root / "a" / "keys"), mode(root / "a" / NAME)] == [0o777, 0o700, 0o644]


# full disks


class Full(Disk):
    """Has no room for content, or for names: the files are there, and half written."""

    def __init__(self, at: str) -> None:
        self.at = at

    def _refuse(self, at: str) -> None:
        if at == self.at:
            raise OSError(errno.ENOSPC, "No space left on device")

    def sync(self, handle: int, path: Path) -> None:
        self._refuse("content")
        super().sync(handle, path)

    def rename(self, source: Path, target: Path, *, sync: bool = True) -> None:
        self._refuse("name")
        super().rename(source, target, sync=sync)

    def link(self, source: Path, target: Path, *, sync: bool = True) -> None:
        self._refuse("name")
        super().link(source, target, sync=sync)


@pytest.mark.parametrize("at", ["content", "name"])
def test_a_full_disk_leaves_the_old_content_and_nothing_beside(root, at):
    (root / NAME).write_bytes(OLD)
    for work in (replaced, put, put_folder):
        with pytest.raises(OSError, match="No space left"):
            work(Full(at), root)
    assert DISK.read(root / NAME) == OLD
    assert [p.name for p in root.rglob("*") if p.is_file()] == [NAME]


@pytest.fixture
def short_files():
    """The kernel ends every file at 64 KiB: a real write that stops half way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("short_files")
@pytest.mark.parametrize("call", ["write", "put_if_absent"])
def test_a_write_that_stops_half_way_leaves_the_old_content_and_nothing_beside(root, call):
    DISK.write(root / NAME, OLD)
    with pytest.raises(OSError, match="File too large"):
        getattr(DISK, call)(root / NAME, NEW * 100)
    assert DISK.read(root / NAME) == OLD
    assert names(root) == [NAME]

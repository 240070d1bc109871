"""Laws of room: what the spool's files take on the disk, not what their content adds up to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_producer.spool.eviction import Eviction
from edge_producer.spool.spool import Spool, SpoolAccess, read_books
from edge_producer.spool.spool_books import FORGET_PERIODS
from edge_producer.spool.spool_file import PAGE, reading
from edge_producer.spool.spool_housekeeping import HEADROOM, SpoolHousekeeping
from edge_producer.spool.spool_room import RESERVE_BYTES, RoomUse, SpoolRoom
from edge_producer.spool.spool_set_aside import set_aside
from edge_producer.spool.update_backlog import UpdateBacklog
from schemas.durable import DISK, Disk, DiskRoom
from schemas.errors import SpoolCrowdedError
from tests.edge_producer.spool_rig import SpoolRig, bench_profile

MB = 1024**2
NAMES = tuple(f"d-{n:02}" for n in range(10))


class SmallDisk(Disk):
    """A disk that holds one folder, and is as full as its files are large."""

    def __init__(self, folder, total):
        self.folder, self.total, self.others = folder, total, 0

    def taken(self):
        return sum(p.stat().st_size for p in self.folder.iterdir() if p.is_file())

    def room(self, folder):
        return DiskRoom(self.total, self.total - self.others - self.taken())


class Filling(SpoolRig):
    """Devices without a network, whose spool is kept within its room, turn by turn, as by the writer."""

    def __init__(self, folder, limit, reserve, disk, names=NAMES):
        super().__init__(folder, bench_profile(p=1.0, pretrigger=0), names)
        self.room = SpoolRoom(self.path, limit, reserve, disk)
        self.spool.close()
        access = SpoolAccess(wal_pages=self.room.wal_pages)
        self.spool = Spool.open(self.path, self.names, self.profile, self.now, access)
        eviction = Eviction(self.spool, self.profile, limit)
        self.housekeeping = SpoolHousekeeping(self.spool, self.room, eviction)
        self.backlog = UpdateBacklog()

    def turn(self, windows=5):
        """Returns the most that was taken at any step of it."""
        for name in self.names:
            self.sense([0.1] * windows, name)
            self.now -= windows
            self.k -= windows
        self.now += windows
        self.k += windows
        self.backlog.add(device.take_update() for device in self.devices.values())
        steps = []
        while self.backlog.updates:
            has_room = self.housekeeping.make_room(self.now)
            steps.append(self.room.use(self.spool))
            if not has_room:
                continue
            with self.housekeeping.transaction():
                for update in self.backlog.take(self.housekeeping.room_bytes, self.housekeeping.at_once):
                    self.spool.apply(update, self.now)
            steps.append(self.room.use(self.spool))
        return max(steps, key=lambda use: use.total)


def test_all_files_together_stay_below_the_limit_and_every_row_is_accounted_for(tmp_path):
    rig = Filling(tmp_path, MB, 0, DISK)
    totals = [rig.turn().total for _ in range(100)]
    assert 0.7 * MB < max(totals) <= MB
    assert rig.spool.left()[0] > 0
    assert sum(rig.books(n).evicted for n in NAMES) > 0
    for name in NAMES:
        assert rig.books(name).balanced
        assert rig.books(name).sensed == 500
    rig.close()


def test_what_waited_for_long_is_taken_in_whole_where_there_is_room_and_within_the_limit_where_not(tmp_path):
    rig = Filling(tmp_path, MB, 0, DISK, NAMES[:2])
    assert rig.turn(350).total <= MB
    assert [rig.books(n).evicted for n in rig.names] == [0, 0]
    assert rig.turn(1000).total <= MB
    assert [rig.books(n).sensed for n in rig.names] == [1350, 1350]
    assert all(rig.books(n).balanced and rig.books(n).evicted for n in rig.names)
    assert rig.spool.left()[0] > 900
    rig.close()


def test_the_reserve_of_the_disk_is_left_to_others(tmp_path):
    disk = SmallDisk(tmp_path, 2 * MB)
    rig = Filling(tmp_path, 100 * MB, MB, disk)
    least = min(disk.total - rig.turn().total for _ in range(100))
    assert MB <= least < 1.3 * MB
    assert rig.spool.left()[0] > 0
    rig.close()


def test_a_disk_that_somebody_else_fills_makes_the_spool_stop_growing_and_nothing_else(tmp_path):
    disk = SmallDisk(tmp_path, 100 * MB)
    rig = Filling(tmp_path, 100 * MB, MB, disk)
    for _ in range(40):
        rig.turn()
    for _ in range(2):  # the second time, the log has given back what it can
        disk.total = disk.taken() + MB // 2  # less than the reserve is left
        before = rig.room.use(rig.spool)
        after = [rig.turn() for _ in range(20)]
        assert max(use.total for use in after) <= before.total + HEADROOM
    assert max(use.file for use in after) <= before.file + HEADROOM
    assert rig.spool.left()[0] > 0
    rig.close()


def test_a_transaction_that_would_break_the_limit_does_not_hold(tmp_path):
    rig = Filling(tmp_path, MB, 0, DISK, NAMES[:1])
    rig.turn()
    before = (rig.books(NAMES[0]), rig.spool.file_bytes)
    rig.sense([0.1] * 5000, NAMES[0])
    with pytest.raises(SpoolCrowdedError, match="may take"), rig.housekeeping.transaction():
        rig.spool.apply(rig.devices[NAMES[0]].take_update(), rig.now)
    rig.close()
    assert (read_books(rig.path)[NAMES[0]], rig.path.stat().st_size) == before


@pytest.mark.parametrize(("free", "pages"), [(99 * MB, 2000), (40 * MB, 1248), (2 * MB, 32), (0, 25)])
def test_the_less_is_free_the_shorter_the_log(tmp_path, free, pages):
    disk = SmallDisk(tmp_path, 100 * MB)
    disk.others = 100 * MB - free
    assert SpoolRoom(tmp_path / "spool.db", 200 * MB, MB, disk).wal_pages == pages


def test_a_log_that_has_to_be_shorter_is_cut(tmp_path):
    rig = SpoolRig(tmp_path)
    log = rig.path.with_name("spool.db-wal")
    rig.sense([0.1] * 1000)
    rig.commit()
    length = log.stat().st_size
    rig.spool.bound_log(25)
    assert length > 2 * 25 * PAGE
    assert log.stat().st_size == 0
    rig.close()


def test_a_log_that_a_reader_needs_is_left_and_nobody_waits(tmp_path):
    rig = SpoolRig(tmp_path)
    log = rig.path.with_name("spool.db-wal")
    rig.sense([0.1] * 1000)
    rig.commit()
    with reading(rig.path) as reader:
        reader.execute("SELECT count(*) FROM rows").fetchone()
        began = rig.spool.commits
        rig.spool.bound_log(25)
        rig.commit()
        assert log.stat().st_size > 0
    assert rig.spool.commits == began + 1
    rig.spool.bound_log(25)
    assert log.stat().st_size == 0
    rig.close()


def test_copies_that_were_set_aside_count(tmp_path):
    rig = SpoolRig(tmp_path)
    room = SpoolRoom(rig.path, 10 * MB, 0, DISK)
    before = room.use(rig.spool)
    (tmp_path / "other.db").write_bytes(bytes(2 * MB))
    set_aside(tmp_path / "other.db", "test", stale=False)
    after = room.use(rig.spool)
    assert before.allowed - after.allowed >= 2 * MB
    assert after.total - before.total >= 2 * MB
    rig.close()


@pytest.mark.parametrize(("total", "reserve"), [(10**12, RESERVE_BYTES), (20 * MB, MB)])
def test_the_reserve_of_a_small_disk_is_a_small_one(tmp_path, total, reserve):
    rig = SpoolRig(tmp_path)
    assert SpoolRoom(rig.path, MB, None, SmallDisk(tmp_path, total)).use(rig.spool).reserve == reserve
    assert SpoolRoom(rig.path, MB, 5, SmallDisk(tmp_path, total)).use(rig.spool).reserve == 5
    rig.close()


sizes = st.integers(0, 10**9)


uses = st.builds(
    lambda used, free_pages, *rest: RoomUse(used, used + free_pages, *rest),
    *[sizes] * 6,
    st.one_of(st.none(), sizes),
    sizes,
)


@given(uses, sizes)
def test_what_is_allowed_never_breaks_the_limit_nor_the_reserve(use, payload):
    if use.allowed:
        most = use.limit if not use.aside else max(use.limit, use.limit // 2 + use.wal_limit + use.aside)
        assert use.allowed + use.wal_limit + use.aside <= most
        if use.free is not None and use.allowed > use.file:
            growth = use.allowed - use.file + max(use.wal_limit - use.wal, 0)
            assert use.free - growth >= use.reserve
    assert use.payload_limit(payload) >= 0
    if use.used > use.allowed:
        assert use.payload_limit(payload) <= payload
    assert use.left == max(use.allowed - use.used, 0)


def test_books_alone_cannot_fill_the_spool(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile(p=1.0))
    rig.sense([0.1] * 500)
    rig.flush()
    rig.evict(0)
    before = rig.books()
    (lines,) = rig.spool._connection.execute("SELECT count(*) FROM books").fetchone()
    assert lines <= FORGET_PERIODS + 2  # a row may still come for the newest
    assert (before.sensed, before.evicted, before.balanced) == (500, 500, True)
    assert rig.spool.counters()["lines_folded"] >= 48 - FORGET_PERIODS

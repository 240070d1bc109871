"""Laws of damaged spools: set aside, what can be read goes on, each row once, and the rest is counted."""

import os
import random
import shutil
import sqlite3
from contextlib import closing

import pytest

from edge_producer.device_identity import load_or_create
from edge_producer.spool.eviction import Eviction
from edge_producer.spool.spool import DeviceBooks, Spool, read_books
from edge_producer.spool.spool_file import reading
from edge_producer.spool.spool_housekeeping import SpoolHousekeeping
from edge_producer.spool.spool_keeper import SpoolKeeper, SpoolPlace
from edge_producer.spool.spool_reading import read_counters
from edge_producer.spool.spool_rows import ThinnedBlock
from edge_producer.spool.spool_set_aside import (
    KEPT,
    REPORTS_KEPT,
    AsideCopy,
    SalvageState,
    copies,
    finish,
    set_aside,
    trim,
)
from edge_producer.spool.spool_tallies import agree
from schemas.envelope import MessageVerifier, read_envelope
from schemas.row_schemas import BOOK_COUNTS
from tests.edge_producer.spool_rig import SpoolRig, bench_profile, statements, summary_rows
from tests.simulators.lossy_disk import LossyDisk, PowerCut

DEVICES = ("d-1", "d-2")
PAGE = 4096


class Clock:
    now = 10_000.0

    def __call__(self):
        return self.now


class Field:
    """Devices whose spool gets damaged: what they had sealed, what not, and what their keeper makes of it."""

    def __init__(self, folder, windows=400, sealed=200):
        self.rig = SpoolRig(folder, bench_profile(p=1.0), DEVICES)
        rig = self.rig
        for name in DEVICES:
            rig.sense([0.1, 0.9] * (sealed // 2), name)
        rig.commit()
        for _ in range(sealed // 40):
            rig.seal(limit=20)
        rig.seal(limit=10, messages=sealed // 20)  # many in one turn: they share a signature
        for name in DEVICES:
            rig.sense([0.1, 0.95] * ((windows - sealed) // 2), name)
        rig.commit()
        self.windows = windows
        self.messages = {(m.key, tuple(m.headers)): m for m in rig.sealed.values()}
        self.rows = self.unsealed(rig.spool)
        self.path = rig.path
        rig.close()

    @staticmethod
    def unsealed(spool):
        rows = [r for no in spool.names for r in spool.rows.read(no, -1.0, float("inf"), 10**6)]
        return {(r.boot_id, r.seq, r.features, r.q, r.decision) for r in rows}

    def checkpoint(self):
        """Bring everything into the database file, and drop the log."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def keeper(self, **given):
        keys = {n: load_or_create(self.path.parent / "keys", n) for n in DEVICES}
        verifiers = {n: MessageVerifier(k.public_pem.encode()) for n, k in keys.items()}
        place = SpoolPlace(self.path, DEVICES, self.rig.profile, **{"max_bytes": 256 * 1024**2, **given})
        self.clock = Clock()
        return SpoolKeeper(place, lambda: verifiers, self.clock)

    def after(self, **given):
        """The spool that a new start has, with all taken over that can be; and the keeper."""
        keeper = self.keeper(**given)
        assert keeper.open_first() is not None
        assert keeper.get() is not None
        keeper.salvage()
        return keeper

    def reopened(self, keeper):
        """The spool of a keeper that was closed, opened without its copies."""
        keeper.close()
        return Spool.open(self.path, DEVICES, self.rig.profile, self.clock())

    def check(self, keeper):
        """No content of another kind, nothing twice, books that balance; returns what came over."""
        spool = keeper.spool
        messages = [spool.messages.read(m.id) for m in spool.messages.stored()]
        found = [(m.key, tuple(m.headers)) for m in messages]
        assert len(set(found)) == len(found)
        assert all(self.messages[key] == m for key, m in zip(found, messages, strict=True))
        rows = self.unsealed(spool)
        assert rows <= self.rows
        assert len(rows) == spool.left()[0]
        for name, books in spool.totals().items():
            assert books.balanced, (name, books)
        return messages, rows

    def whole(self, keeper):
        """Whether all of it came over."""
        messages, rows = self.check(keeper)
        books = keeper.spool.totals()
        complete = all(b.sensed == self.windows and not b.evicted for b in books.values())
        return len(messages) == len(self.messages) and rows == self.rows and complete


@pytest.fixture
def field(tmp_path):
    return Field(tmp_path)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(bytes(data))


# What is damaged how -------------------------------------------------------------------------------------


def head_zeroed(field):
    field.checkpoint()
    with field.path.open("r+b") as file:
        file.write(bytes(PAGE))


def head_garbled(field):
    field.checkpoint()
    with field.path.open("r+b") as file:
        file.write(random.Random(1).randbytes(100))


def another_version(field):
    with closing(sqlite3.connect(field.path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM meta WHERE key = 'check'")
        connection.execute("UPDATE meta SET value = '2' WHERE key = 'format'")


def it_names_other_devices_than_it_was_made_for(field):
    with closing(sqlite3.connect(field.path, isolation_level=None)) as connection:
        connection.execute("UPDATE meta SET value = '[\"d-1\", \"e-2\"]' WHERE key = 'devices'")


def it_names_another_profile_than_it_was_made_for(field):
    with closing(sqlite3.connect(field.path, isolation_level=None)) as connection:
        connection.execute("UPDATE meta SET value = replace(value, 'bench', 'bencj') WHERE key = 'wire'")


@pytest.mark.parametrize(
    "damage",
    [
        head_zeroed,
        head_garbled,
        another_version,
        it_names_other_devices_than_it_was_made_for,
        it_names_another_profile_than_it_was_made_for,
    ],
)
def test_damage_beside_the_content_costs_no_row(field, damage):
    damage(field)
    keeper = field.after()
    assert field.whole(keeper)
    [copy] = copies(field.path.parent)
    report = copy.report()
    assert (report.state, report.rows_lost, report.messages_damaged) == (SalvageState.DONE, 0, 0)
    assert (report.messages, report.rows) == (len(field.messages), len(field.rows))
    assert keeper.spool.counters()["spools_set_aside"] == 1
    assert copy.path.exists()
    keeper.close()


def truncated(field, rng):
    field.checkpoint()
    size = field.path.stat().st_size
    with field.path.open("r+b") as file:
        file.truncate(rng.randrange(PAGE, size))


def pages_zeroed(field, rng):
    field.checkpoint()
    with field.path.open("r+b") as file:
        for _ in range(rng.randrange(1, 6)):
            file.seek(rng.randrange(1, field.path.stat().st_size // PAGE) * PAGE)
            file.write(bytes(PAGE))


def pages_garbled(field, rng):
    field.checkpoint()
    with field.path.open("r+b") as file:
        for _ in range(rng.randrange(1, 4)):
            file.seek(rng.randrange(0, field.path.stat().st_size))
            file.write(rng.randbytes(rng.randrange(1, 3000)))


def bits_flipped(field, rng):
    field.checkpoint()
    for _ in range(rng.randrange(1, 40)):
        flip(field.path, rng.randrange(0, field.path.stat().st_size))


def pages_exchanged(field, rng):
    field.checkpoint()
    data = bytearray(field.path.read_bytes())
    a, b = rng.sample(range(1, len(data) // PAGE), 2)
    pages = data[a * PAGE : (a + 1) * PAGE], data[b * PAGE : (b + 1) * PAGE]
    data[b * PAGE : (b + 1) * PAGE], data[a * PAGE : (a + 1) * PAGE] = pages
    field.path.write_bytes(bytes(data))


def log_torn(field, rng):
    wal = field.path.with_name("spool.db-wal")
    if wal.exists() and wal.stat().st_size:
        with wal.open("r+b") as file:
            file.truncate(rng.randrange(0, wal.stat().st_size))


@pytest.mark.sliced(one_of=3)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "damage",
    [truncated, pages_zeroed, pages_garbled, bits_flipped, pages_exchanged, log_torn],
)
def test_no_damage_yields_a_wrong_row_a_row_twice_or_books_that_do_not_balance(tmp_path, damage, seed):
    field = Field(tmp_path)
    damage(field, random.Random(f"{damage.__name__}/{seed}"))
    keeper = field.keeper()
    keeper.open_first()
    for _ in range(20):  # what is damaged may show only when it is read, sealed or written
        field.clock.now += 31.0
        spool = keeper.get()
        if spool is None:
            continue
        try:
            with spool.transaction():
                for no in spool.names:
                    spool.rows.read(no, -1.0, float("inf"), 10**6)
                    spool.summaries(no, 10**6)
                for message in spool.messages.stored():
                    if spool.messages.read(message.id) is None:
                        spool.messages.give_up(message.id, 0.0)
            keeper.salvage()
            spool.totals()
            keeper.worked()
            break
        except Exception as exc:  # noqa: BLE001  (as the writer does)
            keeper.failed(exc)
    assert keeper.spool is not None
    field.check(keeper)
    for copy in copies(tmp_path):
        assert copy.report().state is SalvageState.DONE
    keeper.close()


def a_bit_of_its_description_turned(field, rng):
    """In the text of any table, index or trigger; returns which."""
    field.checkpoint()
    with closing(sqlite3.connect(field.path)) as connection:
        texts = connection.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"
        ).fetchall()
    data = bytearray(field.path.read_bytes())
    kind, name, sql = rng.choice(texts)
    first = data.find(sql[:60].encode())
    at = first + rng.randrange(min(len(sql), 200))
    data[at] ^= 1 << rng.randrange(8)
    field.path.write_bytes(bytes(data))
    return f"{kind} {name}"


@pytest.mark.sliced(one_of=4)
@pytest.mark.parametrize("seed", range(24))
def test_whatever_bit_of_its_description_is_turned_the_spool_takes_rows_and_none_is_lost(tmp_path, seed):
    field = Field(tmp_path, windows=60, sealed=20)
    turned = a_bit_of_its_description_turned(field, random.Random(seed))
    keeper = field.after()
    assert field.whole(keeper), turned
    keeper.close()
    rig = SpoolRig(field.path.parent, field.rig.profile, DEVICES)
    rig.sense([0.95] * 5, DEVICES[0])
    rig.commit()
    rig.settle(rig.seal(limit=20))
    assert rig.spool.totals()[DEVICES[0]].balanced, turned
    rig.close()
    with reading(field.path) as connection:
        assert agree(connection), turned


def garbage(path):
    path.write_bytes(b"no database at all" * 3000)


def nothing(path):
    path.write_bytes(b"")


def a_folder(path):
    path.unlink()
    path.mkdir()


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [garbage, nothing, a_pipe])
def test_a_file_without_any_content_is_set_aside_and_the_process_begins_anew(field, damage):
    field.checkpoint()
    damage(field.path)
    keeper = field.after()
    assert field.check(keeper) == ([], set())
    assert len(copies(field.path.parent)) == 1
    keeper.close()


def test_a_damaged_message_in_a_whole_spool_is_given_up_and_its_rows_are_counted(field):
    with closing(sqlite3.connect(field.path, isolation_level=None)) as connection:
        connection.execute("UPDATE messages SET value = zeroblob(length(value)) WHERE id = 3")
    rig = field.rig
    rig.open()
    (n_rows,) = rig.spool._connection.execute("SELECT n_rows FROM messages WHERE id = 3").fetchone()
    assert rig.spool.messages.read(3) is None
    with rig.spool.transaction():
        rig.spool.messages.give_up(3, rig.now)
    assert sum(rig.books(n).evicted for n in DEVICES) == n_rows == 20
    assert all(rig.books(n).balanced for n in DEVICES)
    rig.close()


def test_a_damaged_row_in_a_whole_spool_is_never_sealed(field):
    with closing(sqlite3.connect(field.path, isolation_level=None)) as connection:
        connection.execute("UPDATE rows SET score = 0.77 WHERE id = (SELECT min(id) FROM rows)")
    rig = field.rig
    rig.open()
    rig.seal()
    assert 0.77 not in {round(r["score"], 2) for r in rig.rows_of(rig.sealed.values())}
    assert sum(rig.books(n).evicted for n in DEVICES) == 1
    rig.flush()
    rig.seal_statements()
    assert sum(line["gap"] for line in statements(rig.sealed.values())) == 1
    assert read_counters(rig.path)["rows_damaged"] == 1
    rig.close()


# Exactly once --------------------------------------------------------------------------------------------


def test_an_older_copy_of_the_spool_gives_its_messages_and_none_of_its_rows(tmp_path):
    """What it calls unsealed may have been sealed and sent since."""
    field = Field(tmp_path)
    field.checkpoint()
    shutil.copy(field.path, tmp_path / "backup")
    rig = field.rig
    rig.open()
    rig.seal()
    rig.close()
    shutil.copy(tmp_path / "backup", field.path)
    keeper = field.after()
    messages, rows = field.check(keeper)
    assert rows == set()
    assert len(messages) == len(field.messages)
    [copy] = copies(tmp_path)
    assert copy.report().stale
    assert copy.report().rows_lost > 0
    keeper.close()


def test_a_log_that_is_lost_makes_an_older_copy(tmp_path):
    field = Field(tmp_path)
    field.checkpoint()
    shutil.copy(field.path, tmp_path / "before")
    rig = field.rig
    rig.open()
    rig.sense([0.9] * 10, "d-1")
    rig.commit()
    rig.close()
    shutil.copy(tmp_path / "before", field.path)
    field.path.with_name("spool.db-wal").unlink(missing_ok=True)
    keeper = field.after()
    assert field.check(keeper)[1] == set()
    keeper.close()


def test_a_second_spool_that_is_damaged_gives_no_row_of_the_first_once_more(tmp_path):
    field = Field(tmp_path)
    head_zeroed(field)
    keeper = field.after()
    assert field.whole(keeper)
    keeper.close()
    head_zeroed(field)
    keeper = field.after()
    assert field.whole(keeper)
    assert len(copies(tmp_path)) == 2
    keeper.close()


def test_rows_are_not_taken_over_where_an_earlier_attempt_may_have_done_so(tmp_path):
    """The first attempt had begun, into a spool that is gone with all that it had."""
    field = Field(tmp_path)
    head_zeroed(field)
    keeper = field.after()
    keeper.close()
    [copy] = copies(tmp_path)
    report = copy.report().model_copy(update={"state": SalvageState.BEGUN})
    copy.report_path.write_text(report.model_dump_json())
    field.path.unlink()
    keeper = field.after()
    messages, rows = field.check(keeper)
    assert (len(messages), rows) == (len(field.messages), set())
    keeper.close()


def test_a_line_with_more_rows_than_it_counts_gives_none_of_them(tmp_path):
    """A page of another moment brought rows back that were sealed since."""
    field = Field(tmp_path)
    with closing(sqlite3.connect(field.path, isolation_level=None)) as connection:
        (line,) = connection.execute("SELECT max(book) FROM rows").fetchone()
        connection.execute("UPDATE books SET acked = acked + 1, pending = pending - 1 WHERE id = ?", (line,))
        (n,) = connection.execute("SELECT count(*) FROM rows WHERE book = ?", (line,)).fetchone()
    head_zeroed(field)
    keeper = field.after()
    _, rows = field.check(keeper)
    assert len(rows) == len(field.rows) - n
    keeper.close()


def test_what_was_taken_over_is_sealed_stated_and_acknowledged_as_ever(tmp_path):
    field = Field(tmp_path)
    head_zeroed(field)
    keeper = field.after()
    keeper.close()
    rig = field.rig
    rig.open()
    rig.sealed = {m.id: rig.spool.messages.read(m.id) for m in rig.spool.messages.stored()}
    rig.flush()
    rig.seal()
    rig.settle(list(rig.sealed))
    rig.settle(rig.seal_statements())
    rows = [(r["device_id"], r["boot_id"], r["seq"]) for r in rig.rows_of(rig.delivered)]
    assert len(set(rows)) == len(rows) == 2 * field.windows
    totals = {n: sum(getattr(rig.books(d), n) for d in DEVICES) for n in BOOK_COUNTS}
    assert totals == {
        **dict.fromkeys(BOOK_COUNTS, 0),
        "sensed": 2 * field.windows,
        "acked": 2 * field.windows,
    }
    numbers = {}
    for message in rig.delivered:
        envelope, _ = read_envelope(message.key, message.headers)
        numbers.setdefault((envelope.producer, envelope.spool_id, envelope.lane), []).append(envelope.msg_no)
    assert all(sorted(n) == list(range(len(n))) for n in numbers.values())
    assert len({spool_id for _, spool_id, _ in numbers}) == 2
    scores = [r for r in summary_rows(rig.delivered) if r["feature"] == "score"]
    assert sum(r["n"] for r in scores) == 2 * field.windows
    rig.close()


def test_a_statement_after_damage_has_a_higher_revision_than_any_before(tmp_path):
    rig = SpoolRig(tmp_path, bench_profile(p=1.0))
    rig.sense([0.9] * 25)
    rig.flush()
    rig.seal_statements()
    before = {line["period_start"]: line["revision"] for line in statements(rig.sealed.values())}
    rig.settle(rig.seal())
    field = Field.__new__(Field)
    field.path, field.rig, field.messages, field.rows = rig.path, rig, {}, set()
    rig.close()
    another_version(field)
    with closing(sqlite3.connect(rig.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    place = SpoolPlace(rig.path, ("d-1",), rig.profile, 256 * 1024**2)
    keys = load_or_create(tmp_path / "keys", "d-1")
    keeper = SpoolKeeper(place, lambda: {"d-1": MessageVerifier(keys.public_pem.encode())}, Clock())
    keeper.open_first()
    keeper.get()
    keeper.salvage()
    keeper.close()
    rig.open()
    rig.sealed = {}
    rig.seal_statements()
    after = {line["period_start"]: line["revision"] for line in statements(rig.sealed.values())}
    assert after
    assert all(revision > before[period] for period, revision in after.items())
    rig.close()


# Set aside -----------------------------------------------------------------------------------------------


def test_copies_are_bounded_in_number_and_size_and_never_removed_before_they_were_taken_over(tmp_path):
    made = []
    for k in range(8):
        (tmp_path / "spool.db").write_bytes(bytes(1000))
        made.append(set_aside(tmp_path / "spool.db", "test", stale=False))
        if k % 2:
            made[-1].write(made[-1].report().model_copy(update={"state": SalvageState.DONE}), _disk())
    trim(tmp_path, 10**9)
    waiting = [c for c in copies(tmp_path) if c.report().state is not SalvageState.DONE]
    assert len(waiting) == 4
    assert len(copies(tmp_path)) == 4 + KEPT
    trim(tmp_path, 4 * 1500)
    assert len(copies(tmp_path)) < 4 + KEPT
    assert len([c for c in copies(tmp_path) if c.report().state is not SalvageState.DONE]) == 4


def test_the_report_of_a_copy_outlives_it_and_nothing_else_does(field):
    head_zeroed(field)
    keeper = field.after()
    keeper.close()
    assert trim(field.path.parent, 1) == 1
    finish(field.path)
    assert copies(field.path.parent) == []
    (report,) = field.path.parent.glob("spool-aside-*")
    assert AsideCopy(report.with_suffix(".db")).report().state is SalvageState.DONE


def test_a_copy_larger_than_the_room_is_taken_over_a_part_at_a_time_as_room_is_made(tmp_path):
    field = Field(tmp_path, windows=4200, sealed=400)
    field.checkpoint()
    size = field.path.stat().st_size
    limit = size * 3 // 2
    head_zeroed(field)
    keeper = field.after(max_bytes=limit, reserve_bytes=0)
    (copy,) = copies(tmp_path)
    house = SpoolHousekeeping(keeper.spool, keeper.room, Eviction(keeper.spool, field.rig.profile, limit))
    most, turns = 0, 0
    while copy.report().state is not SalvageState.DONE:
        turns += 1
        field.clock.now += 30.0
        house.make_room(field.clock.now)
        keeper.salvage()
        most = max(most, keeper.room.use(keeper.spool).total)
    assert 1 < turns < 50
    assert most <= size + limit // 2 + 200 * 1024
    messages, rows = field.check(keeper)
    assert len(messages) == len(field.messages)
    assert rows
    assert all(books.sensed == 4200 for books in keeper.spool.totals().values())
    keeper.close()


def test_lines_that_await_rows_of_a_copy_are_neither_added_up_nor_forgotten(field):
    head_zeroed(field)
    keeper = field.after(max_bytes=300_000, reserve_bytes=0)  # too little for its rows
    period_us = 10_000_000
    for again in (False, True):
        spool = field.reopened(keeper) if again else keeper.spool
        lines = spool.books.count()
        assert spool.books.awaited
        with spool.transaction():
            spool._connection.execute("UPDATE books SET dirty = 0, revision = 1, statement = 0")
            spool._connection.execute("UPDATE devices SET newest_us = newest_us + ?", (10**15,))
            spool.books.forget_settled(period_us)
            spool._connection.execute("UPDATE books SET dirty = 1, revision = 0, statement = NULL")
            assert spool.books.fold(10**6, period_us) == 0
        assert spool.books.count() == lines
    spool.close()


def test_rows_that_are_taken_over_are_thinned_as_those_of_their_block_were_meanwhile(field):
    head_zeroed(field)
    keeper = field.keeper(max_bytes=300_000, reserve_bytes=0)
    assert keeper.open_first() is not None
    keeper.salvage()  # only the lines
    spool = keeper.spool
    assert spool.left()[0] == 0
    query = "SELECT DISTINCT device, period_us, stratum FROM books"
    with spool.transaction():
        for block in spool._connection.execute(query).fetchall():
            spool.rows.thin(ThinnedBlock(*block), 0.25, 0.0)
    keeper.room.max_bytes = 10**9
    field.clock.now += 60.0
    keeper.salvage()
    thinned = spool._connection.execute("SELECT count(*), max(u / max(pi, sample_p)) FROM rows").fetchone()
    assert 0 < thinned[0] < len(field.rows) / 2
    assert thinned[1] < 0.25
    assert sum(books.evicted for books in spool.totals().values()) == len(field.rows) - thinned[0]
    assert all(books.balanced for books in spool.totals().values())
    keeper.close()


def test_of_many_reports_the_newest_stay(tmp_path):
    for k in range(REPORTS_KEPT + 3):
        (tmp_path / f"spool-aside-{k:04}.json").write_text("{}")
    trim(tmp_path, 10**9)
    left = sorted(path.name for path in tmp_path.glob("spool-aside-*"))
    assert left == [f"spool-aside-{k:04}.json" for k in range(3, REPORTS_KEPT + 3)]


def _disk():
    from schemas.durable import DISK

    return DISK


@pytest.mark.parametrize("step", range(1, 12))
def test_a_power_cut_while_setting_aside_loses_nothing(tmp_path, step):
    field = Field(tmp_path / "edge", windows=40, sealed=20)
    another_version(field)
    wal = field.path.with_name("spool.db-wal").exists()
    disk = LossyDisk(field.path.parent, die_before=step)
    try:
        set_aside(field.path, "test", stale=False, disk=disk)
        died = False
    except PowerCut:
        died = True
    disk.power_cut()
    finish(field.path)
    keeper = field.after()
    assert field.whole(keeper)
    keeper.close()
    assert died or step > 5 or wal


def test_books_of_a_new_start_after_total_loss_are_those_of_a_new_device(field):
    field.checkpoint()
    garbage(field.path)
    keeper = field.after()
    assert set(keeper.spool.totals().values()) == {DeviceBooks()}
    keeper.close()
    assert set(read_books(field.path)) == set(DEVICES)


def test_a_spool_without_checksums_of_0_2_0_goes_on(tmp_path):
    field = Field(tmp_path)
    with closing(sqlite3.connect(field.path, isolation_level=None)) as connection:
        for table, column in (("rows", "crc"), ("summaries", "crc"), ("devices", "crc")):
            connection.execute(f"UPDATE {table} SET {column} = NULL")
    spool = Spool.open(field.path, DEVICES, field.rig.profile, 0.0)
    assert field.unsealed(spool) == field.rows
    spool.close()

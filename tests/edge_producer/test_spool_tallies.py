"""Laws of the spool's sums: what a count gives, whoever writes, at the same cost however much waits."""

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from edge_producer.spool.spool import TALLIES_CORRECTED, DeviceBooks, Spool, SpoolAccess, read_books
from edge_producer.spool.spool_file import connect_file, reading
from edge_producer.spool.spool_reading import read_counters
from edge_producer.spool.spool_tallies import agree
from schemas.profile_file import find_profile
from tests.edge_producer.spool_rig import SpoolRig, bench_profile
from tests.golden.archives import facts, unpack

NEW_INDEXES = ("books_settled", "books_waiting", "books_open", "messages_blocked")


def sums_hold(path):
    """Whether the sums are what a count over all tables gives."""
    with reading(path) as connection:
        return agree(connection)


def as_before_the_sums(path):
    """Bring a spool to what the release before this one made: without sums and the new indexes."""
    with closing(sqlite3.connect(path)) as file, file:
        triggers = file.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name in [f"TRIGGER {name}" for (name,) in triggers] + [f"INDEX {name}" for name in NEW_INDEXES]:
            file.execute(f"DROP {name}")
        file.execute("DROP TABLE tallies")
        file.execute("CREATE INDEX books_to_state ON books (device) WHERE dirty = 1 AND closed = 1")


def filled(rig, windows=300):
    """A rig whose spool has rows, messages, statements, evicted rows and books of every kind."""
    rig.sense([0.1, 0.5, 0.95] * (windows // 3))
    rig.flush()
    sealed = rig.seal(limit=20)
    rig.settle(sealed[:1])
    rig.settle(rig.seal_statements()[:1])
    rig.sense([0.2, 0.9] * 40)
    rig.flush()
    rig.evict(rig.spool.bytes // 2)
    return rig


def test_a_spool_of_0_2_0_gets_its_sums_once_and_tells_what_it_told_then(tmp_path):
    golden = facts("0.2.0")["spool"]
    path = unpack("0.2.0", "spool", tmp_path / "old") / "spool.db"
    then = {name: DeviceBooks(**books) for name, books in golden["books"].items()}
    assert read_books(path) == then
    spool = Spool.open(path, golden["devices"], find_profile("machine"), 1e6)
    assert spool.totals() == then
    spool.close()
    assert read_books(path) == then
    assert sums_hold(path)


def test_a_spool_of_the_release_before_gets_its_sums_and_answers_as_it_did(rigs, tmp_path):
    rig = filled(rigs(tmp_path))
    before, held = rig.spool.totals(), (rig.spool.bytes, rig.spool.left(), rig.spool.books.unstated())
    lines = rig.spool.books.due(1, rig.now, 0.0, settled_only=False)
    rig.close()
    as_before_the_sums(rig.path)
    assert read_books(rig.path) == before
    rig.open()
    assert rig.spool.totals() == before
    assert (rig.spool.bytes, rig.spool.left(), rig.spool.books.unstated()) == held
    assert [line.id for line in rig.spool.books.due(1, rig.now, 0.0, settled_only=False)] == [
        line.id for line in lines
    ]


def test_what_an_earlier_release_writes_enters_the_sums(rigs, tmp_path):
    rig = filled(rigs(tmp_path))
    rig.close()
    with closing(sqlite3.connect(rig.path)) as earlier, earlier:  # any statement, ours or not
        earlier.execute("UPDATE books SET evicted = evicted + 1, pending = pending - 1 WHERE id = 1")
        earlier.execute("DELETE FROM rows WHERE id = (SELECT max(id) FROM rows)")
        earlier.execute("UPDATE books SET moments = NULL WHERE id = 2")
        earlier.execute("DELETE FROM messages WHERE id = (SELECT max(id) FROM messages)")
        earlier.execute("INSERT INTO summaries SELECT NULL, 1, 1, 'm', 1, 1.0, 0, x'00ff', 2, NULL")
    assert sums_hold(rig.path)


def test_sums_that_are_wrong_are_counted_anew_by_the_check_of_a_start(rigs, tmp_path):
    rig = filled(rigs(tmp_path))
    before, held = rig.spool.totals(), rig.spool.bytes
    rig.close()
    with closing(sqlite3.connect(rig.path)) as file, file:
        file.execute("UPDATE tallies SET sensed = sensed - 7, rows = rows + 3, message_bytes = 0")
    rig.open()
    assert rig.spool.totals() != before
    rig.spool.check_content()
    assert (rig.spool.totals(), rig.spool.bytes) == (before, held)
    rig.spool.check_content()
    assert read_counters(rig.path)[TALLIES_CORRECTED] == 1


def test_a_disk_without_room_for_the_indexes_opens_the_spool_all_the_same(tmp_path):
    devices = ("d-1", "d-2")
    spool, _ = spool_with(tmp_path, devices, 5_000)
    before, path, profile = spool.totals(), tmp_path / "spool.db", bench_profile()
    spool.close()
    as_before_the_sums(path)
    with closing(sqlite3.connect(path)) as file:
        file.execute("VACUUM")

    def nearly_full(path: Path) -> sqlite3.Connection:
        connection = connect_file(path)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 10}")
        return connection

    spool = Spool.open(path, devices, profile, 1e6, SpoolAccess(connect=nearly_full))
    assert not set(NEW_INDEXES) & indexes(path)
    assert spool.totals() == before
    assert len(spool.books.due(1, 1e6, 0.0, settled_only=False)) == 512
    spool.close()
    Spool.open(path, devices, profile, 1e6).close()
    assert set(NEW_INDEXES) <= indexes(path)


def indexes(path):
    with reading(path) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}


# What it costs ---------------------------------------------------------------------------------------------


class Steps:
    """Counts what SQLite does, in steps of its machine: the same on any computer."""

    def __init__(self) -> None:
        self.taken = 0

    def connect(self, path: Path) -> sqlite3.Connection:
        self.connection = connect_file(path)
        self.connection.set_progress_handler(self._step, 1)
        return self.connection

    def _step(self) -> int:
        self.taken += 1
        return 0

    def of(self, work):
        before = self.taken
        work()
        return self.taken - before


def spool_with(folder, devices, rows):
    """An open spool with so many rows of each device, unsealed, each in a line of its own."""
    rig = SpoolRig(folder, devices=devices)
    rig.close()
    with closing(sqlite3.connect(rig.path)) as file, file:
        file.executemany(
            "INSERT INTO books (device, boot_id, period_us, model, stratum, sensed, pending, closed,"
            " changed_s) VALUES (?, 1, ?, 'm', 'rule', ?, ?, 1, 0.0)",
            [(no, k, 1 + k % 2, k % 2) for no in range(1, len(devices) + 1) for k in range(rows)],
        )
        file.execute(
            "INSERT INTO rows (device, book, seq, event_us, mono_ns, time_quality, features, decision,"
            " reasons, sample_p, pi, u, sensed_s)"
            " SELECT device, id, period_us, 0, 0, 1, zeroblob(8), '', 1, 1.0, 1.0, 0.0, period_us FROM books"
        )
    steps = Steps()
    return Spool.open(rig.path, devices, rig.profile, 1e6, SpoolAccess(connect=steps.connect)), steps


def asked_each_second(spool):
    spool.totals()
    spool.rows.oldest_s()
    spool.messages.blocked()
    spool.left()
    spool.drained()
    spool.books.count()
    spool.devices_with_summaries()
    spool.books.devices_due(1e6, 15.0, settled_only=True)
    spool.books.devices_due(1e6, 15.0, settled_only=False)
    spool.books.due(1, 1e6, 15.0, settled_only=True, limit=100)
    spool.books.due(2, 1e6, 15.0, settled_only=False, limit=100)
    spool.books.close_all()


def test_what_is_asked_each_second_costs_the_same_however_much_waits(tmp_path):
    cost = {}
    for rows in (300, 15_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        spool, steps = spool_with(folder, ("d-1", "d-2"), rows)
        with spool.transaction():
            cost[rows] = steps.of(lambda spool=spool: asked_each_second(spool))
        spool.close()
    assert cost[15_000] <= cost[300] * 1.1


def test_lines_are_stated_a_part_at_a_time_until_all_are(tmp_path):
    spool, _ = spool_with(tmp_path, ("d-1", "d-2"), 700)
    stated: list[tuple[int, int]] = []
    with spool.transaction():
        while devices := spool.books.devices_due(1e6, 0.0, settled_only=False):
            for device in devices:
                lines = spool.books.due(device, 1e6, 0.0, settled_only=False, limit=90)
                assert 0 < len(lines) <= 90
                assert {line.device for line in lines} == {device}
                spool.books.stated(lines, 1, 1e6)
                stated += [(line.device, line.id) for line in lines]
    assert len(stated) == len(set(stated)) == 1400
    assert spool.books.unstated() == 0
    spool.close()


# Kills -----------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from tests.edge_producer.spool_rig import SpoolRig, bench_profile
rig = SpoolRig(Path(sys.argv[1]), bench_profile(p=0.5), ("d-1", "d-2"))
print("open", flush=True)
while True:
    for name in rig.names:
        rig.sense([0.1, 0.5, 0.95] * 5, name)
    rig.commit()
    sealed = rig.seal(limit=7)
    rig.settle(sealed[:1])
    rig.settle(rig.seal_statements())
    rig.settle(sealed[1:], "refused")
    if rig.k % 4 == 0:
        rig.evict(2000)
    with rig.spool.transaction():
        rig.spool.books.forget_settled(10_000_000)
    print("turn", flush=True)
"""


@pytest.mark.faults
def test_a_process_that_is_killed_anywhere_leaves_sums_that_a_count_gives(tmp_path):
    seen = []
    for kill in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            for _ in range(3 + 4 * kill):
                assert process.stdout.readline()
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
        assert sums_hold(tmp_path / "spool.db")
        books = read_books(tmp_path / "spool.db")
        assert all(of.balanced for of in books.values())
        seen.append(sum(of.sensed for of in books.values()))
    assert seen == sorted(seen)
    assert seen[0] > 0

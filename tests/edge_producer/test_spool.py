"""Laws of the spool: whatever happens, and whenever the process dies, the books balance."""

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_producer.spool.spool import Spool, read_books
from edge_producer.spool.spool_tallies import agree
from schemas.errors import SpoolDamagedError, SpoolError, SpoolUnavailableError
from schemas.row_schemas import BOOK_COUNTS, CONTEXT
from schemas.topics import Lane
from tests.edge_producer.spool_rig import SpoolRig, bench_profile, statements, summary_rows

DEVICES = ("d-1", "d-2")
scores_st = st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.7, 0.85, float("nan")]), min_size=1, max_size=15)


class SpoolMachine(RuleBasedStateMachine):
    """Any interleaving of sensing, committing, sealing, answers, eviction and crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.rig = SpoolRig(Path(self.folder.name), bench_profile(p=0.5), DEVICES)
        self.open_messages: set[int] = set()
        self.committed = dict.fromkeys(DEVICES, 0)
        self.sensed = dict.fromkeys(DEVICES, 0)

    @rule(device=st.sampled_from(DEVICES), scores=scores_st)
    def sense(self, device, scores) -> None:
        self.rig.sense(scores, device)
        self.sensed[device] += len(scores)

    @rule()
    def commit(self) -> None:
        self.rig.commit()
        self.committed = dict(self.sensed)

    @rule(back=st.integers(1, 400))
    def clock_steps_back(self, back) -> None:
        self.rig.k -= back

    @rule(lane=st.sampled_from([Lane.LIVE, Lane.BACKLOG]), limit=st.integers(1, 20))
    def seal(self, lane, limit) -> None:
        self.open_messages |= set(self.rig.seal(lane, limit))

    @rule()
    def state_books_and_summaries(self) -> None:
        self.open_messages |= set(self.rig.seal_statements())

    @precondition(lambda self: self.open_messages)
    @rule(data=st.data(), outcome=st.sampled_from(["acked", "acked", "refused"]))
    def answer(self, data, outcome) -> None:
        some = data.draw(st.sets(st.sampled_from(sorted(self.open_messages)), min_size=1))
        self.rig.settle(some, outcome)
        self.rig.settle(some, outcome)
        self.open_messages -= some

    @rule(max_bytes=st.integers(0, 4000))
    def evict(self, max_bytes) -> None:
        self.rig.evict(max_bytes)

    @rule()
    def forget(self) -> None:
        with self.rig.spool.transaction():
            self.rig.spool.books.forget_settled(10_000_000)

    @rule()
    def crash(self) -> None:
        self.rig.crash()
        self.sensed = dict(self.committed)

    @invariant()
    def books_balance(self) -> None:
        for device in DEVICES:
            books = self.rig.books(device)
            assert books.balanced, books
            assert books.sensed == self.committed[device]

    @invariant()
    def messages_are_what_they_were(self) -> None:
        stored = self.rig.spool.messages.stored()
        assert {m.id for m in stored} == self.open_messages
        for message in stored:
            assert self.rig.spool.messages.read(message.id) == self.rig.sealed[message.id]

    @invariant()
    def every_line_balances(self) -> None:
        with closing(sqlite3.connect(self.rig.path)) as connection:
            wrong = connection.execute(
                "SELECT count(*) FROM books WHERE sensed != acked + filtered + evicted + refused + pending"
            ).fetchone()
            assert agree(connection)
        assert wrong == (0,)

    @invariant()
    def sizes_are_kept(self) -> None:
        spool = self.rig.spool
        rows, summaries, messages = spool.rows.bytes, spool.summary_bytes, spool.messages.bytes
        spool.close()
        self.rig.spool = again = Spool.open(self.rig.path, DEVICES, self.rig.profile, self.rig.now)
        self.rig.sealer._spool = again
        assert (again.rows.bytes, again.messages.bytes) == (rows, messages)
        assert again.summary_bytes >= summaries

    def teardown(self) -> None:
        self.rig.close()
        self.folder.cleanup()


SpoolMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
test_books_balance_after_any_history = SpoolMachine.TestCase


def drained(rig):
    rig.flush()
    rig.settle(rig.seal())
    rig.settle(rig.seal_statements())


def test_held_rows_count_as_sensed_and_pending(rigs, tmp_path):
    rig = rigs(tmp_path)
    rig.sense([0.1, 0.1])
    rig.commit()
    assert (rig.books().sensed, rig.books().pending) == (2, 2)


def test_everything_continues_after_a_restart_without_network(rigs, tmp_path):
    rig = rigs(tmp_path)
    rig.sense([0.1, 0.7, 0.9, 0.9])
    rig.commit()
    spool_id, action = rig.spool.spool_id, rig.devices["d-1"]._decider.action
    before = rig.seal()
    rig.crash()
    assert rig.spool.spool_id == spool_id
    assert rig.devices["d-1"]._decider.action == action
    rig.sense([0.1] * 30)
    rig.flush()
    rig.settle(before)
    drained(rig)
    assert (rig.books().sensed, rig.books().pending) == (34, 0)
    assert rig.books().acked == len(rig.rows_of(rig.delivered))


def test_held_rows_of_a_dead_process_are_released_under_their_own_boot(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile(p=0.0001, p_min=0.0001))
    rig.sense([0.1, 0.1])
    rig.commit()
    rig.crash()
    rig.sense([0.1] * 3 + [0.9])
    drained(rig)
    context = [(r["seq"], r["boot_id"]) for r in rig.rows_of(rig.delivered) if r["reasons"] & CONTEXT]
    boots = {boot for _, boot in context}
    assert [seq for seq, _ in context] == [0, 1, 2], "a trigger of another start reaches no held row"
    lines = {(line["boot_id"] in boots, line["stratum"]): line for line in statements(rig.delivered)}
    assert (lines[False, "sample"]["sensed"], lines[False, "sample"]["filtered"]) == (2, 2)
    assert lines[True, "context"]["sensed"] == 3


def test_summaries_cover_everything_sensed_across_a_crash(rigs, tmp_path):
    rig = rigs(tmp_path)
    rig.sense([0.1] * 15)
    rig.commit()
    rig.crash()
    rig.sense([0.2] * 15)
    drained(rig)
    scores = [r for r in summary_rows(rig.delivered) if r["feature"] == "score"]
    assert sum(r["n"] for r in scores) == 30
    assert len({(r["boot_id"], r["period_start"], r["part"]) for r in scores}) == len(scores)
    assert len({r["boot_id"] for r in scores}) == 2


def test_statements_on_the_books_end_with_nothing_pending(rigs, tmp_path):
    rig = rigs(tmp_path)
    rig.sense([0.1, 0.85, 0.2, 0.5] * 10)
    rig.flush()
    rig.settle(rig.seal_statements())
    drained(rig)
    newest = {}
    for line in statements(rig.delivered):
        key = (line["boot_id"], line["period_start"], line["model_version"], line["stratum"])
        assert line["revision"] > newest.get(key, {"revision": 0})["revision"]
        newest[key] = line
    totals = {name: sum(line[name] for line in newest.values()) for name in BOOK_COUNTS}
    assert totals["pending"] == 0
    assert totals == {name: getattr(rig.books(), name) for name in BOOK_COUNTS}


def test_a_line_is_not_stated_before_its_period_closed(rigs, tmp_path):
    rig = rigs(tmp_path)
    rig.sense([0.1] * 9)
    rig.commit()
    assert rig.spool.books.due(1, rig.now + 1e6, 0.0, settled_only=False) == []


def test_forgotten_lines_stay_in_the_totals(rigs, tmp_path):
    rig = rigs(tmp_path)
    rig.sense([0.1, 0.85] * 300)
    drained(rig)
    before = rig.books()
    with rig.spool.transaction():
        rig.spool.books.forget_settled(10_000_000)
    (lines,) = rig.spool._connection.execute("SELECT count(*) FROM books").fetchone()
    assert lines < 2 * 60
    assert rig.books() == before


def test_another_set_of_devices_is_refused(rigs, tmp_path):
    rig = rigs(tmp_path)
    rig.close()
    with pytest.raises(SpoolError, match="another set of devices"):
        Spool.open(rig.path, ("d-1", "d-9"), rig.profile, 0.0)


def test_a_second_process_is_refused(rigs, tmp_path):
    rig = rigs(tmp_path)
    with pytest.raises(SpoolError, match="in use"):
        Spool.open(rig.path, ("d-1",), rig.profile, 0.0)


def test_another_feature_set_is_refused_while_rows_wait(rigs, tmp_path):
    rig = rigs(tmp_path)
    rig.sense([0.9] * 3)
    rig.commit()
    rig.close()
    other = rig.profile.model_copy(update={"name": "other"})
    with pytest.raises(SpoolError, match="another profile"):
        Spool.open(rig.path, ("d-1",), other, 0.0)


def test_a_damaged_file_is_told_from_one_that_the_disk_does_not_give(tmp_path):
    path = tmp_path / "spool.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(SpoolDamagedError, match="cannot be used"):
        Spool.open(path, ("d-1",), bench_profile(), 0.0)
    path.write_bytes(b"")
    with pytest.raises(SpoolDamagedError, match="is empty"):
        Spool.open(path, ("d-1",), bench_profile(), 0.0)
    path.unlink()
    path.mkdir()
    with pytest.raises(SpoolUnavailableError):
        Spool.open(path, ("d-1",), bench_profile(), 0.0)
    with pytest.raises(SpoolError):
        read_books(tmp_path / "absent.db")

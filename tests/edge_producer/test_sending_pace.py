"""Laws of what may wait for more before it is sealed, and of what may not."""

import pytest

from edge_producer.sending.outbox import Outbox
from edge_producer.sending.pace import GATHERED_PERIODS, STATED_EVERY_S, SendingPace
from edge_producer.settings import EdgeSettings
from edge_producer.spool.spool import Spool
from schemas.envelope import read_envelope
from schemas.errors import SpoolOwnerError
from schemas.packed_schemas import packed_summary_layout
from tests.edge_producer.spool_rig import START, bench_profile, statements, summary_rows
from tests.edge_producer.test_outbox import Broker

PERIOD_S = 10.0


def slow(delay_s, **policy):
    """The bench profile with a window every five minutes."""
    profile = bench_profile(p=1.0, delay_s=delay_s, **policy)
    sampling = profile.sampling.model_copy(update={"rate_hz": 1 / 300})
    return profile.model_copy(update={"sampling": sampling})


class Sending:
    """A rig whose outbox takes turns as the writer has it do."""

    def __init__(self, rigs, folder, profile, **given):
        self.rig, self.broker = rigs(folder, profile), Broker()
        self.rig.now = 100_000.0
        settings = EdgeSettings(state_dir=folder, profile="bench", devices=("d-1",), **given)
        self.outbox = Outbox(self.rig.spool, self.rig.sealer, self.broker, settings)
        self.seen = 0

    def turn(self, *, draining=False):
        """What one turn sends, acknowledged."""
        self.rig.commit()
        with self.rig.spool.transaction():
            self.outbox.seal(self.rig.now, {}, draining=draining)
        self.outbox.send()
        self.outbox.arrived(self.broker.ids[self.seen :])
        with self.rig.spool.transaction():
            self.rig.spool.messages.settle(self.broker.ids[self.seen :], "acked", self.rig.now)
        taken, self.seen = self.broker.taken[self.seen :], len(self.broker.taken)
        return taken

    def rows(self, messages):
        return [r["seq"] for r in self.rig.rows_of(messages)]


def test_lines_of_the_books_of_several_periods_share_a_message(rigs, tmp_path):
    sending = Sending(rigs, tmp_path, bench_profile(p=1.0, pretrigger=0))
    messages = []
    for _ in range(200):
        sending.rig.sense([0.1])
        messages += sending.turn()
    books = [m for m in messages if m.topic == "books.v1"]
    lines = statements(books)
    assert len({line["period_start"] for line in lines}) == len(lines) >= 12
    assert len(lines) / len(books) >= 4
    rest = statements(sending.turn(draining=True))
    sending.rig.flush()
    rest += statements(sending.turn(draining=True))
    assert sum(line["sensed"] for line in lines + rest) == 200


def test_no_line_waits_longer_than_is_declared(rigs, tmp_path):
    sending = Sending(rigs, tmp_path, bench_profile(p=1.0, pretrigger=0))
    sensed, longest = {}, 0.0
    for k in range(200):
        sending.rig.sense([0.1])
        sensed.setdefault(k // 10, sending.rig.now)
        for line in statements(m for m in sending.turn() if m.topic == "books.v1"):
            number = (line["period_start"] - START).seconds // 10
            longest = max(longest, sending.rig.now - sensed[number])
    assert 0 < longest <= GATHERED_PERIODS * PERIOD_S + PERIOD_S + 2


def test_an_interval_that_is_set_is_honoured(tmp_path):
    given = {"state_dir": tmp_path, "profile": "bench", "devices": ("d-1",)}
    by_itself = SendingPace.of(EdgeSettings(**given), bench_profile())
    assert (by_itself.interval_s, by_itself.gather_s) == (STATED_EVERY_S, GATHERED_PERIODS * PERIOD_S)
    stated = SendingPace.of(EdgeSettings(**given, books_interval_s=3.0), bench_profile())
    assert (stated.interval_s, stated.gather_s) == (3.0, 0.0)
    assert stated.draining() == (0.0, 0.0, 10.0, 0.0, 0.0)


def test_slow_rows_share_a_message_up_to_the_declared_delay(rigs, tmp_path):
    sending = Sending(rigs, tmp_path, slow(60.0))
    sizes = []
    for _ in range(12):
        sending.rig.sense([0.1])
        sending.rig.now += 9.0
        sizes.append(len(sending.rows(sending.turn())))
    assert sizes == [0, 0, 0, 0, 0, 6] * 2


@pytest.mark.parametrize("score", [0.9, 0.85])
def test_a_row_that_a_rule_selects_waits_for_none_and_takes_the_others_along(rigs, tmp_path, score):
    sending = Sending(rigs, tmp_path, slow(10_000.0, burst_after=0))
    sending.rig.sense([0.1, 0.1])
    assert sending.rows(sending.turn()) == []
    sending.rig.sense([score])
    [message] = [m for m in sending.turn() if m.topic == "telemetry.v1"]
    assert sending.rows([message]) == [0, 1, 2]
    assert read_envelope(message.key, message.headers)[0].lane == "live"


def test_without_a_delay_each_row_leaves_at_once(rigs, tmp_path):
    sending = Sending(rigs, tmp_path, slow(0.0))
    for k in range(3):
        sending.rig.sense([0.1])
        assert sending.rows(sending.turn()) == [k]


def test_nothing_waits_once_the_process_drains(rigs, tmp_path):
    sending = Sending(rigs, tmp_path, slow(10_000.0))
    sending.rig.sense([0.1, 0.2])
    assert sending.rows(sending.turn(draining=True)) == [0, 1]


def with_period(profile, period_s):
    summaries = profile.summaries.model_copy(update={"period_s": period_s})
    return profile.model_copy(update={"summaries": summaries})


def test_a_full_spool_goes_on_under_another_period_and_states_what_it_counted_before(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile(pretrigger=0))
    rig.sense([0.1] * 25)
    rig.commit()
    before = rig.books()
    rig.close()
    rig.profile = with_period(rig.profile, 30.0)
    rig.open()
    rig.sense([0.1] * 40)
    rig.flush()
    rig.settle(rig.seal())
    rig.settle(rig.seal_statements())
    lines = statements(rig.delivered)
    by_boot: dict[int, set[float]] = {}
    for line in lines:
        by_boot.setdefault(line["boot_id"], set()).add(line["period_s"])
    assert list(by_boot.values()) == [{10.0}, {30.0}]
    assert sum(line["sensed"] for line in lines) == before.sensed + 40
    assert {r["period_s"] for r in summary_rows(rig.delivered)} == {10.0, 30.0}


def test_summaries_of_another_feature_set_are_not_read_as_this_ones(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile())
    rig.sense([0.1] * 20)
    rig.flush()
    [(_, one), *_] = rig.spool.summaries(1, 10)
    features = rig.profile.features.model_copy(update={"version": 2})
    other = rig.profile.model_copy(update={"features": features})
    assert one.is_of(packed_summary_layout(rig.profile))
    assert not one.is_of(packed_summary_layout(other))
    rig.close()
    with pytest.raises(SpoolOwnerError, match="another profile or feature set"):
        Spool.open(rig.path, rig.names, other, rig.now)

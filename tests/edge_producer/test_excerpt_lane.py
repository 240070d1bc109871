"""Laws of excerpts on their way out: sealed once, sent only with consent, deleted when that is withdrawn."""

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from edge_producer.consent_command import change_consent
from edge_producer.edge_status import excerpt_lines
from edge_producer.excerpts.consent import ConsentFile
from edge_producer.excerpts.excerpt_desk import ExcerptDesk
from edge_producer.excerpts.raw_ring import HeldSamples
from edge_producer.sending.outbox import Outbox
from edge_producer.settings import EdgeSettings
from schemas.envelope import read_envelope
from schemas.errors import SpoolError
from schemas.excerpt_event import VALUES_PER_PART, Excerpt, ExcerptWithdrawal
from schemas.excerpt_policy import ExcerptPolicy
from schemas.excerpt_words import PermitRefusal, PermitState
from schemas.instants import to_us
from schemas.topics import EXCERPT, Lane
from tests.edge_producer.spool_rig import SpoolRig, bench_profile
from tests.edge_producer.test_outbox import Broker
from tests.simulators.excerpt_permits import permit, with_excerpts

POLICY = ExcerptPolicy(
    channels=("load",), max_seconds=60, max_seconds_per_day=60, purposes=("review",), held_s=60
)
PROFILE = with_excerpts(bench_profile(), POLICY)
DEVICE = "d-1"


class Cable(Broker):
    """A broker that acknowledges what the test says."""

    def disconnect(self):
        self.disconnected = True

    def excerpts(self):
        return [m for m in self.taken if m.topic == EXCERPT.base and b'"samples"' in m.value]

    def withdrawals(self):
        """Each with the number of the message that says so."""
        found = [m for m in self.taken if m.topic == EXCERPT.base and b'"samples"' not in m.value]
        numbers = [read_envelope(m.key, m.headers)[0].msg_no for m in found]
        told = [ExcerptWithdrawal.model_validate_json(m.value).withdrawn for m in found]
        return list(zip(numbers, told, strict=True))


class Line:
    """A spool, an outbox and a desk of one device that has consented."""

    def __init__(self, folder, **settings):
        self.rig, self.broker = SpoolRig(folder, PROFILE), Cable()
        self.settings = EdgeSettings(state_dir=folder, profile="bench", devices=self.rig.names, **settings)
        self.consent(True)
        self.open()

    def open(self):
        self.desk = ExcerptDesk(self.rig.folder, self.rig.names, lambda _: PROFILE)
        self.box = Outbox(
            self.rig.spool, self.rig.sealer, self.broker, self.settings, lambda _: True, self.desk
        )

    def restart(self):
        self.rig.spool.close()
        self.rig.open()
        self.broker = Cable()
        self.open()

    def consent(self, given):
        ConsentFile(self.rig.folder, DEVICE).change(datetime.now(UTC), given=given)

    def offer(self, samples=40):
        asked = permit(device_id=DEVICE, profile="bench", channels=("load",), seconds=30)
        held = HeldSamples(7, to_us(asked.start), np.arange(samples, dtype=float)[:, None])
        self.desk.offer(asked, "anna", held)
        return asked.permit_id

    def turn(self):
        with self.rig.spool.transaction():
            self.box.seal(self.rig.now, {}, draining=False)
        self.box.excerpts.committed()
        self.box.send()

    def sealed(self):
        found = self.rig.spool.messages.of_lane(Lane.EXCERPT)
        return [(id_, value) for id_, value in found if b'"samples"' in value]

    def outcomes(self):
        return [(o.permit_id, o.state) for o in self.desk.outcomes(DEVICE)]


@pytest.fixture
def line(tmp_path):
    return Line(tmp_path)


def test_an_excerpt_leaves_signed_in_parts_that_together_are_all_of_it(line):
    samples = 2 * VALUES_PER_PART + 5
    permit_id = line.offer(samples)
    line.turn()
    found = [Excerpt.model_validate_json(m.value) for m in line.broker.excerpts()]
    assert [(e.part, e.parts, e.permit_id) for e in found] == [(k, 3, permit_id) for k in range(3)]
    assert np.concatenate([e.values()["load"] for e in found]).tolist() == list(range(samples))
    envelopes = [read_envelope(m.key, m.headers)[0] for m in line.broker.excerpts()]
    assert [(e.lane, e.msg_no, e.n_rows) for e in envelopes] == [
        (Lane.EXCERPT, k, e.n) for k, e in enumerate(found)
    ]
    assert line.outcomes() == [(permit_id, PermitState.TAKEN)]
    line.turn()
    assert len(line.broker.excerpts()) == 3


def test_withdrawn_consent_deletes_what_is_sealed_and_takes_back_what_was_handed_over(line):
    permit_id = line.offer()
    line.turn()
    line.outcomes()
    assert len(line.sealed()) == 1
    line.consent(False)
    line.turn()
    assert line.sealed() == []
    assert line.broker.disconnected
    assert line.outcomes() == [(permit_id, PermitState.WITHDRAWN)]
    assert line.rig.spool.counters()["excerpt_messages_withdrawn"] == 1
    line.box.returned(line.broker.ids)  # the client gives it back: there is nothing to send again
    line.turn()
    assert len(line.broker.excerpts()) == 1


@pytest.mark.parametrize("running", [True, False])
def test_the_cloud_is_told_which_messages_are_withdrawn_also_without_consent(line, running):
    line.offer(2 * VALUES_PER_PART)
    line.turn()
    assert len(line.broker.excerpts()) == 2
    if running:
        line.consent(False)
    else:
        line.rig.spool.close()
        assert change_consent(line.settings, "off", ()) == 0
        line.restart()
    line.turn()
    line.turn()
    assert line.broker.withdrawals() == [(2, (0, 1))]
    sent = [id_ for id_, m in zip(line.broker.ids, line.broker.taken, strict=True) if b"withdrawn" in m.value]
    line.box.arrived(sent)
    line.turn()
    counters = line.rig.spool.counters()
    assert counters["excerpt_messages_withdrawn"] == 2
    assert counters.get("excerpt_messages_sent", 0) == 0


def test_consent_that_is_withdrawn_between_sealing_and_sending_keeps_it_here(line):
    line.offer()
    with line.rig.spool.transaction():
        line.box.seal(line.rig.now, {}, draining=False)
    line.consent(False)
    line.box.send()
    assert line.broker.excerpts() == []
    line.turn()
    assert (line.sealed(), line.broker.excerpts()) == ([], [])


def test_after_a_restart_without_consent_nothing_leaves_and_with_it_all_does(line):
    permit_id = line.offer()
    with line.rig.spool.transaction():
        line.box.seal(line.rig.now, {}, draining=False)
    line.restart()
    line.desk.settle_unknown(DEVICE, [permit_id, "0" * 16])
    line.turn()
    assert len(line.broker.excerpts()) == 1
    assert set(line.outcomes()) == {(permit_id, PermitState.TAKEN), ("0" * 16, PermitState.LOST)}
    line.consent(False)
    line.restart()
    line.turn()
    assert (line.sealed(), line.broker.excerpts()) == ([], [])


def test_a_full_spool_takes_no_excerpt_and_says_so(tmp_path):
    line = Line(tmp_path, spool_max_bytes=1000)
    permit_id = line.offer(200)
    line.turn()
    [outcome] = line.desk.outcomes(DEVICE)
    assert (outcome.permit_id, outcome.refusal) == (permit_id, PermitRefusal.NO_ROOM)
    assert (line.sealed(), line.broker.excerpts()) == ([], [])


def test_a_transaction_that_fails_tells_no_updater_that_it_was_sealed(line):
    line.offer()

    def fails():
        with line.rig.spool.transaction():
            line.box.seal(line.rig.now, {}, draining=False)
            raise sqlite3.OperationalError("the disk is gone")

    with pytest.raises(SpoolError):
        fails()
    assert line.outcomes() == []


def test_the_switch_deletes_what_is_unsent_where_no_process_runs(line, capsys):
    line.offer()
    line.turn()
    line.rig.spool.close()
    assert change_consent(line.settings, "off", ()) == 0
    said = capsys.readouterr().out
    assert "1 unsent messages with raw samples are deleted" in said
    assert "consent off, changed 2 times" in said
    with sqlite3.connect(line.rig.path) as connection:
        assert connection.execute("SELECT count(*) FROM messages WHERE lane = 'excerpt'").fetchone() == (0,)
    line.restart()
    line.turn()
    assert line.broker.excerpts() == []
    assert change_consent(line.settings, "show", ("nobody",)) == 1


def test_status_says_consent_what_is_held_and_why_a_permit_was_refused():
    told = {
        "consent": True, "changes": 3, "held_s": 42.0, "problem": "", "error": "", "waiting": {"ab": "10:00"},
        "permits": {"taken": 2, "refused": 1, "withdrawn": 0, "lost": 0},
        "last": {"permit": "cd", "refusal": "expired", "detail": "it expired at noon"},
    }  # fmt: skip
    status = {"models": {"m-1": {"excerpts": told}}, "counters": {"excerpt_messages_sent": 5}}
    assert list(excerpt_lines(status)) == [
        "excerpts of m-1: consent on (changed 3 times), 42 s held in memory, permits: 2 taken, 1 refused",
        "  permit ab waits until 10:00",
        "  permit cd refused: it expired at noon",
        "messages with raw samples: 5 received by the cloud, 0 withdrawn",
    ]
    assert list(excerpt_lines({"models": {"m-1": {}}})) == []


def test_the_bytes_of_deleted_excerpts_are_overwritten_in_the_file(line):
    line.offer(3000)
    with line.rig.spool.transaction():
        line.box.seal(line.rig.now, {}, draining=False)
    [(_, value)] = line.sealed()
    sample = value[400:500]
    line.rig.spool.close()
    assert change_consent(line.settings, "off", ()) == 0
    left = [p for p in line.rig.folder.rglob("*") if p.is_file() and sample in p.read_bytes()]
    assert left == []
    line.rig.open()


def test_what_a_running_process_deletes_is_in_no_file_any_more(line):
    line.offer(3000)
    line.turn()
    [(_, value)] = line.sealed()
    sample = value[400:500]
    line.consent(False)
    line.turn()
    left = [p for p in line.rig.folder.rglob("*") if p.is_file() and sample in p.read_bytes()]
    assert left == []


def test_a_clock_that_is_set_while_offline_changes_nothing_about_consent(line):
    before = line.desk.consent(DEVICE)
    after = ConsentFile(line.rig.folder, DEVICE).change(datetime.now(UTC) - timedelta(days=900), given=False)
    assert (after.given, after.changes) == (False, before.changes + 1)
    assert replace(after, history=()) == replace(line.desk.consent(DEVICE), history=())

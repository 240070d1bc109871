"""Laws of handing over: a row to be sent waits for nobody, and everything else has its turn."""

from edge_producer.hand_over import HandOver
from schemas.row_schemas import Stratum
from tests.edge_producer.spool_rig import bench_profile

QUIET, TRIGGER = 0.1, 0.9
NAMES = ("d-1", "d-2", "d-3")


def make(rigs, tmp_path, row_wait_s=0.125, **policy):
    rig = rigs(tmp_path, bench_profile(p=0.0001, p_min=0.0001, **policy), NAMES)
    rig.commit()
    subject = HandOver(rig.devices, 1.0, row_wait_s)
    subject.begin(0.0)
    return rig, subject


def sense(rig, subject, device, score, now_s):
    rig.sense([score], device)
    subject.sensed(device, now_s)


def taken(subject, now_s):
    """Devices whose updates are due, one after the other, and whether each is to be committed at once."""
    subject.begins_round(now_s)
    found = []
    while True:
        updates, commit = subject.take(now_s, everything=False)
        if not updates:
            return found
        found += [(u.device_id, len(u.rows), commit) for u in updates]


def test_a_row_to_be_sent_leaves_within_its_wait_with_those_that_came_meanwhile(rigs, tmp_path):
    rig, subject = make(rigs, tmp_path)
    sense(rig, subject, "d-1", TRIGGER, 0.25)
    sense(rig, subject, "d-2", QUIET, 0.28)
    sense(rig, subject, "d-3", TRIGGER, 0.3125)
    assert subject.wait_s(0.3125) == 0.0625
    assert taken(subject, 0.37) == []
    assert taken(subject, 0.375) == [("d-1", 1, False), ("d-3", 1, True)]
    assert subject.wait_s(0.375) == 0.625


def test_what_waits_for_the_round_has_its_turn_once(rigs, tmp_path):
    rig, subject = make(rigs, tmp_path)
    for name in NAMES:
        sense(rig, subject, name, QUIET, 0.5)
    assert taken(subject, 0.99) == []
    assert taken(subject, 1.0) == [("d-1", 0, False), ("d-2", 0, False), ("d-3", 0, True)]
    assert taken(subject, 1.5) == []


def test_rows_pass_a_round_that_is_under_way(rigs, tmp_path):
    rig, subject = make(rigs, tmp_path, row_wait_s=0.0)
    for name in NAMES:
        sense(rig, subject, name, QUIET, 0.5)
    assert subject.begins_round(1.0)
    assert subject.take(1.0, everything=False)[0][0].device_id == "d-1"
    sense(rig, subject, "d-3", TRIGGER, 1.0)
    [update], commit = subject.take(1.0, everything=False)
    assert (update.device_id, commit) == ("d-3", True)
    assert [r.stratum for r in update.rows] == [Stratum.CONTEXT, Stratum.RULE]


def test_rows_that_left_by_another_way_are_not_waited_for(rigs, tmp_path):
    rig, subject = make(rigs, tmp_path)
    sense(rig, subject, "d-1", TRIGGER, 0.2)
    assert rig.devices["d-1"].take_update().rows  # as an alert has them handed over
    assert taken(subject, 0.5) == []
    assert subject.wait_s(0.5) == 0.5


def test_everything_of_a_round_can_be_taken_at_once(rigs, tmp_path):
    rig, subject = make(rigs, tmp_path)
    for name in NAMES:
        rig.sense([QUIET], name)
    subject.begins_round(1.0)
    updates, commit = subject.take(1.0, everything=True)
    assert [u.device_id for u in updates] == list(NAMES)
    assert commit

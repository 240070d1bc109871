"""Rows name the revision of what a device has learnt, from the window to the lake."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from edge_producer.deciding.answer_check import revision_of
from edge_producer.sensed_rows import Row
from edge_producer.spool.spool_keeper import SpoolKeeper, SpoolPlace
from schemas.envelope import MessageVerifier
from schemas.errors import ProfileError
from schemas.profile import Profile
from schemas.profile_changes import judge
from schemas.row_schemas import telemetry_layout
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.records import TaskState
from stream_processors.ingest.ingest_job import Ingest
from tests.edge_producer.spool_rig import bench_profile, row
from tests.simulators.messages import T0, SimDevice, SimDirectory, SimLog, telemetry_batch
from tests.verticals.wearers import pulse_profile
from tests.verticals.worn_rig import WornRig

QUIET = np.random.default_rng(3).normal(58, 3, 60).tolist()


def test_rows_name_the_revision_through_spool_power_cut_and_messages(tmp_path):
    rig = WornRig(tmp_path)
    rig.sense([*QUIET, float("nan")])
    device = rig.devices["d-1"]
    expected = [r.calibration for r in device._sensed]
    rig.commit()
    rig.crash()
    rig.seal(limit=40)
    rig.seal(limit=40)
    rows = rig.rows_of(rig.sealed.values())
    assert [r["calibration"] for r in rows] == expected
    assert len(set(expected)) > 3
    assert expected[-1] is None  # without a score the function is not asked: it went by none
    assert all(len(name) == 16 for name in expected[:-1])


def test_a_revision_that_the_disk_changed_is_not_sent(tmp_path):
    rig = WornRig(tmp_path)
    rig.sense(QUIET)
    rig.commit()
    with closing(sqlite3.connect(rig.path)) as connection, connection:
        altered = "substr(decision, 1, instr(decision, char(9))) || '00000000deadbeef'"
        connection.execute(f"UPDATE rows SET decision = {altered} WHERE seq = 7")
    rig.seal()
    assert 7 not in [r["seq"] for r in rig.rows_of(rig.sealed.values())]
    assert len(rig.rows_of(rig.sealed.values())) == len(QUIET) - 1


def test_what_is_taken_over_of_a_damaged_spool_keeps_its_revisions(tmp_path):
    rig = WornRig(tmp_path)
    rig.sense(QUIET)
    rig.commit()
    before = [r.calibration for r in rig.unsealed()]
    rig.close()
    with closing(sqlite3.connect(rig.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(rig.path.read_bytes())
    data[:100] = bytes(100)
    rig.path.write_bytes(data)
    verifiers = {n: MessageVerifier(i.public_pem.encode()) for n, i in rig.identities.items()}
    keeper = SpoolKeeper(
        SpoolPlace(rig.path, rig.names, rig.profile, max_bytes=10**9), lambda: verifiers, lambda: rig.now
    )
    spool = keeper.open_first()
    assert keeper.get() is not None
    keeper.salvage()
    found = [r.calibration for no in spool.names for r in spool.rows.read(no, -1.0, float("inf"), 10**6)]
    keeper.close()
    assert found == before
    assert None not in before


def test_a_held_row_keeps_its_revision_and_those_of_0_2_0_are_read():
    named = row(1)
    named.calibration = "0123456789abcdef"
    assert Row.from_json(named.to_json()).calibration == named.calibration
    plain = row(2)
    assert len(plain.to_json()) == len(named.to_json()) - 1  # what 0.2.0 writes and reads
    assert Row.from_json(plain.to_json()).calibration is None


def test_equal_values_of_two_devices_have_different_names_that_nobody_can_find_by_trying():
    values = '{"mean":58.0}'
    assert revision_of(b"a" * 32, values) == revision_of(b"a" * 32, values)
    assert revision_of(b"a" * 32, values) != revision_of(b"b" * 32, values)
    assert revision_of(b"a" * 32, values) != revision_of(b"a" * 32, '{"mean":58.1}')


CALIBRATING = pulse_profile().model_copy(update={"name": "machine"})


def test_it_lands_as_a_column_and_what_is_no_revision_is_refused():
    names = ["0123456789abcdef", None, "58.25 beats a min", "0123456789ABCDEF", "0123456789abcdef\n"]
    device, log = SimDevice(), SimLog()
    batch = telemetry_batch("machine-00", 0, len(names), CALIBRATING, calibration=names)
    jobs = [Ingest(SimDirectory(device, profiles=(CALIBRATING,)))]
    found = run_jobs(jobs, [log.append(device.telemetry(batch))], TaskState("task-00"), T0)
    assert found.rows["telemetry_machine"]["calibration"].to_pylist() == names[:2]
    assert found.rows["quarantine"]["reason"].to_pylist() == ["calibration is no revision"] * 3


def test_only_a_profile_that_says_so_has_the_column_and_none_gets_it_in_place():
    plain = bench_profile()
    assert "calibration" not in [c.name for c in telemetry_layout(plain).columns]
    assert telemetry_layout(pulse_profile()).columns[-1].name == "calibration"
    content = plain.canonical()
    assert "calibrates" not in content["decision"]
    content["decision"] |= {"function": "personal_alarm", "calibrates": True, "function_timeout_s": 0.9}
    assert not judge(plain, Profile.model_validate(content)).compatible
    content["decision"]["function"] = None
    with pytest.raises((ValueError, ProfileError), match="calibrates needs"):
        Profile.model_validate(content)


def test_a_rule_that_stands_is_the_policy_roles_to_change():
    content = bench_profile().canonical()
    assert "stands" not in content["decision"]["rules"][0]
    content["decision"]["rules"][0]["stands"] = True
    verdict = judge(bench_profile(), Profile.model_validate(content))
    assert (verdict.compatible, verdict.authority) == (True, "policy")

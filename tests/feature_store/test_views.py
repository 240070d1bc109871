"""Derived views: newest books, spans of action, fleet, data quality."""

from datetime import timedelta

import pyarrow as pa

from feature_store import connect
from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRecord, DeviceRegistry, ProfileRegistry
from schemas.row_schemas import Reason, channel_bit
from schemas.tables import QUARANTINE, TableSpec
from tests.feature_store.fleets import (
    PROFILE,
    alerts,
    books,
    land,
    machine_lake,
    quarantined,
    states,
    telemetry,
)
from tests.feature_store.lakes import SECOND, T0

START, SAMPLE, SAFE = int(Reason.TRANSITION), int(Reason.SAMPLE), int(Reason.FAIL_SAFE)


def ask(root, sql):
    with connect(root) as con:
        return con.execute(sql).fetchall()


def test_books_hold_the_newest_revision_and_statements_all_of_them(lake_root):
    lake = machine_lake(lake_root)
    key = {"device_id": ["d"] * 3, "stratum": ["sample"] * 2 + ["rule"]}
    land(lake, books=books(**key, revision=[1, 2, 1], sensed=[5, 5, 1], acked=[0, 3, 1]))
    land(lake, books=books(device_id=["d"], stratum=["sample"], revision=[1], sensed=[5], acked=[9]))
    assert ask(lake_root, "SELECT stratum, acked FROM books ORDER BY 1") == [("rule", 1), ("sample", 3)]
    assert ask(lake_root, "SELECT count(*) FROM books_statements") == [(4,)]


def test_an_alarm_is_the_start_of_an_action_with_its_end(lake_root):
    lake = machine_lake(lake_root)
    seqs = [0, 3, 4, 7]
    rows = telemetry(
        device_id=["d"] * 4,
        seq=seqs,
        event_time=[T0 + s * SECOND for s in seqs],
        decision=["none", "inspect", "inspect", "none"],
        reasons=[SAMPLE, START, SAMPLE, START],
    )
    land(lake, telemetry=rows)
    found = ask(lake_root, "SELECT seq, action, until, alerted FROM alarms")
    assert [(s, a, alerted) for s, a, _, alerted in found] == [(3, "inspect", False)]
    assert found[0][2] == T0 + 7 * SECOND


def test_an_alert_and_the_row_it_copies_are_one_alarm(lake_root):
    lake = machine_lake(lake_root)
    early, late = T0 + SECOND, T0 + 60 * SECOND
    land(lake, alerts=alerts(device_id=["d", "e"], seq=[3, 9], action=["stop", "stop"], known_at=[early] * 2))
    row = telemetry(device_id=["d"], seq=[3], decision=["stop"], reasons=[START], known_at=[late])
    land(lake, telemetry=row)
    found = ask(lake_root, "SELECT device_id, action, alerted, known_at FROM alarms ORDER BY 1")
    assert found == [("d", "stop", True, early), ("e", "stop", True, early)]


def at(*seconds):
    return [T0 + s * SECOND for s in seconds]


def test_an_action_in_force_when_a_boot_ends_lasts_until_a_later_boot_is_seen_without_it(lake_root):
    """A start goes on with it. More rows of the same boot, and other devices, end nothing."""
    lake = machine_lake(lake_root)
    land(
        lake,
        telemetry=telemetry(
            device_id=["d"] * 6 + ["e", "other"],
            boot_id=[7, 7, 3, 3, 3, 3, 7, 9],
            seq=[1, 2, 0, 1, 2, 3, 1, 0],
            event_time=at(1, 2, 60, 90, 120, 121, 1, 5),
            decision=["stop"] * 4 + ["none", "none", "stop", "none"],
            reasons=[START, SAMPLE, SAMPLE, SAMPLE, START, SAMPLE, START, SAMPLE],
        ),
        # Of f nothing but an alert has arrived, then its reports after a restart.
        alerts=alerts(device_id=["f"], boot_id=[5], seq=[9], event_time=at(9), action=["stop"]),
        device_states=states(
            device_id=["f"] * 3,
            boot_id=[5, 6, 6],
            event_time=at(0, 30, 45),
            decision=["none", "stop", "none"],
        ),
    )
    found = ask(lake_root, "SELECT device_id, until FROM alarms ORDER BY 1")
    assert found == [("d", T0 + 120 * SECOND), ("e", None), ("f", T0 + 45 * SECOND)]


def test_an_earlier_boot_and_rows_of_doubtful_time_end_no_alarm(lake_root):
    """What waited long comes late: then its boot is known after the one in alarm, by its times before it."""
    lake = machine_lake(lake_root)
    stop = {"decision": ["stop"], "reasons": [START], "event_time": at(100)}
    for device, boot in (("a", 1), ("b", 1), ("c", 1)):
        land(lake, telemetry=telemetry(device_id=[device], boot_id=[boot], known_at=at(100), **stop))
    idle = {"decision": ["none"], "reasons": [SAMPLE], "boot_id": [2]}
    late = {"event_time": at(50), "known_at": at(200)}
    suspect = {"event_time": at(200), "known_at": at(200), "time_suspect": [True]}
    earlier = {"event_time": at(150), "known_at": at(20)}  # its clock was ahead
    for device, given in (("a", late), ("b", suspect), ("c", earlier)):
        land(lake, telemetry=telemetry(device_id=[device], **idle, **given))
    assert ask(lake_root, "SELECT device_id, until FROM alarms ORDER BY 1") == [
        ("a", None), ("b", None), ("c", None)
    ]  # fmt: skip


def test_an_alarm_without_a_score_is_fail_safe(lake_root):
    lake = machine_lake(lake_root)
    rows = telemetry(device_id=["d"], decision=["slow_down"], reasons=[START | SAFE])
    land(lake, telemetry=rows)
    assert ask(lake_root, "SELECT action, fail_safe FROM alarms") == [("slow_down", True)]


def record(device, site="north", **more):
    return DeviceRecord(device, "machine", site, "g1", "hw1", f"key-{device}", "PEM", **more)


def test_the_fleet_joins_the_newest_place_and_the_newest_report(lake_root):
    lake = machine_lake(lake_root)
    registry = DeviceRegistry(lake)
    registry.register([record("a"), record("b")])
    registry.register([record("a", site="south")])
    reports = {"pending_rows": [7, 2], "known_at": [T0, T0 + SECOND]}
    land(lake, device_states=states(device_id=["a", "a"], **reports))
    found = ask(lake_root, 'SELECT device_id, site, "group", pending_rows FROM fleet ORDER BY 1')
    assert found == [("a", "south", "g1", 2), ("b", "north", "g1", None)]
    cohorts = ask(lake_root, "SELECT cohort, devices FROM cohorts ORDER BY 1")
    assert cohorts == [("machine/north/g1/hw1", 1), ("machine/south/g1/hw1", 1)]


def test_data_quality_sets_the_books_against_what_landed(lake_root):
    lake = machine_lake(lake_root)
    DeviceRegistry(lake).register([record("a"), record("silent")])
    land(
        lake,
        books=books(device_id=["a", "a"], stratum=["rule", "sample"], sensed=[4, 10], acked=[4, 1],
                    filtered=[0, 8], evicted=[0, 1], gap=[False, True]),
        telemetry=telemetry(device_id=["a"] * 4, time_suspect=[False, False, False, True]),
        quarantine=quarantined(topic=["telemetry.v1", "books.v1"], producer=["a", "stranger"], n_rows=[1, 5],
                               verified=[True, False]),
    )  # fmt: skip
    columns = "registered, sensed, acked, landed, quarantined, quarantined_messages, time_suspect, gaps"
    found = ask(lake_root, f"SELECT device_id, {columns} FROM data_quality ORDER BY 1")
    assert found == [
        ("a", True, 14, 5, 4, 1, 1, 1, 1),
        ("silent", True, 0, 0, 0, 0, 0, 0, 0),
    ]


def test_what_nobody_signed_says_nothing_about_the_device_whose_key_it_bears(lake_root):
    lake = machine_lake(lake_root)
    DeviceRegistry(lake).register([record("a")])
    land(
        lake,
        quarantine=quarantined(
            producer=["a", "a", None, "a"], verified=[True, False, False, True], n_rows=[2, 900, 0, 1],
            n_messages=[1, 1, 400_000, 0],
            error=["DecodeError", "SignatureError", "DecodeError", "PolicyError"],
            _partition=[3] * 4, topic=["telemetry.v1"] * 4,
        ),
    )  # fmt: skip
    columns = "device_id, quarantined, quarantined_messages"
    assert ask(lake_root, f"SELECT {columns} FROM data_quality") == [("a", 3, 2)]
    columns = 'device_id, verified, error, messages, single_rows, "rows"'
    assert ask(lake_root, f"SELECT {columns} FROM refusals ORDER BY messages, error") == [
        ("a", True, "PolicyError", 0, 1, 1),
        ("a", True, "DecodeError", 1, 0, 2),
        (None, False, "SignatureError", 1, 0, 900),
        (None, False, "DecodeError", 400_000, 0, 0),
    ]


def test_a_cut_from_before_a_column_was_added_still_answers(lake_root):
    lake = Lake.open(lake_root)
    older = pa.schema([f for f in QUARANTINE.schema if f.name not in ("verified", "n_messages", "digest")])
    lake.ensure_table(TableSpec(QUARANTINE.name, QUARANTINE.doc, older))
    refused = quarantined(producer=["a"], n_rows=[3]).select(older.names)
    land(lake, quarantine=refused)
    expected = [(None, None, 1, 3)]
    query = 'SELECT device_id, verified, messages, "rows" FROM refusals'
    assert ask(lake_root, query) == expected
    lake.ensure_fixed_tables()
    land(lake, quarantine=refused)
    assert ask(lake_root, query) == [(None, None, 2, 6)]


def test_all_profiles_meet_in_the_union_view(lake_root):
    lake = machine_lake(lake_root)
    land(lake, telemetry=telemetry(device_id=["d"], event_time=[T0 - timedelta(days=900)]))
    assert ask(lake_root, "SELECT profile, device_id, day::VARCHAR FROM telemetry") == [
        ("machine", "d", "2026-01-01")
    ]


def test_the_profiles_own_idle_action_is_no_alarm(lake_root):
    lake = machine_lake(lake_root)
    calm = PROFILE.decision.model_copy(update={"idle": "watch"})
    ProfileRegistry(lake).register(PROFILE.model_copy(update={"decision": calm}))
    rows = telemetry(device_id=["d"] * 2, seq=[1, 2], decision=["stop", "watch"], reasons=[START] * 2)
    land(lake, telemetry=rows)
    assert ask(lake_root, "SELECT seq, action FROM alarms") == [(1, "stop")]


def test_a_routine_action_is_no_alarm_ends_one_and_does_not_hide_that_of_an_alert(lake_root):
    lake = machine_lake(lake_root)
    routine = PROFILE.decision.model_copy(update={"actions": ("green",)})
    ProfileRegistry(lake).register(PROFILE.model_copy(update={"decision": routine}))
    actions = [
        "green",
        "stop",
        "green",
        "green",
    ]  # at 4 the rules have alarmed, and the function overruled them
    times = [T0 + s * SECOND for s in (1, 2, 3, 4)]
    rows = telemetry(
        device_id=["d"] * 4, seq=[1, 2, 3, 4], event_time=times, decision=actions, reasons=[START] * 4
    )
    land(
        lake,
        telemetry=rows,
        alerts=alerts(device_id=["d"], seq=[4], event_time=times[3:], action=["inspect"]),
    )
    found = ask(lake_root, "SELECT seq, action, until FROM alarms ORDER BY seq")
    assert found == [(2, "stop", times[2]), (4, "inspect", None)]


def test_the_channels_that_a_row_lacked_have_their_names(lake_root):
    lake = machine_lake(lake_root)
    marks = [SAMPLE, SAMPLE | channel_bit(1), START | channel_bit(0) | channel_bit(2)]
    rows = telemetry(device_id=["d"] * 3, seq=[0, 1, 2], reasons=marks, score=[0.1, 0.2, None])
    land(lake, telemetry=rows)
    found = ask(lake_root, "SELECT seq, channel, score IS NULL FROM missing_channels ORDER BY 1, 2")
    assert found == [(1, "temperature", False), (2, "current", True), (2, "vibration", True)]


def test_rows_with_samples_outside_their_range_are_counted_for_each_device(lake_root):
    lake = machine_lake(lake_root)
    out = int(Reason.OUT_OF_RANGE)
    land(lake, telemetry=telemetry(device_id=["d", "d", "e"], seq=[0, 1, 0], reasons=[out, SAMPLE, SAMPLE]))
    found = ask(lake_root, "SELECT device_id, out_of_range FROM data_quality ORDER BY 1")
    assert found == [("d", 1), ("e", 0)]


def test_a_device_that_loses_too_many_samples_to_absurd_says_which_share_and_channel(lake_root):
    """Of its newest start; one that never lost too many says nothing."""
    lake = machine_lake(lake_root)
    land(lake, telemetry=telemetry(device_id=["d", "e"], seq=[0, 0]))
    reports = {
        "boot_id": [1, 2, 2, 2],
        "known_at": [T0 + s * SECOND for s in range(4)],
        "absurd_share": [0.9, None, 0.2, 0.1],
        "absurd_channel": ["current", None, "vibration", "temperature"],
    }
    land(lake, device_states=states(device_id=["d"] * 4, **reports))
    found = ask(lake_root, "SELECT device_id, absurd_share, absurd_channel FROM data_quality ORDER BY 1")
    assert found == [("d", 0.2, "vibration"), ("e", None, None)]


def test_a_device_says_how_often_numbers_of_its_actions_were_clipped_since_it_started(lake_root):
    lake = machine_lake(lake_root)
    land(lake, telemetry=telemetry(device_id=["d", "e"], seq=[0, 0]))
    reports = {
        "boot_id": [1, 2, 2, 2],
        "known_at": [T0 + s * SECOND for s in range(4)],
        "clipped_times": [9, None, 2, 5],
        "clipped_number": ["green.offset_s", None, "green.green_s", "green.cycle_s"],
    }
    land(lake, device_states=states(device_id=["d"] * 4, **reports))
    asked = "SELECT device_id, numbers_clipped, clipped_number FROM data_quality ORDER BY 1"
    assert ask(lake_root, asked) == [("d", 5, "green.cycle_s"), ("e", None, None)]


def test_what_goes_on_with_an_incident_is_no_alarm_of_its_own_and_ends_the_one_before(lake_root):
    lake = machine_lake(lake_root)
    again = START | int(Reason.REPEATED)
    rows = telemetry(
        device_id=["d"] * 4,
        seq=[0, 1, 2, 3],
        event_time=[T0 + s * SECOND for s in range(4)],
        decision=["stop", "inspect", "none", "inspect"],
        reasons=[START, again, START, again],
    )
    land(lake, telemetry=rows)
    found = ask(lake_root, "SELECT seq, action, until FROM alarms")
    assert [(seq, action) for seq, action, _ in found] == [(0, "stop")]
    assert found[0][2] == T0 + SECOND

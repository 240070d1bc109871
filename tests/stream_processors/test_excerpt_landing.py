"""Excerpts land once, within what the profile lets leave; what is refused leaves no sample anywhere else."""

import json
from datetime import timedelta

import numpy as np
import pytest

from feature_store import connect
from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.excerpt_retention import expire_excerpts
from feature_store.lake import Lake, TableCommit
from feature_store.lake_registry import ProfileRegistry
from feature_store.maintenance import GRACE, vacuum
from feature_store.sql import query
from infra.kafka.kafka_admin import LogMessage
from infra.kafka.log_view import view
from schemas.errors import QueryError
from schemas.excerpt_event import Excerpt, ExcerptWithdrawal, samples_text
from schemas.excerpt_table import excerpts_table
from schemas.instants import utc_now
from schemas.tables import LANE_GAPS, QUARANTINE
from schemas.topics import EXCERPT, Lane
from stream_processors.engine.letters import originals_wanted
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.poison import GuiltyMessage, JobFailure
from stream_processors.engine.poison_store import quarantine
from stream_processors.engine.records import TaskState
from stream_processors.ingest.ingest_job import Ingest
from tests.simulators.excerpt_permits import with_excerpts
from tests.simulators.messages import MACHINE, T0, SimDevice, SimDirectory, SimLog

PROFILE = with_excerpts()
NOW = T0 + timedelta(minutes=2)
TABLE = "excerpts_machine"
SAMPLES = np.array([1.5, np.nan, np.inf, -2.0])


def excerpt(device, **given):
    fields = {
        "device_id": device.device_id, "boot_id": 7, "event_time": T0, "permit_id": "ab" * 8,
        "purpose": "review", "approver": "anna", "part": 0, "parts": 1, "first": 0,
        "rate_hz": PROFILE.sampling.rate_hz, "n": len(SAMPLES),
        "samples": {"vibration": samples_text(SAMPLES)},
    }  # fmt: skip
    event = Excerpt(**{**fields, **given}).model_dump_json().encode()
    return device.seal_value(EXCERPT.base, Lane.EXCERPT, "json", event, given.get("n", 4), len(event))


def ingest(device, *batches, profile=PROFILE):
    state, outcomes = TaskState("task-00"), []
    for messages in batches:
        outcome = run_jobs([Ingest(SimDirectory(device, profiles=(profile,)))], messages, state, NOW)
        outcomes.append(outcome)
        counters = {k: state.counters.get(k, 0) + v for k, v in outcome.counters.items()}
        merged = {**state.state, **outcome.state}
        state = TaskState("task-00", state.n + 1, {}, merged, {**state.counters, **counters})
    return outcomes, state


def counted(state, what):
    return state.counters.get(f"ingest/{EXCERPT.base}/{what}", 0)


def test_an_excerpt_lands_once_however_often_it_is_sent():
    device, log = SimDevice(), SimLog()
    sealed = excerpt(device)
    outcomes, state = ingest(device, [log.append(sealed), log.append(sealed)], [log.append(sealed)])
    [rows] = [o.rows[TABLE] for o in outcomes if TABLE in o.rows]
    assert rows.schema.equals(excerpts_table(PROFILE).schema)
    assert rows["raw_vibration"].to_pylist() == [1.5, None, np.inf, -2.0]
    assert rows["raw_current"].null_count == rows.num_rows
    assert rows["sample"].to_pylist() == [0, 1, 2, 3]
    step = timedelta(seconds=1 / PROFILE.sampling.rate_hz)
    assert abs(rows["event_time"].to_pylist()[3] - T0 - 3 * step) < timedelta(microseconds=2)
    assert (counted(state, "landed_rows"), counted(state, "duplicate_rows")) == (4, 8)
    assert counted(state, "received_rows") == 12


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"samples": {"current": samples_text(SAMPLES)}}, "PolicyError"),
        ({"purpose": "curiosity"}, "PolicyError"),
        ({"first": 21 * 512 * 3}, "PolicyError"),
        ({"samples": {"vibration": "x"}}, "DecodeError"),
        ({"n": 3}, "DecodeError"),
        ({"device_id": "machine-99"}, "MessageError"),
        ({"part": 1}, "DecodeError"),
    ],
)
def test_what_nobody_may_permit_is_refused_without_its_bytes(given, error):
    device, log = SimDevice(), SimLog()
    [outcome], _ = ingest(device, [log.append(excerpt(device, **given))])
    assert TABLE not in outcome.rows
    assert outcome.rows[QUARANTINE.name]["error"].to_pylist() == [error]
    assert_no_sample_in(outcome.messages)


def withdrawal(device, *numbers):
    event = ExcerptWithdrawal(withdrawn=numbers).model_dump_json().encode()
    return device.seal_value(EXCERPT.base, Lane.EXCERPT, "json", event, 0, len(event))


def test_withdrawn_messages_are_no_loss_and_land_no_more():
    device, log = SimDevice(), SimLog()
    first, late, after = (excerpt(device) for _ in range(3))
    told = withdrawal(device, 0, 1)
    (before, healed, again), state = ingest(
        device, [log.append(first), log.append(after)], [log.append(told)], [log.append(late)]
    )
    assert before.rows[LANE_GAPS.name]["missing"].to_pylist() == [1]
    assert healed.rows[LANE_GAPS.name]["missing"].to_pylist() == [0]
    # Number 0 had left before consent was withdrawn: it landed, and is not counted as withdrawn.
    assert (counted(state, "withdrawn_messages"), counted(state, "missing_messages")) == (1, 0)
    assert TABLE not in healed.rows
    assert TABLE not in again.rows
    assert (counted(state, "landed_rows"), counted(state, "duplicate_messages")) == (8, 1)


def test_a_withdrawal_of_what_was_not_sealed_before_it_is_refused():
    device, log = SimDevice(), SimLog()
    [outcome], state = ingest(device, [log.append(withdrawal(device, 0))])
    assert outcome.rows[QUARANTINE.name]["error"].to_pylist() == ["DecodeError"]
    assert counted(state, "withdrawn_messages") == 0


def assert_no_sample_in(letters):
    assert len(letters) == 1
    assert originals_wanted(letters, {}) == {}
    text = samples_text(SAMPLES).encode()
    for letter in letters:
        assert letter.copy_of is None
        assert text not in b"".join([letter.value, *(v for _, v in letter.headers)])


@pytest.mark.parametrize("how", ["no section", "stranger", "revoked", "altered", "poison"])
def test_no_dead_letter_holds_a_sample_whoever_sent_it(how):
    device, log = SimDevice(), SimLog()
    raw = log.append(excerpt(device))
    if how == "poison":
        failure = JobFailure("ingest", "ValueError", "a bug", "raised")
        apart = quarantine([GuiltyMessage(raw, failure, None)])
        assert_no_sample_in(apart.letters)
        assert samples_text(SAMPLES) not in json.dumps([e.to_json() for e in apart.entries])
        return
    if how == "altered":
        raw = raw._replace(value=raw.value.replace(b"anna", b"otto"))
    directory = SimDirectory(
        *([] if how == "stranger" else [device]),
        profiles=(MACHINE,) if how == "no section" else (PROFILE,),
        revoked=(device.device_id,) if how == "revoked" else (),
    )
    outcome = run_jobs([Ingest(directory)], [raw], TaskState("task-00"), NOW)
    assert TABLE not in outcome.rows
    assert_no_sample_in(outcome.messages)
    assert samples_text(SAMPLES) not in json.dumps(dict(outcome.state), default=str)


def test_a_version_that_is_not_known_here_keeps_no_samples_waiting():
    from schemas.version_names import VersionHeader

    device, log = SimDevice(version=VersionHeader(9, "0" * 16)), SimLog()
    [outcome], _ = ingest(device, [log.append(excerpt(device))])
    assert outcome.rows[QUARANTINE.name]["error"].to_pylist() == ["ProfileVersionError"]
    assert_no_sample_in(outcome.messages)
    assert samples_text(SAMPLES) not in json.dumps(dict(outcome.state), default=str)


@pytest.fixture
def lake(tmp_path):
    lake = Lake.open(tmp_path / "lake")
    lake.ensure_fixed_tables()
    ProfileRegistry(lake).register(PROFILE)
    return lake


def land(lake, cuts, n, age_days=0):
    device, log = SimDevice(), SimLog()
    at = utc_now() - timedelta(days=age_days)
    [outcome], _ = ingest(device, [log.append(excerpt(device), at=at)])
    staged = lake.stage(TABLE, outcome.rows[TABLE], "task-00", n)
    lake.apply(TABLE, [TableCommit("task-00", n, tuple(staged))])
    cuts.record({"task-00": n})
    CommitLog(lake.root).mark_applied("task-00", n)


def test_only_a_reader_who_asks_sees_raw_samples(lake):
    cuts = CutStore(lake)
    land(lake, cuts, 0)
    sql = f"SELECT count(*) AS n FROM {TABLE}"
    with pytest.raises(QueryError, match="does not exist"):
        query(lake.root, sql)
    with connect(lake.root, comments=False) as connection:
        shown = {name for (name,) in connection.execute("SELECT view_name FROM duckdb_views()").fetchall()}
    assert TABLE not in shown
    assert query(lake.root, sql, excerpts=True)["n"].to_pylist() == [4]
    with pytest.raises(QueryError, match="as of now"):
        query(lake.root, sql, 1, excerpts=True)
    assert (lake.root / TABLE).stat().st_mode & 0o777 == 0o700


def test_excerpts_go_when_their_time_is_over_whatever_names_them(lake):
    cuts = CutStore(lake)
    land(lake, cuts, 0, age_days=PROFILE.excerpts.retention_days + 2)
    land(lake, cuts, 1)
    cuts.pin("kept")
    assert expire_excerpts(lake, cuts, utc_now()) == 1
    assert expire_excerpts(lake, cuts, utc_now()) == 0
    sql = f"SELECT count(*) AS n FROM {TABLE}"
    assert query(lake.root, sql, excerpts=True)["n"].to_pylist() == [4]
    vacuum(lake, cuts, utc_now() + GRACE + timedelta(minutes=5))
    assert len(list((lake.root / TABLE).glob("day=*/*.parquet"))) == 1
    assert query(lake.root, sql, excerpts=True)["n"].to_pylist() == [4]
    with connect(lake.root, "kept", comments=False) as connection:
        assert connection.execute("SELECT count(*) FROM telemetry").fetchone() == (0,)


def test_a_tail_of_the_topic_shows_no_sample():
    device = SimDevice()
    sealed = excerpt(device)
    message = LogMessage("excerpt.v1", 0, 0, T0, sealed.key, list(sealed.headers), sealed.value)
    shown = json.dumps(view(message, "", None, None), default=str)
    assert samples_text(SAMPLES) not in shown
    assert "anna" in shown

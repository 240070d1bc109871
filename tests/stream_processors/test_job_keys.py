"""Each version of a task's state is what a dictionary copied for it would be, however versions are asked."""

import pickle

from hypothesis import given, settings
from hypothesis import strategies as st

from stream_processors.engine.job_keys import JobKeys, KeyVersion
from stream_processors.engine.records import CommitRecord, LogIdentity, TaskState
from stream_processors.job import Derived

KEYS = st.sampled_from(["ingest/marks/a", "ingest/marks/b", "ingest/x", "drift/x", "tally/y"])
CHANGES = st.dictionaries(KEYS, st.none() | st.integers(0, 3), max_size=4)


@settings(max_examples=60)
@given(start=st.dictionaries(KEYS, st.integers(0, 3)), steps=st.lists(st.tuples(st.integers(0, 5), CHANGES)))
def test_every_version_stays_what_it_was(start, steps):
    """A step changes one of the versions there are: the newest, or one that others were made from."""
    kept = [(JobKeys.of(start), start)]
    for back, changes in steps:
        version, copied = kept[max(0, len(kept) - 1 - back)]
        both = {**copied, **changes}
        kept.append((version.changed(changes), {k: v for k, v in both.items() if v is not None}))
        for one, expected in kept:
            assert one == expected
            assert len(one) == len(expected)
            assert {**one.of_job("ingest")} == {
                k.removeprefix("ingest/"): v for k, v in expected.items() if k.startswith("ingest/")
            }
            assert ("ingest/x" in one) == ("ingest/x" in expected)
            assert one.get("drift/x") == expected.get("drift/x")


def test_the_newest_version_of_a_long_line_shares_what_it_did_not_change():
    big = {f"k{i}": [i] for i in range(1000)}
    version = first = KeyVersion(big)
    for i in range(50):
        version = version.changed({"k1": [i]})
    assert version["k2"] is big["k2"]
    assert version["k1"] == [49]
    assert first["k1"] == [1]
    assert version["k1"] == [49]


def test_a_version_travels_to_another_process_as_it_is():
    older = JobKeys.of({"ingest/a": 1, "drift/b": 2})
    newer = older.changed({"ingest/a": None, "drift/c": 3})
    assert pickle.loads(pickle.dumps(older)) == {"ingest/a": 1, "drift/b": 2}
    assert pickle.loads(pickle.dumps(newer)) == {"drift/b": 2, "drift/c": 3}


def test_a_commit_changes_a_state_as_its_record_says_and_the_state_before_is_as_it_was():
    log = LogIdentity("c", {})
    before = TaskState("task-00", 4, {}, {"ingest/a": 1, "ingest/b": 2})
    record = CommitRecord("task-00", 5, "", log, {}, state={"ingest/a": None, "ingest/c": 3})
    after = before.after(CommitRecord.from_bytes(record.to_bytes()))
    assert after.of_job("ingest") == {"b": 2, "c": 3}
    assert before.of_job("ingest") == {"a": 1, "b": 2}
    assert TaskState.from_bytes(after.to_bytes()) == after


def test_derived_messages_stand_in_a_record_as_their_text_and_any_other_bytes_come_back_too():
    text, other = Derived("aggregate.v1", "k", '{"a": "größer"}'.encode()), Derived("x", "k", b"\xff\x00")
    record = CommitRecord("task-00", 0, "", LogIdentity("c", {}), {}, messages=(text, other))
    assert '{\\"a\\": \\"größer\\"}'.encode() in record.to_bytes()
    assert CommitRecord.from_bytes(record.to_bytes()).messages == (text, other)

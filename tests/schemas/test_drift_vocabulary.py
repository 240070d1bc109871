"""One list of words for what a drift is: every word is given by something, and old words are still read."""

import json

import pytest

from schemas.drift_vocabulary import NEW_NORMAL, OLD_WORDS, DriftKind, drift_kind
from schemas.errors import DecodeError
from schemas.events import DriftVerdict, parse_event
from schemas.tables import DRIFT
from stream_processors.drift.drift_kinds import ACTIONS, DriftEvidence, classify

VERDICT = {
    "event_id": "task-03/7/0",
    "cohort": "machine/s/g/h",
    "profile": "machine",
    "model_version": "m@1",
    "feature": "temperature_mean",
    "statistic": "level",
    "kind": "covariate",
    "onset": "2026-07-01T12:00:00Z",
    "detected": "2026-07-01T12:10:00Z",
    "size": 4.0,
    "devices": 20,
    "evidence": {},
    "suggested_action": "",
}


def read(kind):
    return parse_event(DriftVerdict, json.dumps(VERDICT | {"kind": kind}).encode())


def test_each_kind_is_given_and_has_an_action():
    given = {
        classify(DriftEvidence(abrupt, 3, 20, share, channels, scaled))
        for abrupt in (True, False)
        for share in (0.05, 1.0)
        for channels in (0, 1, 2)
        for scaled in (0.0, 1.0)
    }
    assert given == set(DriftKind) == set(ACTIONS)
    assert set(DriftKind) > NEW_NORMAL


@pytest.mark.parametrize("kind", list(DriftKind))
def test_a_message_carries_the_kinds_own_word(kind):
    event = read(kind.value)
    assert event.kind is kind
    assert json.loads(event.model_dump_json())["kind"] == kind.value


@pytest.mark.parametrize("word", sorted(OLD_WORDS))
def test_the_words_of_0_2_0_are_read_as_todays(word):
    assert read(word).kind is drift_kind(word) is OLD_WORDS[word]
    assert word not in set(DriftKind)


def test_a_word_that_no_release_wrote_is_refused():
    with pytest.raises(DecodeError, match="kind"):
        read("weather")


def test_the_table_names_every_kind():
    assert all(kind in str(DRIFT.schema.field("kind").metadata) for kind in DriftKind)

"""What stands between two steps of a rollout: refusals that still count, versions, and a successor."""

import pytest

from model_service.rollout.observed import Observed, SentDocument
from model_service.rollout.rollout_record import RolloutPause
from model_service.rollout.transitions import Note, Withdraw, refusal, supersede, version_of, with_changes
from schemas.channel_documents import BROAD, CANARY
from tests.simulators.simulated_rollout import FACTORY, NEW, fleet, new_record


def sent(seq, state="refused", purpose="phase", detail="no", ring=BROAD):
    return SentDocument(seq, ring, purpose, 1, state, 0.0, detail)


def refused(*documents, handled=0, purpose="phase"):
    record = new_record(fleet(4)).model_copy(update={"handled_refusal": handled})
    return refusal(record, Observed(fleet(4), sent=documents), purpose)


def test_the_refusal_of_the_newest_document_counts_in_whatever_order_they_are_listed():
    assert refused(sent(3, "published"), sent(7, detail="too large")) == "seq 7 was refused: too large"
    assert refused(sent(7, detail="too large"), sent(3, "published")) == "seq 7 was refused: too large"
    assert refused(sent(3), sent(7, "published")) is None
    assert refused(sent(7, "proposed")) is None
    assert refused() is None


def test_a_withdrawn_document_hides_no_refusal_before_it():
    assert refused(sent(3), sent(7, "withdrawn")) == "seq 3 was refused: no"


def test_a_refusal_counts_for_documents_of_its_own_purpose():
    assert refused(sent(3), sent(7, "published", "rollback", ring=CANARY)) == "seq 3 was refused: no"
    assert refused(sent(3, "published"), sent(7, purpose="rollback")) is None
    assert refused(sent(3, "published"), sent(7, purpose="rollback"), purpose="rollback")


@pytest.mark.parametrize(("handled", "counts"), [(6, True), (7, False), (8, False)])
def test_a_refusal_that_a_person_resumed_after_counts_no_more(handled, counts):
    assert (refused(sent(7), handled=handled) is not None) is counts


def test_a_set_has_a_version_for_its_families_only():
    assert version_of({"machine": NEW, "pump": FACTORY}, "machine") == NEW.version
    assert version_of({"machine": NEW}, "pump") == ""


def test_a_superseded_rollout_no_longer_waits_and_withdraws_what_is_not_published():
    pause = RolloutPause(kind="person", reason="lunch", at=1.0)
    paused = with_changes(new_record(fleet(4)), state="paused", pause=pause)
    ended = supersede(paused, "line-2")
    assert (ended.record.state, ended.record.pause) == ("superseded", None)
    assert ended.record.ended_because == "superseded by line-2"
    assert ended.actions == (Withdraw(), Note("rollout_superseded", "superseded", {"by": "line-2"}))


def test_a_record_with_changes_is_checked():
    with pytest.raises(ValueError, match="state"):
        with_changes(new_record(fleet(4)), state="dancing")

"""Instructions: what a device is to run follows from its id alone."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from schemas.channel_documents import ChannelDocument, Release
from schemas.cohorts import EVERYBODY, NOBODY, SaltedShare, share_of

NOW = datetime(2026, 3, 1, tzinfo=UTC)
OLD = {"machine": Release(version="machine-0.00000000")}
NEW = {"machine": Release(version="machine-12.0123abcd", sha256="a" * 64)}
IDS = [f"device-{i}" for i in range(400)]


def channel(**changes) -> ChannelDocument:
    given = {
        "group": "default",
        "ring": "broad",
        "seq": 3,
        "rollout_id": "r1",
        "target": NEW,
        "baseline": OLD,
        "cohort": EVERYBODY,
        "issued": NOW,
        "expires": NOW + timedelta(days=1),
    }
    return ChannelDocument(**given | changes)


def test_a_share_holds_about_so_many_devices_and_a_larger_one_holds_them_all():
    quarter, half = (
        {d for d in IDS if SaltedShare(salt="s", share=share).includes(d)} for share in (0.25, 0.5)
    )
    assert quarter < half
    assert 60 < len(quarter) < 140


def test_another_salt_draws_other_devices():
    draws = [{d for d in IDS if share_of(d, salt) < 0.5} for salt in ("a", "b")]
    assert draws[0] != draws[1]


def test_everybody_is_everybody_and_nobody_is_nobody():
    assert all(EVERYBODY.includes(d) for d in IDS)
    assert not any(NOBODY.includes(d) for d in IDS)


def test_members_run_the_target_all_others_and_the_holdout_the_baseline():
    document = channel(cohort=SaltedShare(devices=("a", "b")), holdout=SaltedShare(devices=("b",)))
    assert [document.wanted(d) for d in ("a", "b", "c")] == [NEW, OLD, OLD]


def test_a_release_knows_its_number_in_the_family():
    assert NEW["machine"].major == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"baseline": {}},
        {"seq": 0},
        {"ring": "everyone"},
        {"issued": NOW.replace(tzinfo=None)},
        {"command": "rm -rf /"},
        {"group": "../default"},
    ],
)
def test_what_is_not_a_whole_instruction_is_refused(changes):
    with pytest.raises(ValidationError):
        channel(**changes)

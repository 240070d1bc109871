"""The guard evaluator signs what follows from raw reports and nothing else; one key alone moves nobody."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from model_service.registry.registry_tables import channel_requests, gate_verdicts, rollouts
from model_service.rollout import rollout_store
from model_service.trust import channel_targets
from model_service.trust.keys import load_online_key
from model_service.trust.online import OnlineSigner
from schemas.channel_documents import BROAD, BROAD_ROLE, Release
from schemas.cohorts import EVERYBODY, NOBODY
from schemas.errors import RetryableError
from tests.simulators.rollouts import FAMILY, GROUP, Service, proposed, quick_profile


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path)
    made.use(quick_profile(phases=(0.5, 1.0)))
    yield made
    made.registry.close()


def forge(service, **changes):
    """The engine, taken over, proposes another document under the same row."""
    request = service.requests()[-1]
    document = request.document.model_copy(update=changes)
    with service.registry.transaction() as connection:
        connection.execute(
            update(channel_requests)
            .where(channel_requests.c.id == request.id)
            .values(document=document.model_dump(mode="json"), seq=document.seq)
        )
    key = load_online_key(service.settings.keys / "engine", BROAD_ROLE)
    channel_targets.propose_broad(service.repo, document, key)
    return document


def rewrite(service, **changes):
    """The engine, taken over, writes another record."""
    record = service.rollout()
    changed = record.model_copy(update=changes)
    with service.registry.transaction() as connection:
        rollout_store.save(connection, changed, time.time())


def verdict(service):
    """What the guard does of the newest proposal: its state, and why."""
    service.guard().tick()
    newest = service.requests()[-1]
    return newest.state, newest.detail


def test_what_follows_from_the_reports_is_countersigned(service):
    proposed(service)
    assert verdict(service) == ("countersigned", "")
    service.engine().tick()
    assert service.repo.channels(GROUP)[BROAD].seq == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cohort": EVERYBODY}, "the cohort"),
        ({"holdout": EVERYBODY}, "the holdout"),
        ({"target": {FAMILY: Release(version="machine-7.00000007", sha256="7" * 64)}}, "is not published"),
        ({"target": {FAMILY: Release(version="machine-1.00000001", sha256="7" * 64)}}, "is not published"),
        ({"seq": 1}, "not above 1"),
        ({"reason": "security"}, "reason security"),
        ({"reason": "rollback", "cohort": EVERYBODY, "holdout": NOBODY}, "not aborting"),
        ({"baseline": {FAMILY: Release(version="machine-7.00000007", sha256="7" * 64)}}, "the baseline"),
        ({"rollout_id": "line-9"}, "no rollout"),
    ],
)
def test_a_forged_proposal_is_refused(service, changes, reason):
    proposed(service)
    forge(service, **changes)
    state, detail = verdict(service)
    assert state == "refused"
    assert reason in detail
    assert BROAD not in service.repo.channels(GROUP)


def test_a_cohort_of_ids_is_refused(service):
    names = proposed(service)
    cohort = service.requests()[-1].document.cohort
    forge(service, cohort=cohort.model_copy(update={"devices": tuple(names)}))
    assert "20 ids" in verdict(service)[1]


def test_a_record_that_was_rewritten_does_not_help_the_forger(service):
    proposed(service)
    rewrite(service, settings=service.rollout().settings.model_copy(update={"phases": (1.0,)}))
    forge(service, cohort=EVERYBODY.model_copy(update={"salt": service.rollout().salt}))
    assert "[rollout] changed" in verdict(service)[1]


def test_an_invented_waiver_is_no_approvers_word(service):
    service.use(quick_profile(min_devices=25))
    names = service.join(20)
    service.sign(1)
    engine = service.engine()
    for _ in range(6):
        engine.tick()
        service.obey(names)
    assert service.rollout().pause.kind == "not_shown"
    rewrite(service, state="running", pause=None, waived=(0,))
    service.engine().tick()
    state, detail = verdict(service)
    assert state == "refused"
    assert "not shown" in detail


def test_a_phase_whose_devices_failed_is_not_passed_whatever_the_engine_says(service):
    names = service.join(20)
    service.sign(1)
    engine = service.engine()
    engine.tick()
    channel = service.in_force(names[0])
    for device in names:
        if channel.wanted(device)[FAMILY].major:
            service.report(device, channel, "restored", "restored")
    record = service.rollout().model_copy(update={"phase": 1})
    from model_service.rollout.transitions import Propose

    wanted = Propose(BROAD, "phase", 1, record.target, record.cohort(1), NOBODY, "normal")
    with service.registry.transaction() as connection:
        rollout_store.apply(connection, record, [wanted], time.time(), 1e6, 1)
    service.engine().announcer.step()
    state, detail = verdict(service)
    assert state == "refused"
    assert "failed" in detail


def test_a_soak_that_is_not_over_waits_and_is_signed_later(service):
    proposed(service)
    soaking = quick_profile(phases=(0.5, 1.0), soak_s=1000.0)
    service.use(soaking)
    rewrite(service, settings=soaking.rollout)
    assert verdict(service) == ("proposed", "")


def test_a_candidate_that_failed_a_gate_is_refused(service):
    proposed(service)
    with service.registry.transaction() as connection:
        connection.execute(update(gate_verdicts).values(passed=False))
    assert "did not pass quality" in verdict(service)[1]


def test_a_candidate_without_any_verdict_is_refused(service):
    names = service.join(20)
    service.sign(1, gates=False)
    engine = service.engine()
    for _ in range(6):
        engine.tick()
        service.obey(names)
    assert "no gate's verdict" in verdict(service)[1]


def test_a_refusal_pauses_the_rollout_with_its_reason(service):
    proposed(service)
    forge(service, holdout=EVERYBODY)
    verdict(service)
    service.engine().tick()
    record = service.rollout()
    assert (record.state, record.pause.kind) == ("paused", "refused")
    assert "the holdout" in record.pause.reason


def test_the_engines_key_alone_publishes_nothing(service):
    proposed(service)
    request = service.requests()[-1]
    with service.registry.transaction() as connection:
        rollout_store.mark(connection, request, "countersigned", time.time())
    with pytest.raises(RetryableError):
        channel_targets.publish_broad(service.repo, GROUP, OnlineSigner.load(service.settings))
    engine = service.engine()
    engine.tick()
    assert BROAD not in service.repo.channels(GROUP)
    assert service.requests()[-1].state == "proposed"


def test_a_seq_below_one_that_devices_saw_is_never_given_again_even_to_an_emptied_registry(service):
    proposed(service)
    service.guard().tick()
    service.engine().tick()
    with service.registry.transaction() as connection:
        connection.execute(channel_requests.delete())
        connection.execute(rollouts.delete())
    service.sign(2)
    service.engine().tick()
    assert service.requests()[0].document.seq == 3


def test_documents_end(service):
    proposed(service)
    document = service.requests()[0].document
    assert document.expires - document.issued == timedelta(seconds=service.settings.channel_s)
    assert document.issued <= datetime.now(UTC)
    assert json.loads(document.model_dump_json())["group"] == GROUP


def test_a_document_that_would_live_for_ever_is_refused(service):
    proposed(service)
    document = service.requests()[-1].document
    forge(service, expires=document.expires + timedelta(days=365))
    assert "would live" in verdict(service)[1]
